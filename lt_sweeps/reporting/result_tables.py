"""The table of a metric with a column per curve, and the layout and number format of all tables."""

from __future__ import annotations

import copy
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column as TableColumn
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve, Point, by_panel
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.storage.measured_speeds import MeasuredSpeed, Speeds

Row = tuple[str, int]
"""The percent of weights left as text, and the number of earlier points of a line at this text."""
Column = tuple[str, list[str]]
Rows = dict[Row, list[tuple[Curve, Point]]]


def accuracy_tables(
    curves: Sequence[Curve], *, title: str, band: str, speeds: Speeds
) -> Iterator[Table]:
    """Yield one table per panel. A line with measured `speeds` has extra columns for them."""
    several = len({curve.metric for curve in curves}) > 1
    for panel, members in by_panel(curves).items():
        rows = _rows(members)
        columns = [
            column
            for curve in members
            for column in (_column(curve, rows, band), *_speed_columns(curve, rows, speeds))
        ]
        unit = f": {members[0].metric.label}" if several else ""
        heads = ["% left", "level", *(header for header, _ in columns)]
        table = new_table(f"{title}\n{panel}{unit}", heads, named_by=2)
        for i, ((left, _), placed) in enumerate(rows.items()):
            levels = ", ".join(dict.fromkeys(str(point.level) for _, point in placed))
            table.add_row(left, levels, *(Text(texts[i]) for _, texts in columns))
        yield table


def new_table(title: str, heads: Sequence[str], *, named_by: int = 1) -> Table:
    """Return an empty table; columns with a head align right, columns without one align left.

    The first `named_by` columns name the row. Cells are `Text`, because rich would read a string
    such as `hidden=[300,100]` as markup.
    """
    table = Table(title=Text(title), title_justify="left")
    for n, head in enumerate(heads):
        # Without "fold" rich truncates long names, and two lines can then look the same.
        justify = "right" if head else "left"
        table.add_column(Text(head), justify=justify, overflow="fold", no_wrap=n < named_by)
    return table


def wrapped_name(label: str, width: int = 28) -> str:
    """Wrap the name of a line at spaces, so that a table's other columns have room beside it."""
    return textwrap.fill(label, width, break_long_words=False, break_on_hyphens=False)


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    """Print each table below its title, split into parts if the terminal is too narrow."""
    for table in tables:
        # Printed apart, because rich would wrap a title at the width of its table.
        console.print(Text(str(table.title), style="italic"))
        for part in fitting_tables(table, console.width):
            part.title = None
            console.print(part)


def fitting_tables(table: Table, width: int) -> Iterator[Table]:
    """Yield the table, or several with the same rows if its columns do not fit into `width`.

    Each part begins with the columns that name the rows.
    """
    # If columns do not fit, rich squeezes them until every number is broken over two lines.
    names = list(takewhile(lambda column: column.no_wrap, table.columns))
    free_width = width - 1 - sum(map(_width, names))
    part, used_width = [], 0
    for column in table.columns[len(names) :]:
        if part and used_width + _width(column) > free_width:
            yield _with_columns(table, [*names, *part])
            part, used_width = [], 0
        part.append(column)
        used_width += _width(column)
    yield _with_columns(table, [*names, *part])


def _width(column: TableColumn) -> int:
    """The width of a column in characters: its longest line, the padding and one frame line."""
    lines = (line for cell in (column.header, *column.cells) for line in str(cell).split("\n"))
    return 3 + max(map(cell_len, lines))


def _with_columns(table: Table, columns: Sequence[TableColumn]) -> Table:
    part = copy.copy(table)
    part.columns = [replace(column, _index=n) for n, column in enumerate(columns)]
    return part


