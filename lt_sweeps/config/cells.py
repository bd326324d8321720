"""A multirun as cells: every combination of the values that its overrides list."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lt_sweeps.config.call import Config
from lt_sweeps.config.composition import Axis, ComposedCell, choices_of, compose_cells, resolved
from lt_sweeps.config.errors import unknown
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.published_curves import with_files
from lt_sweeps.config.report_config import named_figures
from lt_sweeps.config.taken_options import check_targets, group_of, has_key, untaken

EXPERIMENT = "experiment"
REPORT = "report"


@dataclass(frozen=True)
class Cell:
    """One point of a multirun: a full config with one seed."""

    config: Config  # resolved, without Hydra's own part
    choices: Mapping[str, str | None]  # group -> the option chosen, or None if it does not count
    overrides: tuple[str, ...]  # those of the multirun in which it differs from other cells
    report: Mapping[str, Any] = field(default_factory=dict)  # how it is drawn; in no stage key
    untaken: tuple[str, ...] = ()  # keys given for the whole multirun that this cell does not take


@dataclass(frozen=True)
class SweepSpec:
    """What a config's own `hydra.sweeper` asks for; `conf/hydra/sweeper/cells.yaml` explains it.

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

    def lines(self, overrides: Sequence[str]) -> list[list[str]]:
        """The command lines that `overrides` stand for, one for each variant."""
        variants = [variant for variant in self.variants.values() if variant is not None] or [{}]
        lines = []
        for variant in variants:
            params = {key: value for key, value in self.params.items() if key not in variant}
            lines.append([*_added({**params, **variant}, overrides), *overrides])
        return lines


def _check_mapping(key: str, value: Any, depth: int) -> None:
    """Raises: ValueError: it is no mapping, of mappings to this depth; the deepest may be null."""
    if not isinstance(value, dict):
        raise ValueError(f"{key}: got {value!r}; give a mapping")
    for name, inner in value.items() if depth else ():
        if inner is not None or depth > 1:
            _check_mapping(f"{key}.{name}", inner, depth - 1)


def multirun(
    loader: ConfigLoader, master: DictConfig, spec: SweepSpec, words: Sequence[str]
) -> list[Cell]:
    """The cells of a command line, in the order of its overrides, the last key fastest.

    Each of several experiments brings its own sweep. Where options of a group are mixed, a key of
    the group is laid over those that take it; `refuse_untaken` is for the caller.
    """
    experiments = _options(loader, master, words, EXPERIMENT)
    others = [word for word in words if _key(word) != EXPERIMENT]
    cells: list[Cell] = []
    for word in experiments if len(experiments) > 1 else ():
        own = _master(loader, master, word)
        cells += _cells(loader, own, SweepSpec.of(own), [word, *others])
    return cells or _cells(loader, master, spec, words)


def _cells(
    loader: ConfigLoader, master: DictConfig, spec: SweepSpec, words: Sequence[str]
) -> list[Cell]:
    """The cells of one experiment."""
    keys = [_key(word) for word in words if word[0] != "~"]
    frozen = cache(partial(_frozen_report, config_dirs=_config_dirs(master.hydra)))
    return [
        _cell(config, choices, overrides, keys, frozen)
        for line in spec.lines(words)
        for full in _with_defaults(loader, master, spec, line)
        for overrides, config, choices in _composed(loader, master, words, full)
    ]


def _composed(
    loader: ConfigLoader, master: DictConfig, words: Sequence[str], line: Sequence[str]
) -> Iterator[ComposedCell]:
    """The cells of one line, with the keys of `words` laid over the options that have them.

    Hydra refuses a key that only some of the options have. Each option is then composed by itself.
    """
    try:
        return iter(list(compose_cells(loader, master, _axes(loader, master, line))))
    except (HydraException, OmegaConfBaseException):
        plain = {_key(word) for word in words if word[0] not in "+~"}
        parts = list(_by_option(loader, master, line, plain))
        if all(len(part) == len(line) for part in parts):
            raise
        axes = (_axes(loader, master, part) for part in parts)
        return chain.from_iterable(compose_cells(loader, master, each) for each in axes)


