"""Checks that the keys and lines named by a layout exist, in results or in a plan."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from lt_sweeps.analysis import labels
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.config.spelling import listed, nearest


def check_planned(
    cells: Iterable[CellResults],
    layout: ReportConfig,
    typed: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Check a layout against planned cells, which have no results yet and share one metric.

    A layout that is refused here would also be refused by a report with the same `typed` keys.

    Raises: ValueError: the layout names a key or a line that no cell has, or does not tell lines
        apart.
    """
    distinct = {(cell.signature, repr(cell.settings)): cell for cell in cells}.values()
    check_keys(distinct, layout)
    alike = labels.group_by(distinct, lambda c: identity(c, layout.along, schedule=False)).values()
    configs = [shared_config(group[0], layout.along, schedule=False) for group in alike]
    panels = [labels.panel_label(config, layout.panels) for config in configs]
    names, _ = names_and_labels(configs, panels, layout)
    # Cells that differ only in the schedule may end up on separate lines once they have records.
    # Such lines get other names, so names are checked only if there are no such cells.
    if all(len({cell.signature for cell in group}) == 1 for group in alike):
        check_lines(names, layout, typed)


def check_keys(cells: Collection[CellResults], layout: ReportConfig) -> None:
    """Raises: ValueError: panels, lines or `along` of a layout name a key that no cell has."""
    for where in ("panels", "lines", "along"):
        labels.check_keys(f"report.{where}", getattr(layout, where) or (), cells)


def names_and_labels(
    configs: Sequence[CellResults], panels: Sequence[str], layout: ReportConfig
) -> tuple[list[str], list[str]]:
    """The name of each line in a layout, and its label in the legend.

    `configs` has the `shared_config` of each line, and `panels` has its panel.

    Raises: ValueError: the layout does not tell two lines of a panel apart.
    """
    if layout.lines is None:
        names = labels.automatic_labels(configs, panels)
    else:
        names = labels.labels_from_keys(configs, panels, layout.lines)
    legend = [
        layout.labels.get(name, label)
        for name, label in zip(names, labels.readable(names), strict=True)
    ]
    owners: dict[tuple[str, str], str] = {}
    for panel, name, label in zip(panels, names, legend, strict=True):
        for called in dict.fromkeys((name, label)):
            owner = owners.setdefault((panel, called), name)
            if owner != name:
                raise ValueError(
                    f"report.labels: `{called}` of `{panel}` would mean both {owner} and {name}; "
                    "give each line a label of its own"
                )
    return names, legend


def shared_config(cell: CellResults, along: Sequence[str], *, schedule: bool) -> CellResults:
    """A cell with only the choices and settings that every cell of its curve shares.

    The settings of the schedule are included if `schedule` is true.
    """
    aside = [*along, *([] if schedule else ["schedule"])]
    settings = {k: v for k, v in cell.settings.items() if not labels.is_within(k, aside)}
    choices = {group: option for group, option in cell.choices.items() if group not in along}
    return replace(cell, choices=choices, settings=settings)


def identity(cell: CellResults, along: Sequence[str], *, schedule: bool) -> str:
    """A text that is equal for cells that may belong to one curve."""
    config = shared_config(cell, along, schedule=schedule)
    return json.dumps([config.choices, config.settings], sort_keys=True, default=str)


def check_lines(
    names: Sequence[str], layout: ReportConfig, typed: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check that each line named by the layout exists or is a name or label in `report.labels`.

    An experiment labels all of its lines, and a smaller sweep may lack some of them. The keys of a
    report that were `typed` are about this sweep, so their lines and labels must exist.

    Raises: ValueError: the layout names another line.
    """
    names = list(dict.fromkeys(names))
    present = _present(names, layout)
    known = {*present, *layout.labels, *layout.labels.values()}
    _check_options(list(chain.from_iterable(layout.pairs)), layout)
    _check_known("labels", typed.get("labels") or (), names, names)
    for where, asked in {**_named_in(layout), "highlight": layout.highlight or []}.items():
        _check_known(where, asked, present if where in typed else known, names)


def absent_lines(names: Sequence[str], layout: ReportConfig) -> dict[str, list[str]]:
    """The lines that the layout compares although none of `names` is called so, by key."""
    present = _present(list(dict.fromkeys(names)), layout)
    named = {key: dict.fromkeys(asked) for key, asked in _named_in(layout).items()}
    absent = {key: [name for name in asked if name not in present] for key, asked in named.items()}
    return {key: asked for key, asked in absent.items() if asked}


def _present(names: Sequence[str], layout: ReportConfig) -> set[str]:
    """The names and the labels of these lines, by which a layout may name them."""
    shown = zip(names, labels.readable(names), strict=True)
    return {*names, *(layout.labels.get(name, label) for name, label in shown)}


def _named_in(layout: ReportConfig) -> dict[str, list[str]]:
    """The lines that the layout compares, by the key that names them."""
    return {
        "baseline": [layout.baseline] if layout.baseline is not None else [],
        "tested": layout.tested or [],
        "control": [layout.control] if layout.control is not None else [],
        "pairs": [line_and_option(name)[0] for name in chain.from_iterable(layout.pairs)],
    }


def _check_known(
    where: str, asked: Iterable[str], known: Collection[str], names: Sequence[str]
) -> None:
    for name in asked:
        if name not in known:
            near = nearest(name, names) or ";"
            raise ValueError(
                f"report.{where}: no line is called `{name}`{near} lines are {listed(names)}"
            )


def line_and_option(name: str) -> tuple[str, str]:
    """Split `line @ key=option`; an empty option means the same panel as the pair's other line."""
    line, _, option = name.partition(" @ ")
    return line, option


def _check_options(names: Sequence[str], layout: ReportConfig) -> None:
    """Raises: ValueError: a line of a pair names a panel by a key that does not split panels."""
    for name in names:
        _, option = line_and_option(name)
        if option and option.partition("=")[0] not in layout.panels:
            raise ValueError(
                f"report.pairs: `{name}` names a panel by `{option}`; panels are split by "
                f"{listed(layout.panels)}"
            )
