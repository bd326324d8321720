"""Paper: the sizes, fonts, lines and files of every figure, and `Figure` itself.

A panel is 3.25 inches wide, a column of a two-column page; two panels fill the page. Colours are
Okabe and Ito's, and markers and dashes differ too, so that lines stay apart for every reader and
in greyscale.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

COLUMN, PAGE = 3.25, 6.75  # inches
GREY, PALE = "#555555", "#E5E5E5"
SMALL, NORMAL = 6.5, 7.5  # points
MARKER = 3.2
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
COLOURS += ["#E69F00", "#56B4E9", "#7A4A12", "#7F7F00"]
MARKERS = "os^DvPX<>p*h"
# 9 colours, 12 markers, 4 dashes: no two of the first 36 lines look alike.
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))]
# Type 42 fonts: text in a PDF stays text, and journals accept it.
_RC: Any = {"pdf.fonttype": 42, "font.size": NORMAL, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}


class NotDrawn(Exception):
    """A figure that the data do not allow; says why."""


@dataclass(frozen=True)
class Figure:
    """One picture: its file name, its caption, the numbers plotted and what they stand on."""

    name: str
    caption: str
    data: pd.DataFrame
    stages: tuple[str, ...]
    draw: Callable[[], Sheet]


@dataclass(frozen=True)
class Style:
    """How one line is drawn, in every panel and every figure."""

    color: str
    marker: str
    dash: Any  # a matplotlib line style


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each line, in their order."""
    return {
        name: Style(COLOURS[i % 9], MARKERS[i % 12], DASHES[i % 4])
        for i, name in enumerate(dict.fromkeys(names))
    }


def sheet(
    panels: int, *, height: float = 2.1, legend: Sequence[Artist] = (), beside: int = 2
) -> Sheet:
    """An empty figure of so many panels, at most `beside` in a row, its legend below."""
    columns = min(panels, beside)
    rows = math.ceil(panels / columns)
    width = COLUMN if columns == 1 else PAGE
    legend_columns = _legend_columns(legend, width)
    legend_rows = math.ceil(len(legend) / legend_columns)
    with mpl.rc_context(_RC):
        made = Sheet(figsize=(width, height * rows + 0.15 * legend_rows), layout="constrained")
        FigureCanvasAgg(made)
        grid = made.subplots(rows, columns, squeeze=False).flat
        for axes in list(grid)[panels:]:
            axes.remove()
    if legend:
        made.legend(
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
    return made


def entry(label: str, style: Style) -> Line2D:
    """A line's entry in the legend."""
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        linestyle=style.dash,
        markersize=MARKER,
        linewidth=1.0,
        label=plain(label),
    )


def decorate(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "y") -> None:
    """Titles, small ticks, a pale grid along one axis and no box."""
    axes.set_title(plain(title), fontsize=NORMAL)
    axes.set_xlabel(plain(x), fontsize=NORMAL)
    axes.set_ylabel(plain(y), fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axes.tick_params(which="minor", width=0.4, length=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=PALE, linewidth=0.5)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)


def plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def wrapped(label: str) -> str:
    """A label for the left of an axis: lines of at most 24 characters."""
    return plain(textwrap.fill(label, 24))


def rows_height(labels: Sequence[str], *, each: float) -> float:
    """Inches for a row per label: `each`, or more where a label takes several lines."""
    lines = max((wrapped(label).count("\n") + 1 for label in labels), default=1)
    return len(labels) * max(each, 0.12 * lines)


def rendered(figure: Figure) -> Mapping[str, bytes]:
    """The figure as its files: PNG, PDF, the numbers as CSV, and caption and ids as text."""
    with mpl.rc_context(_RC):
        drawn = figure.draw()
        png = _saved(drawn, "png", dpi=300, metadata={"Description": figure.caption})
        drawn.set_layout_engine("none")  # it lies as it should; another pass takes as long again
        pdf = _saved(
            drawn, "pdf", metadata={"Title": figure.name, "Subject": figure.caption, **_NO_DATE}
        )
    ids = "".join(f"{stage}\n" for stage in figure.stages)
    text = f"{figure.caption}\n\nStages ({len(figure.stages)}):\n{ids}"
    return {
        f"{figure.name}.png": png,
        f"{figure.name}.pdf": pdf,
        f"{figure.name}.csv": csv(figure.data),
        f"{figure.name}.txt": text.encode(),
    }


def csv(data: pd.DataFrame) -> bytes:
    """The numbers of a figure or table, the same bytes for the same numbers."""
    return data.to_csv(index=False, lineterminator="\n").encode()


_NO_DATE = {"CreationDate": None}


def _saved(drawn: Sheet, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format=kind, **options)
    return file.getvalue()


def _legend_columns(legend: Sequence[Artist], width: float) -> int:
    longest = max((len(str(each.get_label())) for each in legend), default=0)
    return max(1, min(len(legend), int(width / (0.4 + 0.047 * longest))))
