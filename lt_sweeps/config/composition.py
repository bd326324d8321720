"""Composed configs for every combination of overrides, at the price of a few composes.

Hydra takes 50 to 100 ms for a compose. Cells that differ only in plain values (`seed=3`) share
one. Options of different groups are composed one group at a time, and the results are combined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lt_sweeps.config.overrides import Axis, axes_of, key_of

ComposedCell = tuple[tuple[str, ...], dict[str, Any], dict[str, str]]
"""A combination of overrides, its config and its choices."""


@dataclass(frozen=True)
class Composer:
    """Composes command lines: Hydra's loader, with the config that a multirun starts from."""

    loader: ConfigLoader
    master: DictConfig

    @property
    def groups(self) -> Mapping[str, str]:
        return self.master.hydra.runtime.choices

    @property
    def experiment(self) -> str:
        """The experiment that the config is of, or the name of the config itself."""
        return self.groups.get("experiment") or self.master.hydra.job.config_name

    def axes(self, words: Sequence[str]) -> list[Axis]:
        return axes_of(words, self.loader, set(self.groups))

    def options(self, words: Sequence[str], group: str) -> tuple[str, ...]:
        """An override for each option of a group that `words` choose; none if they choose none."""
        chosen = [word for word in words if key_of(word) == group]
        return self.axes(chosen)[0].words if chosen else ()

    def cells(self, words: Sequence[str]) -> Iterator[ComposedCell]:
        """For each combination of the overrides in `words`: the overrides, config and choices."""
        # Hydra keeps the order of overrides, which counts where one key lies inside another.
        axes = self.axes(words)
        fast = [a for a in axes if a.values is not None and not any(map(a.overlaps, axes))]
        slow = [axis for axis in axes if axis not in fast]
        values = {w: v for a in fast for w, v in zip(a.words, a.values or (), strict=True)}
        first = {a.key: values[a.words[0]] for a in fast}
        made = {}
        for options, config in _combined(slow, cache(partial(self._composed, setting=first))):
            for added in product(*(axis.words for axis in fast)):
                setting = {a.key: values[word] for a, word in zip(fast, added, strict=True)}
                made[frozenset((*options, *added))] = config.cell(setting)
        for combination in product(*(axis.words for axis in axes)):
            yield combination, *made[frozenset(combination)]

    def begun_with(self, word: str) -> Composer:
        """The same for the config that a multirun of one experiment would start from."""
        words = [*self.master.hydra.overrides.hydra, word]
        name = self.master.hydra.job.config_name
        master = self.loader.load_configuration(name, words, RunMode.MULTIRUN)
        return Composer(self.loader, master)

    def _composed(self, words: tuple[str, ...], setting: Mapping[str, Any]) -> _Composed:
        config = self.loader.load_sweep_config(self.master, list(words))
        HydraConfig.instance().set_config(config)
        choices = choices_of(config.hydra)
        with read_write(config), open_dict(config):
            del config["hydra"]
        for key, value in setting.items():
            OmegaConf.update(config, key, value, merge=True)  # raises for an unknown key
        refers = "${" in f"{OmegaConf.to_container(config)}"
        parts = {("config", key): value for key, value in resolved(config).items()}
        return _Composed(
            parts | {("choices", key): value for key, value in choices.items()},
            config if refers else None,
            HydraConfig.instance().cfg if refers else None,
        )


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config with its references resolved, as plain Python."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def choices_of(hydra: DictConfig) -> dict[str, str]:
    """Group -> option, without Hydra's own groups and without groups that have no option."""
    chosen = OmegaConf.to_container(hydra.runtime.choices)
    assert isinstance(chosen, dict)
    return {
        str(group): option
        for group, option in chosen.items()
        if isinstance(option, str) and not str(group).startswith("hydra/")
    }


@dataclass(frozen=True)
class _Composed:
    """What Hydra composed, in parts: `("config", "seed"): 0`, `("choices", "model"): "fc"`."""

    parts: dict[tuple[str, str], Any]
    job: DictConfig | None  # the config, if values refer to one another: resolved for each cell
    hydra: Any  # what `${hydra:...}` reads

    def differing(self, other: _Composed) -> set[tuple[str, str]]:
        """The parts in which two configs differ; 1 and 1.0 are different."""
        one, two = ({k: repr(v) for k, v in c.parts.items()} for c in (self, other))
        return {part for part in one.keys() | two.keys() if one.get(part) != two.get(part)}

    def cell(self, setting: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Config and choices with these values set."""
        choices = {key: value for (kind, key), value in self.parts.items() if kind == "choices"}
        if self.job is not None:
            HydraConfig.instance().cfg = self.hydra
            for key, value in setting.items():
                OmegaConf.update(self.job, key, value, merge=True)
            return resolved(self.job), choices
        # OmegaConf takes 2 ms for this, plain Python 50 us.
        config = {key: deepcopy(v) for (kind, key), v in self.parts.items() if kind == "config"}
        for key, value in setting.items():
            _set(config, key, value)
        return config, choices


def _combined(
    axes: Sequence[Axis], compose: Callable[[tuple[str, ...]], _Composed]
) -> Iterator[tuple[tuple[str, ...], _Composed]]:
    """Each combination of the axes' overrides, composed.

    Nine criteria by five recipes take 13 composes instead of 45.
    """
    # A config is cut into parts: its top keys and its choices. For each axis, every option is
    # composed once, with the first option of all other axes. The parts in which these configs
    # differ belong to that axis: `mask_criterion` changes the part of that name and its choice,
    # nothing else. If each part belongs to one axis at most, then a combination is the first
    # config, with the parts of each axis taken from the compose of that axis' option.
    #
    # That is wrong in two cases, in which Hydra composes every combination. Axes meet: two of them
    # change one part, such as two options that both set `recipe`; which of them wins is for Hydra
    # to say. Values refer: `${recipe.lr}` in one part reads another part, which differs by
    # combination; so parts cannot be resolved apart from one another.
    first = tuple(axis.words[0] for axis in axes)
    alone = [
        {word: compose((*first[:i], word, *first[i + 1 :])) for word in axis.words}
        for i, axis in enumerate(axes)
    ]
    base = compose(first)
    changed = [set().union(*map(base.differing, options.values())) for options in alone]
    all_changed = set().union(*changed)
    meet = len(all_changed) < sum(map(len, changed))
    refer = any(config.job is not None for options in alone for config in options.values())
    for words in product(*(axis.words for axis in axes)):
        if meet or refer:
            yield words, compose(words)
        else:
            parts = {part: v for part, v in base.parts.items() if part not in all_changed}
            for options, word, own in zip(alone, words, changed, strict=True):
                parts |= {part: v for part, v in options[word].parts.items() if part in own}
            yield words, _Composed(parts, None, None)


def _set(config: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config[int(name) if isinstance(config, list) else name]
    config[int(last) if isinstance(config, list) else last] = deepcopy(value)
