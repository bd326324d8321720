"""The style of every figure on paper: sizes, fonts and line styles.

A panel is 3.25 inches wide, one column of a two-column page; two panels fill the width of the page.
The first seven colours are those of Okabe and Ito. Markers and dashes differ too, so that every
reader can tell the lines apart, also in greyscale.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

# Figures are drawn at their printed size, so that font sizes here are the printed ones. If LaTeX
# scaled a figure down, its labels would be below the 6 points that most journals require.
COLUMN, PAGE = 3.25, 6.75  # inches
GREY, PALE = "#555555", "#E5E5E5"
SMALL, NORMAL = 6.5, 7.5  # points
MARKER = 3.2  # points
# All twelve can be told apart with red-green colour blindness too: simulated (Machado 2009), every
# two of them differ by at least 17 in CIELAB.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00"]
COLOURS += ["#56B4E9", "#7A4A12", "#4B2DBF", "#66C266", "#7A0026", "#9A7BFF"]
MARKERS = "os^DvPd<>8hp"  # no star and no `X`, which mark the verdicts of tests
# Twelve lines have colours and markers of their own. Then the colours repeat, and each round moves
# the markers and dashes on by one: the thirteenth line has the colour of the first and the marker
# of the second. So the first 144 lines all look different; more than 36 are not drawn in a panel.
LOOKS = 36
_LEGEND_LINES = 6  # of a legend below a single panel; a longer one is beside it
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))]
# Type 42 fonts: text in a PDF stays text, and journals accept them. Text in an SVG stays text too.
# The fixed hash salt makes the ids in an SVG the same each time.
RC: Any = {"pdf.fonttype": 42, "font.size": NORMAL, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}
RC |= {"svg.fonttype": "none", "svg.hashsalt": "lt_sweeps", "axes.formatter.useoffset": False}


@dataclass(frozen=True)
class Style:
    """The look of one line, the same in every panel and figure."""

    color: str
    marker: str
    dash: Any  # a matplotlib line style


def line_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each line, by its position, so that it looks the same in every figure."""
    return {
        name: Style(COLOURS[i % 12], MARKERS[(i + i // 12) % 12], DASHES[(i + i // 12) % 4])
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
    panel. A single panel whose legend is long is as wide as the page, with the legend to its right.
    """
    columns = min(panels, beside)
    heights = [height] * panels if isinstance(height, float | int) else height
    rows = [max(heights[i : i + columns]) for i in range(0, panels, columns)]
    width, total = (COLUMN if columns == 1 else PAGE), sum(rows)
    legend_columns, lines = _wrapped_legend(legend, width)
    is_beside = panels == 1 and lines > _LEGEND_LINES
    # The legend adds to the size (0.15 inches per line at 6.5 points) instead of taking space from
    # the panels. The constrained layout then gives it exactly this space, because "outside" makes
    # the layout include the legend.
    if is_beside:
        fitting = int(total / 0.15)
        legend_columns, lines = _wrapped_legend(legend, PAGE - COLUMN, least_rows=fitting)
        width, total = PAGE, max(total, 0.15 * (lines + 1))
    else:
        total += 0.15 * lines
    # The canvas is created without pyplot, which would keep every figure of a long report open and
    # needs a display.
    with mpl.rc_context(RC):
        sheet = Sheet(figsize=(width, total), layout="constrained")
        FigureCanvasAgg(sheet)
        ratios = {"height_ratios": rows}
        grid = sheet.subplots(len(rows), columns, squeeze=False, gridspec_kw=ratios).flat
        # Remove the unused axes in the last row.
        for axes in list(grid)[panels:]:
            axes.remove()
    if legend:
        sheet.legend(
            handles=list(legend),
            loc="outside right center" if is_beside else "outside lower center",
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
    lines = [wrapped_title(line, 40) for line in title.split("\n")]
    axes.set_title(escaped("\n".join(lines)), fontsize=NORMAL)
    axes.set_xlabel(escaped(x), fontsize=NORMAL)
    axes.set_ylabel(escaped(y), fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axes.tick_params(which="minor", width=0.4, length=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=PALE, linewidth=0.5)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)


def wrapped_title(title: str, width: int) -> str:
    """Wrap a title to lines of `width` characters, but keep a percentage and `left` together."""
    together = title.replace("% left", "%\N{NO-BREAK SPACE}left")
    return textwrap.fill(together, width).replace("\N{NO-BREAK SPACE}", " ")


def escaped(text: str) -> str:
    """Escape each `$`, because matplotlib reads text between two `$` as mathematics."""
    return text.replace("$", r"\$")


def wrapped_label(label: str) -> str:
    """Wrap a label for the left of an axis, to lines that fit `continuous_sparsification`."""
    return escaped(textwrap.fill(label, 25))


def shortened(label: str, most: int) -> str:
    """Leave out the middle of a label that has more than `most` characters."""
    # Labels often begin alike (`large_final_same_sign`) or end alike (`imp lr=0.1`, `gmp lr=0.1`).
    if len(label) <= most:
        return label
    return f"{label[: most // 2]}…{label[len(label) - (most - most // 2 - 1) :]}"


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


def _wrapped_legend(
    legend: Sequence[Artist], width: float, *, least_rows: int = 1
) -> tuple[int, int]:
    """Wrap labels wider than `width` inches; return the legend's numbers of columns and lines.

    It has as few rows as `width` allows, but not fewer than `least_rows`.
    """
    # The layout does not shrink a legend that is too wide, but cuts it off.
    if not legend:
        return 1, 0
    max_chars = int((width - 0.5) / 0.05)  # a safe estimate: the label is alone in its row
    wrapped = [textwrap.wrap(str(entry.get_label()), max_chars) for entry in legend]
    for entry, lines in zip(legend, wrapped, strict=True):
        entry.set_label("\n".join(lines))
    # An entry has 0.4 inches of line and margin. matplotlib fills column by column like
    # `array_split`, and each column is as wide as its widest entry.
    with mpl.rc_context(RC):
        widths = [0.4 + max(map(_text_width, lines), default=0.0) for lines in wrapped]
    for rows in range(least_rows, max(least_rows, len(legend)) + 1):
        columns = np.array_split(range(len(legend)), math.ceil(len(legend) / rows))
        if sum(max(widths[i] for i in column) for column in columns) <= width:
            break
    return len(columns), max(sum(len(wrapped[i]) for i in column) for column in columns)


def _text_width(text: str) -> float:
    """Return the width in inches of a line of small text."""
    return TextPath((0, 0), text, size=SMALL).get_extents().width / 72