def percent_text(value: float) -> str:
    """Format a percent of weights remaining: 100, 41.1, 16.9, 6.96, 0.50."""
    if value >= 10:
        return "100" if value > 99.95 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _rows(curves: Sequence[Curve]) -> Rows:
    """The rows of a panel's table with the points of each row, from the densest to the sparsest.

    Points at the same percent share a row even if their levels differ: gradual pruning reaches its
    sparsity after one level, and is compared with iterative pruning after many.
    """
    # Percents are compared as they are printed, because sparsities differ by rounding. If a line
    # has several points at one printed percent that differ in the exact percent or in the values
    # of `report.along`, this row is split: the percent is printed in full, with these values. Equal
    # points come from levels that pruned nothing.
    crowded = set()
    for curve in curves:
        exact: dict[str, set[str]] = {}
        for point in curve.points:
            exact.setdefault(percent_text(point.percent), set()).add(_exact_text(point))
        crowded |= {text for text, texts in exact.items() if len(texts) > 1}
    placed: list[tuple[Row, Curve, Point]] = []
    for curve in curves:
        n_earlier: Counter[str] = Counter()
        for point in curve.points:
            text = percent_text(point.percent)
            text = _exact_text(point) if text in crowded else text
            placed.append(((text, n_earlier[text]), curve, point))
            n_earlier[text] += 1
    rows: Rows = {}
    for row, curve, point in sorted(placed, key=lambda p: (-p[2].percent, p[0][1], p[2].level)):
        rows.setdefault(row, []).append((curve, point))
    return rows


def _exact_text(point: Point) -> str:
    return "\n".join([f"{point.percent:.6g}", *point.at])


def _column(curve: Curve, rows: Rows, band: str) -> Column:
    """Return a curve's header and its text in each row."""
    points = _own_points(curve, rows)
    absent = "not yet" if curve.unfinished else "-"
    texts = [
        _cell_text(points[row], len(curve.seeds), band=band, metric=curve.metric)
        if row in points
        else absent
        for row in rows
    ]
    n = len(curve.seeds)
    never_dense = {point.dense_resources for point in curve.points if point.pruned} == {False}
    # Marked, because a method that never trains the dense network is cheaper than the others.
    head = f"{_name_above(texts, curve)}\n{n} seed{'s' * (n > 1)}"
    return f"{head}\nnever dense" if never_dense else head, texts


def _own_points(curve: Curve, rows: Rows) -> dict[Row, Point]:
    return {row: p for row, placed in rows.items() for owner, p in placed if owner is curve}


def _name_above(texts: Sequence[str], curve: Curve) -> str:
    """Wrap a curve's name to the width of the texts below it; a longer word is not broken."""
    width = max((len(line) for text in texts for line in text.split("\n")), default=1)
    return wrapped_name(curve.label, width)


def _speed_columns(curve: Curve, rows: Rows, speeds: Speeds) -> Iterator[Column]:
    """Yield one column per measured form: the speed of a line's tickets relative to dense."""
    by_form: dict[str, dict[Row, list[MeasuredSpeed]]] = {}
    for row, point in _own_points(curve, rows).items():
        for name in ((stage, seed) for stage in sorted(point.stages) for seed in point.values):
            for speed in speeds.get(name, ()):
                by_form.setdefault(speed.form, {}).setdefault(row, []).append(speed)
    for form, by_row in sorted(by_form.items()):
        devices = dict.fromkeys(s.device for row_speeds in by_row.values() for s in row_speeds)
        texts = [_speed_text(by_row.get(row, [])) for row in rows]
        yield f"{_name_above(texts, curve)}\n{form} speedup\n{', '.join(devices)}", texts


def _speed_text(speeds: Sequence[MeasuredSpeed]) -> str:
    if not speeds:
        return "-"
    middle = statistics.median(speed.speedup for speed in speeds)
    return f"{middle:.2f}x\nbatch {speeds[0].batch}, n {speeds[0].n}"


def _cell_text(point: Point, seeds: int, *, band: str, metric: Quantity) -> str:
    """Format mean and band, with a line for each caveat: seeds missing, diverged or collapsed."""
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