def _by_option(
    loader: ConfigLoader, master: DictConfig, line: Sequence[str], shared: Collection[str]
) -> Iterator[list[str]]:
    """A line for each combination of options, without those of the shared keys that they lack."""
    keys = [key for key in map(_key, line) if key in shared and "." in key and group_of(key)]
    groups = dict.fromkeys(map(group_of, keys))
    chosen = [_options(loader, master, line, str(group)) for group in groups]
    for options in product(*filter(None, chosen)):
        taken = set(map(_key, options))
        rest = [word for word in line if _key(word) not in taken]
        others = [_options(loader, master, rest, key)[:1] for key in dict.fromkeys(map(_key, rest))]
        words = [*options, *(w for word in others for w in word if _chooses(master, w))]
        _, config, _ = next(compose_cells(loader, master, _axes(loader, master, words)))
        lacking = [key for key in keys if not has_key(config, key)]
        yield [*options, *(word for word in rest if _key(word) not in lacking)]


def _with_defaults(
    loader: ConfigLoader, master: DictConfig, spec: SweepSpec, line: Sequence[str]
) -> list[list[str]]:
    """A command line with the defaults of its options: one line for each option.

    Raises: ValueError: an option without defaults, where the others need some.
    """
    lines = [list(line)]
    # A combination says more than its parts, so it comes first: what a line has is not set again.
    for group, defaults in sorted(spec.defaults_for.items(), key=lambda item: -item[0].count(",")):
        groups = group.split(",")
        completed: list[list[str]] = []
        for line in lines:
            others = [override for override in line if _key(override) not in groups]
            axes = [_options(loader, master, line, name) for name in groups]
            for words in product(*axes):
                option = ",".join(word.split("=", 1)[1] for word in words)
                added = _added(defaults.get(option) or {}, line)
                if len(groups) == 1 and not defaults.get(option):
                    _check_known(master, group, option, defaults, line)
                completed.append([*words, *added, *others])
            if not all(axes):
                completed.append(list(line))
        lines = completed
    return lines


def _check_known(
    master: DictConfig,
    group: str,
    option: str,
    defaults: Mapping[str, Mapping[str, Any] | None],
    overrides: Sequence[str],
) -> None:
    """An option that an experiment does not define needs the keys that all defined ones set."""
    # A model that nobody thought of would otherwise be trained on the data and by the recipe that
    # the config happens to hold: VGG-16 on MNIST, without a word.
    defined = {name: keys for name, keys in defaults.items() if keys}
    shared = [key for key in next(iter(defined.values()), {}) if _in_all(key, defined)]
    given = {_key(override) for override in overrides}
    if missing := [key for key in shared if key not in given]:
        where = master.hydra.runtime.choices.get(EXPERIMENT) or master.hydra.job.config_name
        raise ValueError(
            f"experiment {where} defines no {' and '.join(missing)} for {group}={option}: give "
            f"{' and '.join(f'{key}=' for key in missing)}; it defines {[*defined]}"
        )


