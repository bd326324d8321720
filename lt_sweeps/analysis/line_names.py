"""What a layout names: whether there are such keys and lines, in results or in a plan of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from lt_sweeps.analysis import labels
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.config.spelling import listed, nearest


def check_planned(cells: Iterable[CellResults], layout: ReportConfig) -> None:
    """Compare a layout with cells that have no results yet, all of which measure the same.

    What is refused here, a report of their results would refuse too.

    Raises: ValueError: it names a key or a line that no cell has, or does not tell lines apart.
    """
    distinct = {(cell.signature, repr(cell.settings)): cell for cell in cells}.values()
    check_keys(distinct, layout)
    alike = labels.group_by(distinct, lambda c: identity(c, layout.along, schedule=False)).values()
    configs = [shared_config(group[0], layout.along, schedule=False) for group in alike]
    panels = [labels.panel_label(config, layout.panels) for config in configs]
    names, _ = names_and_labels(configs, panels, layout)
    # Records may tell cells apart that differ in the schedule alone, whose lines then have other
    # names.
    if all(len({cell.signature for cell in group}) == 1 for group in alike):
        check_lines(names, layout)


def check_keys(cells: Collection[CellResults], layout: ReportConfig) -> None:
    """Raises: ValueError: panels, lines or `along` of a layout name a key that no cell has."""
    for where in ("panels", "lines", "along"):
        labels.check_keys(f"report.{where}", getattr(layout, where) or (), cells)


def names_and_labels(
    configs: Sequence[CellResults], panels: Sequence[str], layout: ReportConfig
) -> tuple[list[str], list[str]]:
    """What a layout calls each line, and what the legend calls it.

    `configs` are the `shared_config` of the lines, `panels` the panel of each.

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
                    "give each line a label that no other has"
                )
    return names, legend


def shared_config(cell: CellResults, along: Sequence[str], *, schedule: bool) -> CellResults:
    """A cell with only the choices and settings that are the same for every cell of its curve.

    With `schedule` those of the schedule are among them.
    """
    aside = [*along, *([] if schedule else ["schedule"])]
    settings = {k: v for k, v in cell.settings.items() if not labels.is_within(k, aside)}
    choices = {group: option for group, option in cell.choices.items() if group not in along}
    return replace(cell, choices=choices, settings=settings)


def identity(cell: CellResults, along: Sequence[str], *, schedule: bool) -> str:
    """Equal for cells that may be of one curve."""
    config = shared_config(cell, along, schedule=schedule)
    return json.dumps([config.choices, config.settings], sort_keys=True, default=str)


def check_lines(names: Sequence[str], layout: ReportConfig) -> None:
    """A name in the layout is a line that is there, or one that `labels` expects.

    Raises: ValueError: it is neither.
    """
    names = list(dict.fromkeys(names))
    shown = dict(zip(names, labels.readable(names), strict=True))
    known = {*names, *(shown[name] for name in names if name not in layout.labels)}
    known |= {*layout.labels, *layout.labels.values()}
    paired = list(chain.from_iterable(layout.pairs))
    _check_options(paired, layout)
    named_in: Mapping[str, Sequence[str]] = {
        "baseline": [layout.baseline] if layout.baseline is not None else [],
        "tested": layout.tested or [],
        "control": [layout.control] if layout.control is not None else [],
        "highlight": layout.highlight or [],
        "pairs": [line_and_option(name)[0] for name in paired],
    }
    for where, asked in named_in.items():
        for name in asked:
            if name not in known:
                raise ValueError(
                    f"report.{where}: no line is called `{name}`{nearest(name, names)}; lines are "
                    f"{listed(names)}"
                )


def line_and_option(name: str) -> tuple[str, str]:
    """A line of a pair, and the option of its panel; empty: that of the other line."""
    line, _, option = name.partition(" @ ")
    return line, option


def _check_options(names: Sequence[str], layout: ReportConfig) -> None:
    """Raises: ValueError: a line of a pair lies in a panel that is split by another key."""
    for name in names:
        _, option = line_and_option(name)
        if option and option.partition("=")[0] not in layout.panels:
            raise ValueError(
                f"report.pairs: `{name}` names a panel by `{option}`; panels are split by "
                f"{listed(layout.panels)}"
            )
