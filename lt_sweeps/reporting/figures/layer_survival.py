"""Figure: what is left of each layer, at the sparsities where masks are looked at."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from lt_sweeps.analysis.curve import Curve, distinct
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.stored_weights import point_near
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, levels
from lt_sweeps.reporting.figures.style import (
    MARKER,
    Figure,
    NotDrawn,
    decorate,
    entry,
    plain,
    sheet,
    styles,
)
from lt_sweeps.reporting.result_tables import remaining


def layers(found: Analysis) -> list[Figure]:
    """Percent of each layer's weights remaining, a panel per network and sparsity."""
    looked = [
        (curve, point)
        for given in found.layout.masks_at
        for curve in found.curves
        if (point := point_near(curve, given)) is not None
    ]
    data = pd.DataFrame([row for curve, point in looked for row in _rows(curve, point)])
    if data.empty:
        raise NotDrawn("no level near the sparsities of `masks_at`")
    stages = levels([point for _, point in looked])
    says = "Percent of each layer's weights remaining; mean and range over seeds."
    labels = {curve.label: curve.name for curve in found.curves}
    return [
        Figure(
            "layers",
            caption(found, says, stages=stages),
            data,
            stages,
            partial(_draw, data, labels),
        )
    ]


def _rows(curve: Curve, point: Point) -> list[dict[str, object]]:
    rows = [row for row in distinct(curve.cells) if row.stage in point.stages]
    made = []
    for number, layer in enumerate(rows[0].layers_remaining):
        left = [100 * r.layers_remaining[layer] / r.layers_total[layer] for r in rows]
        made.append(
            {
                "panel": f"{curve.panel}, {remaining(point.percent)}% left",
                "line": curve.label,
                "layer": layer,
                "number": number,
                "mean": float(np.mean(left)),
                "min": min(left),
                "max": max(left),
                "n": len(left),
            }
        )
    return made


def _draw(data: pd.DataFrame, names: dict[str, str]) -> Sheet:
    look = styles(list(names))
    shown = list(dict.fromkeys(data["line"]))
    made = sheet(data["panel"].nunique(), legend=[entry(label, look[label]) for label in shown])
    for axes, (title, here) in zip(made.axes, data.groupby("panel", sort=False), strict=True):
        decorate(axes, title=str(title), x="Layer", y="Weights remaining (%)")
        for label, line in here.groupby("line", sort=False):
            style = look[str(label)]
            axes.fill_between(
                line["number"], line["min"], line["max"], color=style.color, alpha=0.16, linewidth=0
            )
            axes.plot(
                line["number"],
                line["mean"],
                color=style.color,
                marker=style.marker,
                linestyle=style.dash,
                markersize=MARKER,
                linewidth=1.0,
            )
        _log_percent(axes)
        names_here = here.drop_duplicates("number").sort_values("number")["layer"]
        axes.set_xticks(range(len(names_here)), [_short(name) for name in names_here])
        if len(names_here) > 5:
            axes.tick_params(axis="x", labelrotation=90)
    return made


def _log_percent(axes: Axes) -> None:
    """A logarithmic axis that reads 5, 10, 20, 50, 100."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(layer: str) -> str:
    """A layer's name without what all of them share."""
    return plain(layer.removesuffix(".weight"))
