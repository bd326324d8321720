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

from lt_sweeps.config.composition import Axis, choices_of, compose, plain

EXPERIMENT = "experiment"
REPORT = "report"


@dataclass(frozen=True)
class Cell:
    """One point of a multirun: a full config with one seed."""

    config: dict[str, Any]  # resolved, without Hydra's own part
    choices: dict[str, str]  # group -> the option chosen
    overrides: tuple[str, ...]  # the words that tell it from its neighbours
    report: Mapping[str, Any] = field(default_factory=dict)  # how it is drawn; no part of it


@dataclass(frozen=True)
class SweepSpec:
    """What a config's own `hydra.sweeper` asks for, each under the words of the command line.

    `params` is a word by key. `arms` are multiruns of their own, one list of words each: what no
    product of axes can say. `companions` are the words that go with an option, by group and option:
    the data set and the recipe of a model.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    arms: Sequence[Sequence[str]] = ()
    companions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, master: DictConfig) -> SweepSpec:
        sweeper = master.hydra.sweeper
        given = {key: sweeper.get(key) for key in ("params", "arms", "companions")}
        return cls(**{key: value for key, value in given.items() if value is not None})

    def lines(self, words: Sequence[str]) -> list[list[str]]:
        """The command lines that `words` stand for; what they say themselves is left as it is."""
        given = {_key(word) for word in words}
        base = [f"{k}={v}" for k, v in self.params.items() if v is not None and k not in given]
        arms = [[word for word in arm if _key(word) not in given] for arm in self.arms] or [[]]
        lines = []
        for arm in arms:
            mine = {_key(word) for word in arm}
            lines.append([*(word for word in base if _key(word) not in mine), *arm, *words])
        return lines


def multirun(
    loader: ConfigLoader, master: DictConfig, swept: SweepSpec, words: Sequence[str]
) -> list[Cell]:
    """The cells of a command line, in the order of its words, the last key fastest.

    Experiments given as a list each bring their own sweep.
    """
    experiments = _options(loader, master, words, EXPERIMENT)
    if len(experiments) > 1:
        others = [word for word in words if _key(word) != EXPERIMENT]
        cells: list[Cell] = []
        for word in experiments:
            own = _master(loader, master, word)
            cells += multirun(loader, own, SweepSpec.of(own), [word, *others])
        return cells
    return [
        _cell(config, choices, found)
        for line in swept.lines(words)
        for accompanied in _accompanied(loader, master, swept, line)
        for found, config, choices in compose(loader, master, _axes(loader, master, accompanied))
    ]


def _accompanied(
    loader: ConfigLoader, master: DictConfig, swept: SweepSpec, line: Sequence[str]
) -> list[list[str]]:
    """A command line with the companions of its options, one for each option that has some."""
    lines = [list(line)]
    for group, companions in swept.companions.items():
        lines = [
            found for each in lines for found in _with(companions, group, each, loader, master)
        ]
    return lines


def _with(
    companions: Mapping[str, Sequence[str]],
    group: str,
    line: Sequence[str],
    loader: ConfigLoader,
    master: DictConfig,
) -> list[list[str]]:
    given, found = {_key(word) for word in line}, []
    for option in _options(loader, master, line, group):
        beside = companions.get(option.split("=", 1)[1], ())
        others = [word for word in line if _key(word) != group]
        found.append([option, *(w for w in beside if _key(w) not in given), *others])
    return found or [list(line)]


def _options(
    loader: ConfigLoader, master: DictConfig, words: Sequence[str], group: str
) -> tuple[str, ...]:
    """A word for each option of a group that `words` choose; none if they do not choose."""
    chosen = [word for word in words if _key(word) == group]
    return _axes(loader, master, chosen)[0].words if chosen else ()


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
