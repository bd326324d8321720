"""`SweepSpec`: the sweep that a config defines in its `hydra.sweeper`, as command lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lt_sweeps.config.composition import Composer
from lt_sweeps.config.overrides import key_of
from lt_sweeps.config.spelling import listed, unknown


@dataclass(frozen=True)
class SweepSpec:
    """The keys of `hydra.sweeper`; `conf/hydra/sweeper/cells.yaml` explains them.

    `params` are the swept keys. Each of the `variants` is a sweep of its own, on top of `params`.
    `defaults_for` has, by group and option, the keys that are set together with an option; under
    `model,method` it has the keys for a combination of two options.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    defaults_for: Mapping[str, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, master: DictConfig) -> SweepSpec:
        sweeper = OmegaConf.to_container(master.hydra.sweeper)
        assert isinstance(sweeper, dict)
        keys = cls.__dataclass_fields__
        if wrong := sorted(map(str, sweeper.keys() - keys.keys() - {"_target_"})):
            raise ValueError(unknown("hydra.sweeper", wrong[0], keys, what="keys"))
        spec = {key: sweeper.get(key) or {} for key in keys}
        for key, depth in (("params", 0), ("variants", 1), ("defaults_for", 2)):
            _check_mapping(f"hydra.sweeper.{key}", spec[key], depth)
        return cls(**spec)

    def command_lines(self, composer: Composer, words: Sequence[str]) -> Iterator[list[str]]:
        """Yield the command lines that `words` stand for: one per variant and option with defaults.

        Raises: ValueError: an option has no defaults, but all options with defaults set a key.
        """
        variants = [variant for variant in self.variants.values() if variant is not None] or [{}]
        for variant in variants:
            params = {key: value for key, value in self.params.items() if key not in variant}
            lines = [[*_added({**params, **variant}, words), *words]]
            # Defaults of a combination come first: a key that is already set is not set again.
            for group in sorted(self.defaults_for, key=lambda group: -group.count(",")):
                lines = [new for line in lines for new in self._completed(composer, line, group)]
            yield from lines

    def _completed(self, composer: Composer, line: list[str], group: str) -> Iterator[list[str]]:
        """Yield a line for each chosen option of a group (or combination), with its defaults."""
        groups, defaults = group.split(","), self.defaults_for[group]
        others = [word for word in line if key_of(word) not in groups]
        axes = [composer.options(line, name) for name in groups]
        for words in product(*axes):
            option = ",".join(word.split("=", 1)[1] for word in words)
            own = defaults.get(option)
            if len(groups) == 1 and not own:
                _check_known(composer.experiment, group, option, defaults, line)
            yield [*words, *_added(own or {}, line), *others]
        if not all(axes):
            yield line


def _check_mapping(key: str, value: Any, depth: int) -> None:
    """Raises: ValueError: it is not a mapping, nested to this depth; the innermost may be null."""
    if not isinstance(value, dict):
        raise ValueError(f"{key}: got {value!r}; give a mapping")
    for name, inner in value.items() if depth else ():
        if inner is not None or depth > 1:
            _check_mapping(f"{key}.{name}", inner, depth - 1)


def _check_known(
    experiment: str,
    group: str,
    option: str,
    defaults: Mapping[str, Mapping[str, Any] | None],
    line: Sequence[str],
) -> None:
    """For an option without defaults, require the keys that all options with defaults set.

    A key below the group itself (`model.net.blocks`) describes one option, so no other needs it.
    """
    # Otherwise a model that the experiment does not define would silently be trained with the data
    # and the recipe that the config happens to have: VGG-16 on MNIST.
    defined = {name: keys for name, keys in defaults.items() if keys}
    there = {key_of(word) for word in line}
    missing = [
        key
        for key in next(iter(defined.values()), {})
        if not key.startswith(f"{group}.") and key not in there
        if all(keys.get(key) is not None for keys in defined.values())
    ]
    if missing:
        lacks, given = " and ".join(missing), " and ".join(f"{key}=" for key in missing)
        raise ValueError(
            f"experiment {experiment} defines no {lacks} for {group}={option}: give {given}; it "
            f"defines {listed(defined)}"
        )


def _added(defaults: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Return defaults as overrides, without those that are null or that `overrides` already set.

    A default `dataset.normalize` next to a default `dataset` belongs to that option, so it is
    dropped if `overrides` choose another. A default `model.init` applies to every net, also to nets
    that `overrides` choose.
    """
    keys = {key_of(override) for override in overrides}
    replaced = (keys & defaults.keys()) - {"model"}
    return [
        f"{key}={','.join(map(_text, value)) if isinstance(value, list) else _text(value)}"
        for key, value in defaults.items()
        if value is not None and key not in keys and key.split(".")[0] not in replaced
    ]


def _text(value: Any) -> str:
    """Format a value in the grammar of overrides; a string is left unchanged."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)
