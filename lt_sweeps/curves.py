"""Which cells make a curve, and what it is called.

A curve is what a figure draws as one line: cells that differ in nothing but the seed and in how far
their schedule goes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

from lt_sweeps.points import Point, point
from lt_sweeps.reading import Cell, Row

T = TypeVar("T")
# How much tells two curves apart, tried in turn while cells clash: see `_groups`.
APART_BY_CONFIG, APART_BY_SCHEDULE, APART_BY_SIGNATURE = range(3)
# A label starts with what the papers' legends start with.
FIRST = ("mask_criterion", "method", "reset", "freeze", "recipe", "schedule")


@dataclass(frozen=True)
class Curve:
    """One line of the figure and one column of the table."""

    label: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]
    points: tuple[Point, ...]  # from the densest to the sparsest

    @property
    def panel(self) -> str:
        """The network and its data: what shares an axis."""
        return f"{self.choices.get('model') or '?'} on {self.choices.get('dataset') or '?'}"

    @property
    def seeds(self) -> int:
        """How many replicates each point has once every cell is done."""
        return len({cell.seed for cell in self.cells})

    @property
    def unfinished(self) -> bool:
        return not all(cell.done for cell in self.cells)


def curves(cells: Iterable[Cell], *, metric: str) -> list[Curve]:
    """The curves of these cells, labelled by what differs between them.

    A cell of which nothing is known yet (queued, and no cell of its signature has started) is in
    no curve.
    """
    known = [cell for cell in cells if cell.choices]
    drawn = [_curve(group, metric, apart) for group, apart in _groups(known)]
    return _labelled(drawn)


def distinct(cells: Iterable[Cell]) -> list[Row]:
    """The rows of these cells, each trained ticket once."""
    rows: dict[tuple[str, str], Row] = {}
    for row in chain.from_iterable(cell.rows for cell in cells):
        rows.setdefault((row["stage"], row["seed"]), row)
    return list(rows.values())


def _curve(cells: Sequence[Cell], metric: str, apart: int) -> Curve:
    points = [point(rows, metric) for rows in _by(distinct(cells), _place).values()]
    points.sort(key=lambda p: (-p.percent, p.level))
    # Where only the schedule's length differs inside the curve, the schedule is not its name.
    settings = {k: v for k, v in cells[0].settings.items() if apart or not _of_schedule(k)}
    return Curve("", cells[0].choices, settings, tuple(cells), tuple(points))


def _place(row: Row) -> tuple[int, float | None]:
    """What replicates of one point share; the target tells apart one-shot cells, all at level 1."""
    target = row["target_sparsity"]
    return row["level"], None if target is None else round(target, 9)


def _by(things: Iterable[T], key: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def _groups(
    cells: Iterable[Cell], apart: int = APART_BY_CONFIG
) -> Iterator[tuple[list[Cell], int]]:
    """Cells that make one curve each, and what had to be looked at to tell them apart.

    Schedules of different lengths make one curve if they agree where they overlap. If they do not,
    the schedule tells the curves apart; and failing that (a newer version of the same config), the
    signature.
    """
    for group in _by(cells, lambda cell: _identity(cell, apart)).values():
        if apart < APART_BY_SIGNATURE and _clash(group):
            yield from _groups(group, apart + 1)
        else:
            yield group, apart


def _identity(cell: Cell, apart: int) -> str:
    by_schedule = apart >= APART_BY_SCHEDULE
    settings = {k: v for k, v in cell.settings.items() if by_schedule or not _of_schedule(k)}
    signature = cell.signature if apart >= APART_BY_SIGNATURE else ""
    return json.dumps([cell.choices, settings, signature], sort_keys=True, default=str)


def _of_schedule(key: str) -> bool:
    return key.startswith("schedule.")


def _clash(cells: Sequence[Cell]) -> bool:
    """Whether two of the cells disagree about the same level or the same replicate."""
    rows = distinct(cells)
    replicates = {(_place(row), row["seed"]) for row in rows}
    by_level = _by({_place(row) for row in rows}, lambda place: place[0])
    iterative = any(row["level"] > 1 for row in rows)
    return len(replicates) < len(rows) or (iterative and any(len(p) > 1 for p in by_level.values()))


def _labelled(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with the shortest names that say everything that differs within a panel."""
    panels = _by(curves, lambda curve: curve.panel).values()
    options = dict.fromkeys(chain.from_iterable(map(_differing_options, panels)))
    ranked = sorted(options, key=lambda group: FIRST.index(group) if group in FIRST else len(FIRST))
    settings = dict.fromkeys(chain.from_iterable(map(_differing_settings, panels)))
    named = [replace(curve, label=_label(curve, ranked, list(settings))) for curve in curves]
    names = [(curve.panel, curve.label) for curve in named]
    return [
        replace(curve, label=f"{curve.label} {curve.cells[0].signature[:8]}")
        if names.count(name) > 1
        else curve
        for curve, name in zip(named, names, strict=True)
    ]


def _label(curve: Curve, options: Sequence[str], settings: Sequence[str]) -> str:
    words = [option for group in options if (option := curve.choices.get(group))]
    words += [f"{k}={_text(curve.settings[k])}" for k in settings if k in curve.settings]
    lone = (curve.choices.get("mask_criterion"), curve.choices.get("method"))
    return " ".join(words) or next(filter(None, lone), curve.cells[0].signature[:8])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).replace(" ", "")


def _differing_options(curves: Sequence[Curve]) -> list[str]:
    groups = dict.fromkeys(chain.from_iterable(curve.choices for curve in curves))
    return [g for g in groups if len({curve.choices.get(g) for curve in curves}) > 1]


def _differing_settings(curves: Sequence[Curve]) -> list[str]:
    """Settings that differ, unless the option of their group already says so."""

    def unexplained(key: str) -> bool:
        values = _by(curves, lambda curve: curve.choices.get(key.split(".")[0]))
        return any(len({repr(c.settings.get(key)) for c in same}) > 1 for same in values.values())

    keys = dict.fromkeys(chain.from_iterable(curve.settings for curve in curves))
    return [key for key in keys if unexplained(key)]
