"""The table of a metric with a column per curve, and how numbers are written in all tables."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve, Point, by_panel
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.storage.measured_speeds import MeasuredSpeed, Speeds

Place = tuple[int, str]
"""A row of a table: a level, and the percent of weights left as it is written."""
Column = tuple[str, list[str]]
Rows = dict[Place, list[tuple[Curve, Point]]]


def accuracy_tables(
    curves: Sequence[Curve],
    *,
    title: str,
    band: str,
    width: int,
    speeds: Speeds,
) -> Iterator[Table]:
    """One table per panel, or several where its curves do not fit into `width` characters.

    A line some of whose tickets have `speeds` has a column of them.
    """
    several = len({curve.metric for curve in curves}) > 1
    for panel, members in by_panel(curves).items():
        rows = _rows(members)
        columns = [
            column
            for curve in members
            for column in (_column(curve, rows, band), *_speed_columns(curve, rows, speeds))
        ]
        # rich would squeeze columns that do not fit until every number is broken over two lines.
        # The first two columns and the frame take 16 characters of each table.
        for part in _parts(columns, width - 16):
            unit = f": {members[0].metric.label}" if several else ""
            yield _table(list(rows), part, title=f"{title}\n{panel}{unit}")


def new_table(title: str, heads: Sequence[str]) -> Table:
    """An empty table: numbers to the right, and columns without a head to the left.

    Texts are `Text`, because rich would read a label such as `hidden=[300,100]` as markup.
    """
    table = Table(title=Text(title), title_justify="left")
    for head in heads:
        # Without "fold" rich cuts a long name, and two lines become indistinguishable.
        table.add_column(Text(head), justify="right" if head else "left", overflow="fold")
    return table


def percent_text(value: float) -> str:
    """A percent of weights remaining with three digits: 100, 41.1, 16.9, 6.96, 0.50."""
    if value >= 10:
        return "100" if value > 99.95 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _rows(curves: Sequence[Curve]) -> Rows:
    """The rows of a panel's table, from the densest to the sparsest, with the points of each."""
    # A row is a level at a percent as written: curves whose sparsities differ by rounding share it.
    # Where one line has several points there (the values of `report.along`, targets that are nearly
    # equal), each gets a row of its own, which says its values and its percent in full.
    shared = {
        place
        for curve in curves
        for place, count in Counter(map(_place, curve.points)).items()
        if count > 1
    }
    placed = [(curve, point) for curve in curves for point in curve.points]
    rows: Rows = {}
    for curve, point in sorted(placed, key=lambda pair: (-pair[1].percent, pair[1].level)):
        place = _place(point)
        place = _exact_place(point) if place in shared else place
        rows.setdefault(place, []).append((curve, point))
    return rows


def _place(point: Point) -> Place:
    return point.level, percent_text(point.percent)


def _exact_place(point: Point) -> Place:
    return point.level, "\n".join([f"{point.percent:.6g}", *point.at])


def _column(curve: Curve, rows: Rows, band: str) -> tuple[str, list[str]]:
    """A curve's header and its text in each row."""
    absent = "not yet" if curve.unfinished else "-"
    texts = []
    for pairs in rows.values():
        entries = [
            _entry(point, len(curve.seeds), band=band, metric=curve.metric)
            for owner, point in pairs
            if owner is curve
        ]
        texts.append("\n".join(entries) or absent)
    n = len(curve.seeds)
    lean = {point.dense_resources for point in curve.points if point.pruned} == {False}
    # A method that never trains the dense network is cheaper than its numbers show.
    head = f"{_one_word_a_line(curve)}\n{n} seed{'s' * (n > 1)}"
    return f"{head}\nnever dense" if lean else head, texts


def _one_word_a_line(curve: Curve) -> str:
    return curve.label.replace(" ", "\n")


def _speed_columns(curve: Curve, rows: Rows, speeds: Speeds) -> Iterator[Column]:
    """How many times as fast as dense a line's tickets were measured to be: a column a form."""
    found: dict[str, dict[Place, list[MeasuredSpeed]]] = {}
    own = [(place, p) for place, pairs in rows.items() for owner, p in pairs if owner is curve]
    for place, point in own:
        for name in ((stage, seed) for stage in sorted(point.stages) for seed in point.values):
            for speed in speeds.get(name, ()):
                found.setdefault(speed.form, {}).setdefault(place, []).append(speed)
    for form, by_place in sorted(found.items()):
        devices = dict.fromkeys(s.device for own in by_place.values() for s in own)
        texts = [_speed_text(by_place.get(place, [])) for place in rows]
        yield f"{_one_word_a_line(curve)}\n{form} speedup\n{', '.join(devices)}", texts


def _speed_text(speeds: Sequence[MeasuredSpeed]) -> str:
    if not speeds:
        return "-"
    middle = statistics.median(speed.speedup for speed in speeds)
    return f"{middle:.2f}x\nbatch {speeds[0].batch}, n {speeds[0].n}"


def _entry(point: Point, seeds: int, *, band: str, metric: Quantity) -> str:
    """Mean and band, and a line for each reason not to trust them as they stand."""
    text = metric.value_text
    lines = ["none finite"]
    if point.n_finite:
        low, high = point.band(band)
        lines = [text(point.mean)]
        if not math.isnan(low):
            half = (high - low) / 2
            edges = f" [{text(low)}, {text(high)}]"
            lines[0] += edges if band == "range" else f" ± {text(half)}"
    if point.n < seeds:
        lines.append(f"{point.n} of {seeds} seeds")
    if point.n_finite < point.n:
        lines.append(f"{point.n_finite} of {point.n} finite")
    if point.n_collapsed:
        lines.append(f"{point.n_collapsed} of {point.n} collapsed")
    return "\n".join(lines)


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The columns in order, cut into as few groups as fit the width; no group is empty."""
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
    table = new_table(title, ["% left", "level", *(header for header, _ in columns)])
    for column in table.columns[:2]:
        column.no_wrap = True
    for i, (level, left) in enumerate(places):
        table.add_row(left, str(level), *(Text(texts[i]) for _, texts in columns))
    return table
