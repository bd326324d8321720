"""A multirun as cells: every combination of the values that its words list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig

from lt_sweeps.composing import Axis, choices_of, compose, plain

EXPERIMENT = "experiment"
REPORT = "report"


@dataclass(frozen=True)
class Cell:
    """One point of a multirun: a full config with one seed."""

    config: dict[str, Any]  # resolved, without Hydra's own part
    choices: dict[str, str]  # group -> the option chosen
    overrides: tuple[str, ...]  # the words that tell it from its neighbours
    report: Mapping[str, Any] = field(default_factory=dict)  # how it is drawn; no part of it


def multirun(
    loader: ConfigLoader, master: DictConfig, params: Mapping[str, Any], words: Sequence[str]
) -> list[Cell]:
    """The cells of a command line, in the order of its words, the last key fastest.

    `params` is the sweep of the config (`hydra.sweeper.params`); a word of the same key replaces
    it. Experiments given as a list each bring their own.
    """
    axes = _axes(loader, master, [*_words(params, words), *words])
    experiments = [axis for axis in axes if axis.key == EXPERIMENT and len(axis.words) > 1]
    if not experiments:
        found = compose(loader, master, axes)
        return [_cell(config, choices, words) for words, config, choices in found]
    others = [word for word in words if _key(word) != EXPERIMENT]
    cells: list[Cell] = []
    for word in experiments[0].words:
        own = _master(loader, master, word)
        cells += multirun(loader, own, own.hydra.sweeper.params, [word, *others])
    return cells


def from_config(config: DictConfig, hydra: DictConfig) -> Cell:
    """The cell of a job that Hydra itself composed."""
    return _cell(plain(config), choices_of(hydra), tuple(hydra.overrides.task))


def _cell(config: dict[str, Any], choices: dict[str, str], words: Sequence[str]) -> Cell:
    asked = {key: value for key, value in config.items() if key != REPORT}
    return Cell(asked, choices, tuple(words), config.get(REPORT) or {})


def _master(loader: ConfigLoader, master: DictConfig, word: str) -> DictConfig:
    """The config that a multirun of one experiment would start from."""
    words = [*master.hydra.overrides.hydra, word]
    return loader.load_configuration(master.hydra.job.config_name, words, RunMode.MULTIRUN)


def _words(params: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    given = {_key(word) for word in words}
    kept = {key: value for key, value in params.items() if value is not None and key not in given}
    return [f"{key}={value}" for key, value in kept.items()]


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _axes(loader: ConfigLoader, master: DictConfig, words: Sequence[str]) -> list[Axis]:
    """The words by key; the later of two with the same key stays, as everywhere in Hydra."""
    groups = set(master.hydra.runtime.choices)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    return list({word.get_key_element(): _axis(word, groups) for word in parsed}.values())


def _axis(override: Override, groups: set[str]) -> Axis:
    element = override.get_key_element()
    key = _key(element)
    if not override.is_sweep_override():
        assert override.input_line is not None
        return Axis(key, (override.input_line,), None)
    words = tuple(f"{element}={value}" for value in _values(override, key))
    values = tuple(OverridesParser.create().parse_override(word).value() for word in words)
    group = key in groups or "/" in key or "@" in key
    settable = override.type is OverrideType.CHANGE and not group and "[" not in key
    return Axis(key, words, values if settable and all(map(_simple, values)) else None)


def _simple(value: Any) -> bool:
    """Whether a value stands for itself: no reference, not missing, nothing to be merged."""
    return not isinstance(value, dict) and "${" not in str(value) and "???" not in str(value)


def _values(override: Override, key: str) -> list[str]:
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{key}: {override.get_value_string()} has no end; list its values as a,b,c or range(n)"
        )
    values = list(override.sweep_string_iterator())
    if not values:
        raise ValueError(f"{key}: {override.get_value_string()} holds no value; give at least one")
    for value in values:
        if values.count(value) > 1:
            noun = "seed" if key == "seed" else "value"
            raise ValueError(f"{key}: {value} given twice; each {noun} once")
    return values
