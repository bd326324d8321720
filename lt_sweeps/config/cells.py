"""Turn a multirun into cells: every combination of the values that its overrides list."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lt_sweeps.config.call import Config
from lt_sweeps.config.composition import ComposedCell, Composer, choices_of, resolved
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.option_files import refuse_hidden_options
from lt_sweeps.config.overrides import is_group, key_of
from lt_sweeps.config.report_config import frozen_report
from lt_sweeps.config.sweep_spec import SweepSpec
from lt_sweeps.config.taken_options import check_targets, group_of, has_key, untaken


@dataclass(frozen=True)
class Cell:
    """One point of a multirun: a full config with one seed."""

    config: Config  # resolved, without Hydra's own part
    choices: Mapping[str, str | None]  # group -> option, or None if the method ignores the group
    overrides: tuple[str, ...]  # of the multirun; they set this cell apart from the others
    report: Mapping[str, Any] = field(default_factory=dict)  # `report:` keys; in no stage key
    untaken: tuple[str, ...] = ()  # keys of the command line that this cell does not accept


def multirun(composer: Composer, spec: SweepSpec, words: Sequence[str]) -> list[Cell]:
    """Return the cells of a command line in the order of its overrides, the last key fastest.

    If the command line names several experiments, each adds the cells of its own sweep. If it names
    several options of a group, a key of the group is set only for the options that have the key.
    The caller must then call `refuse_untaken`, which refuses a key that no cell accepts.
    """
    experiments = composer.options(words, "experiment")
    if len(experiments) < 2:
        return _cells(composer, spec, words)
    others = [word for word in words if key_of(word) != "experiment"]
    cells: list[Cell] = []
    for word in experiments:
        own = composer.begun_with(word)
        cells += _cells(own, SweepSpec.of(own.master), [word, *others])
    return cells


def from_config(config: DictConfig, hydra: DictConfig) -> Cell:
    """Return the cell of a config that Hydra itself composed."""
    frozen = partial(frozen_report, config_dirs=_config_dirs(hydra))
    return _cell(resolved(config), choices_of(hydra), tuple(hydra.overrides.task), (), frozen)


def _cells(composer: Composer, spec: SweepSpec, words: Sequence[str]) -> list[Cell]:
    """Return the cells of one experiment."""
    keys = [key_of(word) for word in words if word[0] != "~"]
    frozen = cache(partial(frozen_report, config_dirs=_config_dirs(composer.master.hydra)))
    return [
        _cell(config, choices, overrides, keys, frozen)
        for line in spec.command_lines(composer, words)
        for overrides, config, choices in _composed(composer, words, line)
    ]


def _composed(
    composer: Composer, words: Sequence[str], line: Sequence[str]
) -> Iterator[ComposedCell]:
    """Compose one command line; a key of `words` is set only for the options that have it.

    Hydra refuses a key that only some of the options have. In that case each option is composed
    separately.
    """
    try:
        return iter(list(composer.cells(line)))
    except (HydraException, OmegaConfBaseException):
        plain = {key_of(word) for word in words if word[0] not in "+~"}
        parts = list(_by_option(composer, line, plain))
        if all(len(part) == len(line) for part in parts):
            raise
        return chain.from_iterable(map(composer.cells, parts))


def _by_option(
    composer: Composer, line: Sequence[str], shared: Collection[str]
) -> Iterator[list[str]]:
    """Yield a line for each combination of options, without the shared keys that they lack."""
    keys = [key for key in map(key_of, line) if key in shared and "." in key and group_of(key)]
    groups = dict.fromkeys(map(group_of, keys))
    chosen = [composer.options(line, str(group)) for group in groups]
    for options in product(*filter(None, chosen)):
        taken = set(map(key_of, options))
        rest = [word for word in line if key_of(word) not in taken]
        others = dict.fromkeys(key for key in map(key_of, rest) if is_group(key, composer.groups))
        words = [*options, *(composer.options(rest, key)[0] for key in others)]
        _, config, _ = next(composer.cells(words))
        lacking = [key for key in keys if not has_key(config, key)]
        yield [*options, *(word for word in rest if key_of(word) not in lacking)]


def _config_dirs(hydra: DictConfig) -> list[Path]:
    """Return the folders on disk that Hydra reads options from.

    Raises: ValueError: Hydra would not read one of their options, because ours has the same name.
    """
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    folders = [Path(path) for path in sources if path]
    for folder in folders:
        refuse_hidden_options(folder)
    return folders


def _cell(
    config: dict[str, Any],
    choices: dict[str, str],
    overrides: Sequence[str],
    keys: Sequence[str],
    frozen: Callable[[Config], Mapping[str, Any]],
) -> Cell:
    """Build the cell of a config.

    Args:
        keys: the keys that were given for the whole multirun.
        frozen: `frozen_report`; `_cells` passes a cached one, because many cells share a report.
    """
    report = config.pop("report", None) or {}
    if not isinstance(report, dict):
        raise ValueError(f"report: got {report!r}; give keys of conf/report/_keys.yaml")
    for group in (*GROUPS, "task"):
        _check_values(config.get(group), group)
    check_targets(config, choices)
    without = untaken(dict.fromkeys(keys), config)
    return Cell(Config(config), choices, tuple(overrides), frozen(Config(report)), without)


def _check_values(values: Any, where: str) -> None:
    """Raises: ValueError: jobs would read a different value from the manifest, which is JSON."""
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{where}: the key {key!r} is not a string, and the sweep's jobs would read it "
                    "as one; put it in quotes in a yaml, or give a list"
                )
            _check_values(value, f"{where}.{key}")
    elif isinstance(values, list):
        for number, value in enumerate(values):
            _check_values(value, f"{where}.{number}")
    elif isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{where}: got {values}; give a finite number")
