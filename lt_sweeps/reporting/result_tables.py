"""The report's tables: for the terminal, and records.csv and summary.csv for everything else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.points import Point, percent
from lt_sweeps.analysis.results import TYPES, Row
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.report_config import BANDS

YES_NO = {True: "yes", False: "no", None: ""}
FACTS = tuple("criterion" if group == "mask_criterion" else group for group in GROUPS)


def quantity(metric: str) -> tuple[str, float]:
    """Name of a metric with its unit, and the factor from the record's unit to it."""
    name = {"best_step": "early-stop step"}.get(metric, metric.replace("_", " "))
    return (f"{name} (%)", 100.0) if metric.endswith("accuracy") else (name, 1.0)


def tables(
    curves: Sequence[Curve], *, title: str, band: str, metric: str, width: int
) -> Iterator[Table]:
    """One table per panel, or several where its curves are more than `width` columns can show."""
    for panel in dict.fromkeys(curve.panel for curve in curves):
        here = [curve for curve in curves if curve.panel == panel]
        columns = [_column(curve, _places(here), band, metric) for curve in here]
        for part in _parts(columns, width - 16):
            yield _table(_places(here), part, title=f"{title}\n{panel}")


def records(curves: Sequence[Curve]) -> pd.DataFrame:
    """Every row of every cell, with its curve; `repeats` marks a ticket given before."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        seen: set[tuple[str, str]] = set()
        for row in (row for cell in curve.cells for row in cell.rows):
            ticket = row["stage"], row["seed"]
            derived = {
                "curve": curve.label,
                "repeats": ticket in seen,
                "percent_remaining": percent(row),
                "compression": _compression(row),
            }
            seen.add(ticket)
            rows.append({k: _plain(v) for k, v in (derived | dict(row)).items()})
    return pd.DataFrame(rows, columns=None if rows else ["curve", *TYPES])


def summary(curves: Sequence[Curve], *, metric: str) -> pd.DataFrame:
    """The statistics of each curve at each level, in the units of the records."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        choices = {"criterion": curve.choices.get("mask_criterion"), **curve.choices}
        facts = {"curve": curve.label} | {name: choices.get(name) for name in FACTS}
        for point in curve.points:
            numbers = asdict(point)
            for name in ("stages", "values", "scored"):
                del numbers[name]
            numbers["at"] = " ".join(point.at)
            left = numbers.pop("percent")
            place = {
                "sparsity": 1 - left / 100,
                "sparsity_total": numbers.pop("sparsity_total"),
                "percent_remaining": left,
                "dense_resources": YES_NO[numbers.pop("dense_resources")],
                "metric": metric,
            }
            rows.append(facts | place | {"n_seeds": len(curve.seeds)} | numbers)
    return pd.DataFrame(rows, columns=None if rows else ["curve", *FACTS])


def _compression(row: Row) -> float | None:
    return row["weights_total"] / row["weights_remaining"] if row["weights_remaining"] else None


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


Place = tuple[int, str]


def remaining(value: float) -> str:
    """Percent remaining as a reader says it: 100, 41.1, 16.9, 6.96, 0.50."""
    if value >= 10:
        return "100" if value > 99.95 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _places(curves: Sequence[Curve]) -> list[Place]:
    """The rows of a panel's table, from the densest to the sparsest."""
    points = sorted(
        (point for curve in curves for point in curve.points),
        key=lambda point: (-point.percent, point.level),
    )
    return list(dict.fromkeys(_place(point) for point in points))


def _place(point: Point) -> Place:
    return point.level, remaining(point.percent)


def _column(curve: Curve, places: Sequence[Place], band: str, metric: str) -> tuple[str, list[str]]:
    """A curve's header and its text at each place."""
    points: Mapping[Place, Point] = {_place(point): point for point in curve.points}
    absent = "not yet" if curve.unfinished else "-"
    texts = [
        _entry(points[p], len(curve.seeds), band=band, metric=metric) if p in points else absent
        for p in places
    ]
    label = curve.label.replace(" ", "\n")
    n = len(curve.seeds)
    lean = {point.dense_resources for point in curve.points if point.pruned} == {False}
    return f"{label}\n{n} seed{'s' * (n > 1)}" + "\nnever dense" * lean, texts


def _entry(point: Point, seeds: int, *, band: str, metric: str) -> str:
    _, scale = quantity(metric)
    digits = 2 if scale == 100 else 4
    lines = ["none finite"]
    if point.n_finite:
        low, high = (scale * edge for edge in point.band(band))
        lines = [f"{scale * point.mean:.{digits}f}"]
        if not math.isnan(low):
            half = (high - low) / 2
            edges = f" [{low:.{digits}f}, {high:.{digits}f}]"
            lines[0] += edges if band == "range" else f" ± {half:.{digits}f}"
    if point.n < seeds:
        lines.append(f"{point.n} of {seeds} seeds")
    if point.n_finite < point.n:
        lines.append(f"{point.n_finite} of {point.n} finite")
    if point.n_collapsed:
        lines.append(f"{point.n_collapsed} of {point.n} collapsed")
    return "\n".join(lines)


Column = tuple[str, list[str]]


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The columns in as few runs as fit the width, never an empty one."""
    part: list[Column] = []
    used = 0
    for column in columns:
        header, texts = column
        need = 3 + max(len(line) for text in (header, *texts) for line in text.split("\n"))
        if part and used + need > width:
            yield part
            part, used = [], 0
        part.append(column)
        used += need
    if part:
        yield part


def _table(places: Sequence[Place], columns: Sequence[Column], *, title: str) -> Table:
    # Text, not str: a label such as `hidden=[300,100]` is not markup.
    table = Table(title=Text(title), title_justify="left")
    table.add_column("% left", justify="right", no_wrap=True)
    table.add_column("level", justify="right", no_wrap=True)
    for header, _ in columns:
        table.add_column(Text(header), justify="right")
    for i, (level, left) in enumerate(places):
        table.add_row(left, str(level), *(Text(texts[i]) for _, texts in columns))
    return table


def heading(name: str, unfinished: str, *, band: str, metric: str) -> str:
    """What the tables show, in one line."""
    says = f"{name}: {quantity(metric)[0]}, mean and {BANDS[band]}"
    return f"{says}; {unfinished}" if unfinished else says
