"""The style of every figure on paper: sizes, fonts and line styles.

A panel is 3.25 inches wide, a column of a two-column page; two panels fill the page. Colours are
Okabe and Ito's, and markers and dashes differ too, so that lines stay apart for every reader and
in greyscale.
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

# Figures are drawn at the size of the printed page, so that a font size here is the printed one:
# a figure that LaTeX scales down has labels below the 6 points that most journals ask for.
COLUMN, PAGE = 3.25, 6.75  # inches
GREY, PALE = "#555555", "#E5E5E5"
SMALL, NORMAL = 6.5, 7.5  # points
MARKER = 3.2  # points
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
COLOURS += ["#E69F00", "#56B4E9", "#7A4A12", "#7F7F00"]
MARKERS = "os^DvPX<>p*h"
# Each list is walked round at its own length. 9 colours, 12 markers and 4 dashes meet again in the
# same combination only after 36 lines (their least common multiple), so no two of the first 36 look
# alike; 12 markers alone keep the first 12 apart in greyscale.
LOOKS = 36
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))]
# Type 42 fonts: text in a PDF stays text, and journals accept it. In an SVG it stays text too, and
# the salt is what makes its ids the same each time.
RC: Any = {"pdf.fonttype": 42, "font.size": NORMAL, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}
RC |= {"svg.fonttype": "none", "svg.hashsalt": "lt_sweeps"}


@dataclass(frozen=True)
class Style:
    """How one line is drawn, in every panel and every figure."""

    color: str
    marker: str
    dash: Any  # a matplotlib line style


def line_styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each line, by its position, so that a line looks alike in every figure."""
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
    """An empty figure of `panels` panels, at most `beside` in a row, with its legend below.

    `height` is that of a row of panels in inches, or that of each panel: a row is as high as its
    highest.
    """
    columns = min(panels, beside)
    heights = [height] * panels if isinstance(height, float | int) else height
    rows = [max(heights[i : i + columns]) for i in range(0, panels, columns)]
    width = COLUMN if columns == 1 else PAGE
    legend_columns, legend_rows = _wrapped_legend(legend, width)
    # The legend adds to the height (0.15 inches a row at 6.5 points) instead of taking it from the
    # panels. The constrained layout then gives it exactly that room, because "outside" tells it
    # to count the legend. The canvas is made here and not through pyplot, which would keep every
    # figure of a long report open and would want a display.
    with mpl.rc_context(RC):
        sheet = Sheet(figsize=(width, sum(rows) + 0.15 * legend_rows), layout="constrained")
        FigureCanvasAgg(sheet)
        ratios = {"height_ratios": rows}
        grid = sheet.subplots(len(rows), columns, squeeze=False, gridspec_kw=ratios).flat
        # An odd number of panels leaves a hole in the last row.
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
    """A line's entry in the legend."""
    return Line2D([], [], **line_options(style, MARKER), label=escaped(label))


def panels_of(
    data: pd.DataFrame, *keys: str, height: float | Mapping[str, float] = 2.1, **options: Any
) -> tuple[Sheet, Iterator[tuple[Axes, list[str], pd.DataFrame]]]:
    """An empty figure with a panel for each value of `keys`, and for each: axes, values, rows.

    `height` is in inches, for all panels or by the value of `panel`; `options` are those of
    `new_sheet`.
    """
    # Without sort=False pandas orders panels by name, and a figure by its table would differ.
    groups: list[Any] = list(data.groupby(list(keys), sort=False))
    at = keys.index("panel")
    own = [height[str(n[at])] for n, _ in groups] if isinstance(height, Mapping) else height
    sheet = new_sheet(len(groups), height=own, **options)
    panels = zip(sheet.axes, groups, strict=True)
    return sheet, ((axes, list(map(str, names)), rows) for axes, (names, rows) in panels)


def decorate(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "y") -> None:
    """Set titles, small ticks, a pale grid along one axis, and no box around the panel."""
    # The layout makes no room for a title that is wider than its panel.
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
    """Text in which matplotlib does not take what stands between two `$` for mathematics."""
    return text.replace("$", r"\$")


def wrapped_label(label: str) -> str:
    """A label for the left of an axis, in lines that hold `continuous_sparsification`."""
    return escaped(textwrap.fill(label, 25))


def lines_by_panel(data: pd.DataFrame) -> dict[str, list[str]]:
    """The lines that have a row in each panel: no other line needs room there."""
    panels = data.groupby("panel", sort=False)["line"]
    return {str(panel): list(dict.fromkeys(lines)) for panel, lines in panels}


def rows_height(labels: Sequence[str], *, each: float) -> float:
    """Inches for one row per label: `each`, or more where a label takes several lines."""
    # Rows are equally high, so the longest label decides; 0.12 inches is a line at 6.5 points.
    lines = max((wrapped_label(label).count("\n") + 1 for label in labels), default=1)
    return len(labels) * max(each, 0.12 * lines)


def line_options(style: Style, marker: float) -> dict[str, Any]:
    """What matplotlib calls the parts of a style; `marker` is the size of markers in points."""
    return {
        "color": style.color,
        "marker": style.marker,
        "linestyle": style.dash,
        "markersize": marker,
        "linewidth": 1.0,
    }


def _wrapped_legend(legend: Sequence[Artist], width: float) -> tuple[int, int]:
    """Break labels that are wider than `width` inches; how many columns and lines a legend has."""
    # The layout does not shrink a legend that is too wide, it cuts it off. Measuring the text needs
    # a drawn figure, so its width is estimated: an entry is 0.4 inches of line and margin, and
    # 0.047 inches for each character of the longest label, a wide one at 6.5 points.
    most = int((width - 0.5) / 0.05)  # narrower: there is nothing beside such a label
    broken = [textwrap.wrap(str(entry.get_label()), most) for entry in legend]
    for entry, lines in zip(legend, broken, strict=True):
        entry.set_label("\n".join(lines))
    longest = max((len(line) for lines in broken for line in lines), default=0)
    columns = max(1, min(len(legend), int(width / (0.4 + 0.047 * longest))))
    # matplotlib fills column by column; of each row the label with the most lines counts.
    rows = math.ceil(len(legend) / columns)
    return columns, sum(max(map(len, broken[row::rows])) for row in range(rows))