def _in_all(key: str, defined: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(keys.get(key) is not None for keys in defined.values())


def _added(defaults: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Defaults as overrides, without those that are null or that `overrides` set themselves.

    A default `dataset.normalize` beside a default `dataset` goes with that option, and with no
    other that `overrides` choose instead. A default `model.init` goes with every net: it is what
    an experiment asks of those that `overrides` choose.
    """
    keys = {_key(override) for override in overrides}
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


def _options(
    loader: ConfigLoader, master: DictConfig, words: Sequence[str], group: str
) -> tuple[str, ...]:
    """An override for each option of a group that `words` choose; none if they choose none."""
    chosen = [word for word in words if _key(word) == group]
    return _axes(loader, master, chosen)[0].words if chosen else ()


def from_config(config: DictConfig, hydra: DictConfig) -> Cell:
    """The cell of a job that Hydra itself composed."""
    frozen = partial(_frozen_report, config_dirs=_config_dirs(hydra))
    return _cell(resolved(config), choices_of(hydra), tuple(hydra.overrides.task), (), frozen)


def _config_dirs(hydra: DictConfig) -> list[Path]:
    """The folders that a person's options lie in, beside ours."""
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    return [Path(path) for path in sources if path]


def _cell(
    config: dict[str, Any],
    choices: dict[str, str],
    overrides: Sequence[str],
    keys: Sequence[str],
    frozen: Callable[[Config], Mapping[str, Any]],
) -> Cell:
    """The cell with this config.

    Args:
        keys: those that were given for the whole multirun.
        frozen: `_frozen_report`, which is asked once for what many cells share.
    """
    report = config.pop(REPORT, None) or {}
    if not isinstance(report, dict):
        raise ValueError(f"report: got {report!r}; give keys of conf/report/_keys.yaml")
    for group in (*GROUPS, "task"):
        _check_values(config.get(group), group)
    check_targets(config, choices)
    without = untaken(dict.fromkeys(keys), config)
    return Cell(Config(config), choices, tuple(overrides), frozen(Config(report)), without)


def _check_values(values: Any, where: str) -> None:
    """Raises: ValueError: a job would read other values from the manifest, which is JSON."""
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{where}: the key {key!r} is not a text, and the jobs of a sweep would read "
                    "it as one; quote it in a yaml, or give a list"
                )
            _check_values(value, f"{where}.{key}")
    elif isinstance(values, list):
        for number, value in enumerate(values):
            _check_values(value, f"{where}.{number}")
    elif isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{where}: got {values}; give a finite number")
    elif not isinstance(values, str | int | float | None):
        raise ValueError(f"{where}: got {values!r}; give a number, a text, a list or a mapping")


def _frozen_report(report: Config, config_dirs: Sequence[Path]) -> Mapping[str, Any]:
    """The keys of a report with what its files hold now: a sweep does not follow later edits."""
    content: dict[str, Any] = {}
    if isinstance(published := report.get("published"), list):
        content["published"] = with_files(published)
    if figures := report.get("figures"):
        content["figures"] = named_figures(figures, config_dirs)
    return {**report, **content}


def _master(loader: ConfigLoader, master: DictConfig, word: str) -> DictConfig:
    """The config that a multirun of one experiment would start from."""
    words = [*master.hydra.overrides.hydra, word]
    return loader.load_configuration(master.hydra.job.config_name, words, RunMode.MULTIRUN)


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _axes(loader: ConfigLoader, master: DictConfig, words: Sequence[str]) -> list[Axis]:
    """The overrides by key; the later of two with the same key counts, as everywhere in Hydra."""
    groups = set(master.hydra.runtime.choices)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    return list({word.get_key_element(): _axis(word, groups) for word in parsed}.values())


def _chooses(master: DictConfig, word: str) -> bool:
    """Whether an override chooses an option of a group."""
    return _is_group(_key(word), master.hydra.runtime.choices)


def _is_group(key: str, groups: Collection[str]) -> bool:
    return key in groups or "/" in key or "@" in key


def _axis(override: Override, groups: set[str]) -> Axis:
    element = override.get_key_element()
    key = _key(element)
    if not override.is_sweep_override():
        assert override.input_line is not None
        return Axis(key, (override.input_line,), None)
    words = tuple(f"{element}={value}" for value in _values(override, key))
    values = tuple(word.value() for word in OverridesParser.create().parse_overrides([*words]))
    changes = override.type is OverrideType.CHANGE and not _is_group(key, groups)
    settable = changes and "[" not in key
    return Axis(key, words, values if settable and all(map(_simple, values)) else None)


def _simple(value: Any) -> bool:
    """Whether a value is final: no reference, not missing, and not a mapping to be merged."""
    return not isinstance(value, dict) and "${" not in str(value) and "???" not in str(value)


def _values(override: Override, key: str) -> list[str]:
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{key}: {override.get_value_string()} has no end; list the values as a,b,c or range(n)"
        )
    values = list(override.sweep_string_iterator())
    if isinstance(override.value(), Glob):  # a fragment such as `_keys` is no option
        values = [value for value in values if value[0] != "_"]
    if not values:
        raise ValueError(f"{key}: {override.get_value_string()} is empty; give at least one value")
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        noun = "seed" if key == "seed" else "value"
        raise ValueError(f"{key}: {twice[0]} given twice; each {noun} once")
    return values
