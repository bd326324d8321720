"""Compose the configs of all combinations of overrides with only a few calls of Hydra.

Hydra takes 50 to 100 ms to compose a config. Cells that differ only in plain values (`seed=3`)
share one composed config. Options of different groups are composed one group at a time, and the
results are combined. All composes of a command share what was read from each yaml file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lt_sweeps.config.overrides import Axis, axes_of, key_of

ComposedCell = tuple[tuple[str, ...], dict[str, Any], dict[str, str]]
"""A combination of overrides, its config and its choices."""


@dataclass(frozen=True)
class Composer:
    """Composes command lines, with Hydra's loader and the config that a multirun starts from."""

    loader: ConfigLoader
    master: DictConfig

    def __post_init__(self) -> None:
        loader: Any = self.loader
        if type(loader.repository) is ConfigRepository:
            loader.repository = _ReadOnce(loader.repository)

    @property
    def groups(self) -> Mapping[str, str]:
        return self.master.hydra.runtime.choices

    @property
    def experiment(self) -> str:
        """The chosen experiment, or the name of the config if no experiment is chosen."""
        return self.groups.get("experiment") or self.master.hydra.job.config_name

    def axes(self, words: Sequence[str]) -> list[Axis]:
        return axes_of(words, self.loader, set(self.groups))

    def options(self, words: Sequence[str], group: str) -> tuple[str, ...]:
        """Return an override for each option of `group` that `words` choose, if any."""
        chosen = [word for word in words if key_of(word) == group]
        return self.axes(chosen)[0].words if chosen else ()

    def cells(self, words: Sequence[str]) -> Iterator[ComposedCell]:
        """Yield overrides, config and choices for each combination of the overrides in `words`."""
        # Hydra applies overrides in order, which matters if one key is inside another.
        axes = self.axes(words)
        fast = [a for a in axes if a.values is not None and not any(map(a.overlaps, axes))]
        slow = [axis for axis in axes if axis not in fast]
        values = {w: v for a in fast for w, v in zip(a.words, a.values or (), strict=True)}
        first = {a.key: values[a.words[0]] for a in fast}
        composed_cells = {}
        for options, config in _combined(slow, cache(partial(self._composed, setting=first))):
            for added in product(*(axis.words for axis in fast)):
                setting = {a.key: values[word] for a, word in zip(fast, added, strict=True)}
                composed_cells[frozenset((*options, *added))] = config.cell(setting)
        for combination in product(*(axis.words for axis in axes)):
            yield combination, *composed_cells[frozenset(combination)]

    def begun_with(self, word: str) -> Composer:
        """Return a composer with the config that a multirun of one experiment would start from."""
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


class _ReadOnce(ConfigRepository):
    """Parses each file once. Hydra parses all files again for each compose, half of its time."""

    def __init__(self, repository: ConfigRepository) -> None:
        self.sources = repository.sources
        self._parsed: dict[tuple[tuple[str, ...], str], ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        folders = tuple(f"{source.scheme()}{source.path}" for source in self.sources)
        if (folders, config_path) not in self._parsed:
            self._parsed[folders, config_path] = super().load_config(config_path)
        return deepcopy(self._parsed[folders, config_path])  # Hydra changes what it is given

    def __deepcopy__(self, _: object) -> _ReadOnce:
        # Each compose takes a copy, to which `hydra.searchpath` may add folders.
        copied = copy(self)
        copied.sources = [*self.sources]
        return copied


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain Python, with its references resolved."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def choices_of(hydra: DictConfig) -> dict[str, str]:
    """Return group -> option, without Hydra's own groups and without groups that have no option.

    Raises: ValueError: an option is written as a path, which would be a second name for it.
    """
    chosen = OmegaConf.to_container(hydra.runtime.choices)
    assert isinstance(chosen, dict)
    for group, option in chosen.items():
        name = posixpath.normpath(str(option)).lstrip("/").removesuffix(".yaml")
        if isinstance(option, str) and option != name:
            raise ValueError(f"{group}: got {option}; write {group}={name}")
    return {
        str(group): option
        for group, option in chosen.items()
        if isinstance(option, str) and not str(group).startswith("hydra/")
    }


@dataclass(frozen=True)
class _Composed:
    """A composed config, in parts: `("config", "seed"): 0`, `("choices", "model"): "fc"`."""

    parts: dict[tuple[str, str], Any]
    job: DictConfig | None  # the config if it has references, which each cell resolves
    hydra: Any  # what `${hydra:...}` reads

    def differing(self, other: _Composed) -> set[tuple[str, str]]:
        """Return the parts in which two configs differ; 1 and 1.0 count as different."""
        one, two = ({k: repr(v) for k, v in c.parts.items()} for c in (self, other))
        return {part for part in one.keys() | two.keys() if one.get(part) != two.get(part)}

    def cell(self, setting: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return config and choices with these values set."""
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
    """Yield each combination of the axes' overrides with its composed config.

    Nine criteria by five recipes take 13 composes instead of 45.
    """
    # A config is cut into parts: its top-level keys and its choices. For each axis, every option is
    # composed once, with the first option of all other axes. The parts in which these configs
    # differ belong to that axis: `mask_criterion` changes the part of that name and its choice,
    # nothing else. If each part belongs to at most one axis, a combination is the first config,
    # with the parts of each axis taken from the config composed for that axis' option.
    #
    # This fails in two cases, in which Hydra composes every combination instead. `meet`: two axes
    # change the same part, such as two options that both set `recipe`; only Hydra can decide which
    # of them wins. `refer`: a value such as `${recipe.lr}` in one part reads another part, which
    # differs by combination, so the parts cannot be resolved separately.
    first = tuple(axis.words[0] for axis in axes)
    by_option = [
        {word: compose((*first[:i], word, *first[i + 1 :])) for word in axis.words}
        for i, axis in enumerate(axes)
    ]
    base = compose(first)
    changed = [set().union(*map(base.differing, options.values())) for options in by_option]
    all_changed = set().union(*changed)
    meet = len(all_changed) < sum(map(len, changed))
    refer = any(config.job is not None for options in by_option for config in options.values())
    for words in product(*(axis.words for axis in axes)):
        if meet or refer:
            yield words, compose(words)
        else:
            parts = {part: v for part, v in base.parts.items() if part not in all_changed}
            for options, word, own in zip(by_option, words, changed, strict=True):
                parts |= {part: v for part, v in options[word].parts.items() if part in own}
            yield words, _Composed(parts, None, None)


def _set(config: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config[int(name) if isinstance(config, list) else name]
    config[int(last) if isinstance(config, list) else last] = deepcopy(value)
