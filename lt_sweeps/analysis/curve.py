"""Which cells make a curve, and what it is called.

A curve is what a figure draws as one line: cells that differ in nothing but the seed, in how far
their schedule goes, and in what the layout's `along` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from lt_sweeps.analysis.labels import (
    automatic_labels,
    check_keys,
    group_by,
    is_within,
    labels_from_keys,
    panel_label,
    value_of,
)
from lt_sweeps.analysis.points import Point, point
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.storage.record import Record

# How much tells two curves apart, tried in turn while cells clash: see `_groups`.
APART_BY_CONFIG, APART_BY_SCHEDULE, APART_BY_SIGNATURE = range(3)


@dataclass(frozen=True)
class Curve:
    """One line of the figure and one column of the table: `name` in a layout, `label` to read."""

    name: str
    label: str
    panel: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    cells: tuple[CellResults, ...]
    points: tuple[Point, ...]  # from the densest to the sparsest
    reference: Curve | None = None  # the panel's dense network, of a line that has none of its own

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The replicates that each point has once every cell is done."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def unfinished(self) -> bool:
        return not all(cell.done for cell in self.cells)

    @property
    def dense(self) -> Point | None:
        """Its network, or its panel's, before any pruning; none that is untrained."""
        own = next((p for p in self.points if not (p.pruned or p.scored)), None)
        return self.reference.dense if own is None and self.reference is not None else own


def curves(
    cells: Iterable[CellResults], *, metric: str, layout: ReportConfig | None = None
) -> list[Curve]:
    """The curves of these cells, in the layout's order and with its names.

    A cell of which nothing is known yet (queued, and no cell of its signature has started) is in
    no curve.

    Raises: ValueError: the layout names what no cell has, or does not tell its lines apart.
    """
    layout = ReportConfig() if layout is None else layout
    found = [cell for cell in cells if cell.choices]
    for where in ("panels", "lines", "along"):
        check_keys(f"report.{where}", getattr(layout, where) or (), found)
    groups = list(_groups(found, layout.along))
    # Where only the schedule's length differs inside the curve, the schedule is not its name.
    faces = [
        replace(
            group[0],
            settings={
                key: each
                for key, each in group[0].settings.items()
                if not is_within(key, layout.along) and (apart or not is_within(key, ["schedule"]))
            },
            choices={k: v for k, v in group[0].choices.items() if k not in layout.along},
        )
        for group, apart in groups
    ]
    if layout.lines is None:
        names = automatic_labels(faces, layout.panels)
    else:
        names = labels_from_keys(faces, layout.panels, layout.lines)
    drawn = [
        Curve(
            name=name,
            label=layout.labels.get(name, name),
            panel=panel_label(face, layout.panels),
            choices=face.choices,
            settings=face.settings,
            cells=tuple(group),
            points=_points(group, metric, layout.along),
        )
        for name, face, (group, _) in zip(names, faces, groups, strict=True)
    ]
    drawn = [_referred(curve, drawn) for curve in drawn]
    order = list(layout.labels)
    return sorted(drawn, key=lambda c: order.index(c.name) if c.name in order else len(order))


def distinct(cells: Iterable[CellResults]) -> list[Record]:
    """The rows of these cells, each trained ticket once."""
    rows: dict[tuple[str, str], Record] = {}
    for row in chain.from_iterable(cell.rows for cell in cells):
        rows.setdefault((row.stage, row.seed), row)
    return list(rows.values())


def _referred(curve: Curve, drawn: Sequence[Curve]) -> Curve:
    """A line that began with a search, or sparse, is compared with the one dense line beside it."""
    if curve.dense is not None:
        return curve
    dense = [c for c in drawn if c.panel == curve.panel and not any(p.pruned for p in c.points)]
    return replace(curve, reference=dense[0]) if len(dense) == 1 else curve


def _points(cells: Sequence[CellResults], metric: str, along: Sequence[str]) -> tuple[Point, ...]:
    points: dict[frozenset[str], Point] = {}
    for at, group in group_by(cells, lambda cell: _at(cell, along)).items():
        for rows in group_by(distinct(group), _place).values():
            made = point(rows, metric, at)
            # The dense network is one point, wherever on the line its tickets were found.
            if made.stages not in points or points[made.stages].n < made.n:
                points[made.stages] = made
    return tuple(sorted(points.values(), key=lambda p: (-p.percent, p.level)))


def _at(cell: CellResults, along: Sequence[str]) -> tuple[str, ...]:
    has = {*cell.choices, *cell.settings}
    return tuple(f"{key}={value_of(cell, key)}" for key in along if key in has)


def _place(row: Record) -> tuple[int, float | None]:
    """What replicates of one point share; the target tells apart one-shot cells, all at level 1."""
    target = row.target_sparsity
    return row.level, None if target is None else round(target, 9)


def _groups(
    cells: Iterable[CellResults], along: Sequence[str], apart: int = APART_BY_CONFIG
) -> Iterator[tuple[list[CellResults], int]]:
    """Cells that make one curve each, and what had to be looked at to tell them apart.

    Schedules of different lengths make one curve if they agree where they overlap. If they do not,
    the schedule tells the curves apart; and failing that (a newer version of the same config), the
    signature.
    """
    for group in group_by(cells, lambda cell: _identity(cell, along, apart)).values():
        parts = group_by(group, lambda cell: _at(cell, along)).values()
        if apart < APART_BY_SIGNATURE and any(map(_clash, parts)):
            yield from _groups(group, along, apart + 1)
        else:
            yield group, apart


def _identity(cell: CellResults, along: Sequence[str], apart: int) -> str:
    aside = [*along, *(["schedule"] if apart < APART_BY_SCHEDULE else [])]
    settings = {key: each for key, each in cell.settings.items() if not is_within(key, aside)}
    choices = {group: option for group, option in cell.choices.items() if group not in along}
    signature = cell.signature if apart >= APART_BY_SIGNATURE else ""
    return json.dumps([choices, settings, signature], sort_keys=True, default=str)


def _clash(cells: Sequence[CellResults]) -> bool:
    """Whether two of the cells disagree about the same level or the same replicate."""
    rows = distinct(cells)
    replicates = {(_place(row), row.seed) for row in rows}
    by_level = group_by({_place(row) for row in rows}, lambda place: place[0])
    iterative = any(row.level > 1 for row in rows)
    return len(replicates) < len(rows) or (iterative and any(len(p) > 1 for p in by_level.values()))
