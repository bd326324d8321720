"""The style of every figure on paper: sizes, fonts and line styles.

A panel is 3.25 inches wide, one column of a two-column page; two panels fill the width of the page.
Colours are those of Okabe and Ito. Markers and dashes differ too, so that every reader can tell the
lines apart, also in greyscale.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

# Figures are drawn at their printed size, so that font sizes here are the printed ones. If LaTeX
# scaled a figure down, its labels would be below the 6 points that most journals require.
COLUMN, PAGE = 3.25, 6.75  # inches
GREY, PALE = "#555555", "#E5E5E5"
SMALL, NORMAL = 6.5, 7.5  # points
MARKER = 3.2  # points
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
COLOURS += ["#E69F00", "#56B4E9", "#7A4A12", "#7F7F00"]
MARKERS = "os^DvPX<>*hp"  # the tenth line has the colour of the first, so no round marker
# Line i has colour i mod 9, marker i mod 12 and dash i mod 4. The same combination comes back after
# 36 lines (the least common multiple), so the first 36 lines all look different. The 12 markers
# distinguish the first 12 lines even in greyscale.
LOOKS = 36
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))]
# Type 42 fonts: text in a PDF stays text, and journals accept them. Text in an SVG stays text too.
# The fixed hash salt makes the ids in an SVG the same each time.
RC: Any = {"pdf.fonttype": 42, "font.size": NORMAL, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}
RC |= {"svg.fonttype": "none", "svg.hashsalt": "lt_sweeps"}


@dataclass(frozen=True)
class Style:
    """The look of one line, the same in every panel and figure."""

    color: str
    marker: str
    dash: Any  # a matplotlib line style


def line_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each line, by its position, so that it looks the same in every figure."""
    return {
        name: Style(COLOURS[i % 9], MARKERS[i % 12], DASHES[i % 4])
        for i, name in enumerate(dict.fromkeys(names))
    }


def new_sheet(
    panels: int,
    *,
    height: float | Sequence[float] = 2.1,
    legend: Sequence[Artist] = (),
    beside: int = 2,
) -> Sheet:
    """Return an empty figure of `panels` panels, at most `beside` in a row, with the legend below.

    `height` is in inches: of every row of panels, or of each panel; a row is as high as its highest
    panel.
    """
    columns = min(panels, beside)
    heights = [height] * panels if isinstance(height, float | int) else height
    rows = [max(heights[i : i + columns]) for i in range(0, panels, columns)]
    width = COLUMN if columns == 1 else PAGE
    legend_columns, legend_rows = _wrapped_legend(legend, width)
    # The legend adds to the height (0.15 inches per row at 6.5 points) instead of taking space from
    # the panels. The constrained layout then gives it exactly this space, because "outside" makes
    # the layout include the legend. The canvas is created without pyplot, which would keep every
    # figure of a long report open and needs a display.
    with mpl.rc_context(RC):
        sheet = Sheet(figsize=(width, sum(rows) + 0.15 * legend_rows), layout="constrained")
        FigureCanvasAgg(sheet)
        ratios = {"height_ratios": rows}
        grid = sheet.subplots(len(rows), columns, squeeze=False, gridspec_kw=ratios).flat
        # Remove the unused axes in the last row.
        for axes in list(grid)[panels:]:
            axes.remove()
    if legend:
        sheet.legend(
            handles=list(legend),
            loc="outside lower center",
            ncols=legend_columns,
            fontsize=SMALL,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.0,
            labelspacing=0.3,
            borderpad=0.1,
        )
    return sheet


def legend_entry(label: str, style: Style) -> Line2D:
    """Return a line's entry in the legend."""
    return Line2D([], [], **line_options(style, MARKER), label=escaped(label))


def panels_of(
    data: pd.DataFrame, *keys: str, height: float | Mapping[str, float] = 2.1, **options: Any
) -> tuple[Sheet, Iterator[tuple[Axes, list[str], pd.DataFrame]]]:
    """Return an empty figure with a panel for each value of `keys`, and each panel's axes and data.

    Each panel is a tuple: its axes, its values of `keys`, and its rows of `data`. `height` is in
    inches, for all panels or by the value of `panel`; `options` are passed to `new_sheet`.
    """
    # Without sort=False pandas sorts the panels by name, unlike the tables of the report.
    groups: list[Any] = list(data.groupby(list(keys), sort=False))
    position = keys.index("panel")
    own = [height[str(n[position])] for n, _ in groups] if isinstance(height, Mapping) else height
    sheet = new_sheet(len(groups), height=own, **options)
    panels = zip(sheet.axes, groups, strict=True)
    return sheet, ((axes, list(map(str, names)), rows) for axes, (names, rows) in panels)


def decorate(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "y") -> None:
    """Set titles, small ticks, a pale grid along one axis, and no box around the panel."""
    # Titles are wrapped, because the layout makes no room for a title wider than its panel.
    lines = [textwrap.fill(line, 40) for line in title.split("\n")]
    axes.set_title(escaped("\n".join(lines)), fontsize=NORMAL)
    axes.set_xlabel(escaped(x), fontsize=NORMAL)
    axes.set_ylabel(escaped(y), fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axes.tick_params(which="minor", width=0.4, length=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=PALE, linewidth=0.5)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)


def escaped(text: str) -> str:
    """Escape each `$`, because matplotlib reads text between two `$` as mathematics."""
    return text.replace("$", r"\$")


def wrapped_label(label: str) -> str:
    """Wrap a label for the left of an axis, to lines that fit `continuous_sparsification`."""
    return escaped(textwrap.fill(label, 25))


def lines_by_panel(data: pd.DataFrame) -> dict[str, list[str]]:
    """Return the lines with a row in each panel; other lines need no space there."""
    panels = data.groupby("panel", sort=False)["line"]
    return {str(panel): list(dict.fromkeys(lines)) for panel, lines in panels}


def rows_height(labels: Sequence[str], *, each: float) -> float:
    """Return the height in inches of one row per label: `each`, or more if a label is wrapped."""
    # Rows are equally high, so the longest label decides; a line at 6.5 points needs 0.12 inches.
    lines = max((wrapped_label(label).count("\n") + 1 for label in labels), default=1)
    return len(labels) * max(each, 0.12 * lines)


def line_options(style: Style, marker: float) -> dict[str, Any]:
    """Return a style as options of matplotlib; `marker` is the size of markers in points."""
    return {
        "color": style.color,
        "marker": style.marker,
        "linestyle": style.dash,
        "markersize": marker,
        "linewidth": 1.0,
    }


def _wrapped_legend(legend: Sequence[Artist], width: float) -> tuple[int, int]:
    """Wrap labels wider than `width` inches; return the legend's numbers of columns and lines."""
    # The layout does not shrink a legend that is too wide, but cuts it off. Measuring text needs a
    # drawn figure, so the width is estimated: an entry has 0.4 inches of line and margin, and 0.047
    # inches (a wide character at 6.5 points) for each character of the longest label.
    max_chars = int((width - 0.5) / 0.05)  # a safe estimate: the label is alone in its row
    wrapped = [textwrap.wrap(str(entry.get_label()), max_chars) for entry in legend]
    for entry, lines in zip(legend, wrapped, strict=True):
        entry.set_label("\n".join(lines))
    longest = max((len(line) for lines in wrapped for line in lines), default=0)
    columns = max(1, min(len(legend), int(width / (0.4 + 0.047 * longest))))
    # matplotlib fills column by column; a row is as high as its label with the most lines.
    rows = math.ceil(len(legend) / columns)
    return columns, sum(max(map(len, wrapped[row::rows])) for row in range(rows))
