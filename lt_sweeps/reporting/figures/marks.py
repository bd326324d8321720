"""Elements that several figures draw: markers, rings, lines with bands, rows of values by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.style import Style


def draw_marker(
    axes: Axes, x: float, y: float, look: Style, size: float, *, filled: bool = True, **options: Any
) -> None:
    """Draw a line's marker with a size in points, white inside if it is not `filled`."""
    options |= {"color": look.color, "marker": look.marker, "markersize": size}
    axes.plot(x, y, markerfacecolor=look.color if filled else "white", **options)


def draw_rings(axes: Axes, x: Sequence[float], y: Sequence[float], color: str) -> None:
    """Draw rings at published numbers, wide enough to be visible around a marker of a line."""
    ring: Any = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 0.8}
    axes.plot(x, y, "o", color=color, zorder=5, **ring)


def banded_lines(
    data: pd.DataFrame,
    labels: Sequence[str],
    columns: tuple[str, str, str, str],
    names: tuple[str, str],
    *,
    marker: float,
) -> tuple[Sheet, list[tuple[Axes, pd.DataFrame]]]:
    """Draw a figure of lines with markers and bands; return it with its panels' axes and rows.

    `columns` name the columns of `data` for x, the line, and the lower and upper edge of the band.
    `names` are the labels of the x and y axes; `marker` is the size of markers in points.
    """
    styles = style.line_styles(labels)
    legend = [style.legend_entry(line, styles[line]) for line in dict.fromkeys(data["line"])]
    sheet, groups = style.panels_of(data, "panel", legend=legend)
    panels = [(axes, title, rows) for axes, (title,), rows in groups]
    for axes, title, panel_rows in panels:
        style.decorate(axes, title=title, x=names[0], y=names[1])
        for line, rows in panel_rows.groupby("line", sort=False):
            x, middle, low, high = (rows[name] for name in columns)
            look = styles[str(line)]
            # Bands have no edge lines: two bands that cross would otherwise add four lines.
            axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
            axes.plot(x, middle, **style.line_options(look, marker))
    return sheet, [(axes, rows) for axes, _, rows in panels]


def prepare_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Prepare axes with a row at height i for line i, the first line on top."""
    # The y axis is reversed, so that the first line is on top as in a legend.
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [style.wrapped_label(label) for label in labels])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for i in range(len(labels)):
        axes.axhline(i, color=style.PALE, linewidth=0.5, zorder=0)


def draw_row(
    axes: Axes, height: float, values: pd.Series, look: Style, *, filled: bool = True
) -> None:
    """Draw the values as ticks, their range as a line, and their mean as the line's marker."""
    if values.empty:
        return
    # The range is drawn and not a confidence interval: with three to five seeds every value is
    # visible, and an interval of the mean would be read as the spread of the runs.
    axes.plot([values.min(), values.max()], [height, height], color=look.color, linewidth=0.9)
    ticks: Any = {"markersize": 4, "markeredgewidth": 0.6, "color": style.GREY}
    axes.plot(values, [height] * len(values), "|", **ticks)
    middle = values.mean()
    draw_marker(axes, middle, height, look, 4.2, filled=filled, markeredgewidth=0.8, zorder=3)
