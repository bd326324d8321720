"""A panel with a row for each line: a value per seed, their mean and their range."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from lt_sweeps.reporting.figures.style import GREY, PALE, Style, wrapped_label


def prepare_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Prepare axes in which line i has its row at height i, the first on top."""
    # The limits run downwards, so that the first line stands on top as it does in a legend.
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [wrapped_label(label) for label in labels])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for i in range(len(labels)):
        axes.axhline(i, color=PALE, linewidth=0.5, zorder=0)


def draw_row(
    axes: Axes, height: float, values: pd.Series, style: Style, *, filled: bool = True
) -> None:
    """The values as ticks, their range as a line, and their mean as the style's marker."""
    if values.empty:
        return
    # The range and not an interval: with three to five seeds every value can be seen, and an
    # interval of the mean would be read as the spread of the runs.
    axes.plot([values.min(), values.max()], [height, height], color=style.color, linewidth=0.9)
    axes.plot(
        values,
        [height] * len(values),
        linestyle="none",
        marker="|",
        markersize=4,
        color=GREY,
        markeredgewidth=0.6,
    )
    axes.plot(
        values.mean(),
        height,
        marker=style.marker,
        markersize=4.2,
        markeredgewidth=0.8,
        color=style.color,
        markerfacecolor=style.color if filled else "white",
        zorder=3,
    )
