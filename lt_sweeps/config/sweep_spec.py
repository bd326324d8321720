"""`SweepSpec`: what a config's own `hydra.sweeper` asks for, as command lines."""

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

    `params` are the swept keys. `variants` are sweeps side by side, each on top of `params`.
    `defaults_for` holds, by group and option, the keys that go with an option; `model,method` are
    the keys that go with a combination of two.
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
        """The command lines that `words` stand for: one for each variant and option with defaults.

        Raises: ValueError: an option without defaults, where the others need some.
        """
        variants = [variant for variant in self.variants.values() if variant is not None] or [{}]
        for variant in variants:
            params = {key: value for key, value in self.params.items() if key not in variant}
            lines = [[*_added({**params, **variant}, words), *words]]
            # A combination says more than its parts, so it comes first: what is there is not set.
            for group in sorted(self.defaults_for, key=lambda group: -group.count(",")):
                lines = [new for line in lines for new in self._completed(composer, line, group)]
            yield from lines

    def _completed(self, composer: Composer, line: list[str], group: str) -> Iterator[list[str]]:
        """A line for each of its options of a group, or of several, with what goes with it."""
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
    """Raises: ValueError: it is no mapping, of mappings to this depth; the deepest may be null."""
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
    """An option that an experiment does not define needs the keys that all defined ones set."""
    # A model that nobody thought of would otherwise be trained on the data and by the recipe that
    # the config happens to hold: VGG-16 on MNIST, without a word.
    defined = {name: keys for name, keys in defaults.items() if keys}
    there = {key_of(word) for word in line}
    missing = [
        key
        for key in next(iter(defined.values()), {})
        if key not in there and all(keys.get(key) is not None for keys in defined.values())
    ]
    if missing:
        lacks, given = " and ".join(missing), " and ".join(f"{key}=" for key in missing)
        raise ValueError(
            f"experiment {experiment} defines no {lacks} for {group}={option}: give {given}; it "
            f"defines {listed(defined)}"
        )


def _added(defaults: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Defaults as overrides, without those that are null or that `overrides` set themselves.

    A default `dataset.normalize` beside a default `dataset` goes with that option, and with no
    other that `overrides` choose instead. A default `model.init` goes with every net: it is what
    an experiment asks of those that `overrides` choose.
    """
    keys = {key_of(override) for override in overrides}
    replaced = (keys & defaults.keys()) - {"model"}
    return [
        f"{key}={','.join(map(_text, value)) if isinstance(value, list) else _text(value)}"
        for key, value in defaults.items()
        if value is not None and key not in keys and key.split(".")[0] not in replaced
    ]


def _text(value: Any) -> str:
    """A value in the grammar of overrides; a string is taken as it is."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)
