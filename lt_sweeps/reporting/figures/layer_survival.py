"""Figure: the percent of weights remaining in each layer, at the sparsities `report.masks_at`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from lt_sweeps.analysis.curve import Curve, Point, distinct
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.captions import caption, span_text
from lt_sweeps.reporting.figures.drawn_levels import panels_at, percents_sentence, stage_ids
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.marks import banded_lines
from lt_sweeps.reporting.figures.worth import all_alike, leave_out_if

_LETTERS = 44  # of all names of layers below a panel


def layer_figures(analysis: Analysis) -> list[Figure]:
    """Draw the percent of each layer's weights remaining, with a panel per network and sparsity."""
    levels = panels_at(analysis.curves, analysis.layout.masks_at)
    data = pd.DataFrame([row for place in levels for row in _rows(*place)])
    if data.empty:
        raise NotDrawn("no line has a level near a sparsity of `report.masks_at`")
    leave_out_if(analysis, all_alike(data, "number", ("mean", "min", "max")))
    # Styles follow the order of all lines, so that a line looks the same as in other figures even
    # if some lines have no level here.
    draw = partial(_draw, data, [curve.label for curve in analysis.curves])
    stages = stage_ids([point for _, point, _ in levels])
    sentence = (
        "Percent of each layer's weights remaining; mean and range over seeds, "
        f"n = {span_text(data['n'])}.{percents_sentence(levels)}"
    )
    return [Figure("layers", caption(analysis, sentence), data, stages, draw)]


def _rows(curve: Curve, point: Point, panel: str) -> list[dict[str, object]]:
    """Return one row per layer, in the order of the network."""
    records = [row for row in distinct(curve.cells) if row.stage in point.stages]
    rows = []
    for number, layer in enumerate(records[0].layers_remaining):
        percents = [100 * r.layers_remaining[layer] / r.layers_total[layer] for r in records]
        rows.append(
            {
                "panel": panel,
                "line": curve.label,
                "layer": layer,
                "number": number,
                "mean": float(np.mean(percents)),
                "min": min(percents),
                "max": max(percents),
                "n": len(percents),
            }
        )
    return rows


def _draw(data: pd.DataFrame, labels: Sequence[str]) -> Sheet:
    columns, names = ("number", "mean", "min", "max"), ("Layer", "Weights remaining (%)")
    sheet, panels = banded_lines(data, labels, columns, names, marker=style.MARKER)
    for axes, rows in panels:
        _log_percent(axes)
        # Lines of different networks may have different layers at one position: all are named.
        names = rows.groupby("number")["layer"].unique()
        # The ending `.weight` is dropped, because all layers have it.
        ticks = [
            style.escaped("\n".join(layer.removesuffix(".weight") for layer in layers))
            for layers in names
        ]
        axes.set_xticks(range(len(ticks)), ticks)
        # More letters than this do not fit side by side in a panel of one column.
        longest = max(len(line) for tick in ticks for line in tick.split("\n"))
        if len(ticks) * (longest + 1) > _LETTERS:
            axes.tick_params(axis="x", labelrotation=90)
    return sheet


def _log_percent(axes: Axes) -> None:
    """Make the y axis logarithmic, with ticks that read 5, 10, 20, 50, 100."""
    # Global pruning leaves 90% of one layer and 2% of another. On a linear axis all sparse layers,
    # which are the ones that break a network, would be at the bottom. Minor ticks get no label,
    # because between 20 and 50 matplotlib would print 30 and 40 over each other.
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
