"""Figures of curves: a metric against percent of weights remaining, sparsity or level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.reporting.figures.axes import asked_limits, limits
from lt_sweeps.reporting.figures.captions import (
    caption,
    levels,
    marks,
    matching,
    panels,
    reported,
    seeds,
    tests,
)
from lt_sweeps.reporting.figures.curve_panel import panel, relevant, shown
from lt_sweeps.reporting.figures.style import GREY, Figure, NotDrawn, entry, sheet, styles
from lt_sweeps.reporting.result_tables import quantity

_BY = {"remaining": "", "sparsity": "_by_sparsity", "level": "_by_level"}


def curves(found: Analysis) -> list[Figure]:
    """Each metric of the layout against its x; the first one with the tests' stars."""
    layout = found.layout
    return [
        _figure(found, metric, layout.x, found.verdicts if metric == found.metric else ())
        for metric in layout.metrics
    ]


def by_sparsity(found: Analysis) -> list[Figure]:
    return [_figure(found, found.metric, "sparsity")]


def early_stop(found: Analysis) -> list[Figure]:
    """The evaluation with the lowest validation loss: how soon a ticket learns."""
    if not any(row.best_step is not None for c in found.reading.cells for row in c.rows):
        raise NotDrawn("no record says when its validation loss was lowest")
    return [_figure(found, "best_step", found.layout.x)]


def _figure(found: Analysis, metric: str, x: str, verdicts: Sequence[Verdict] = ()) -> Figure:
    drawn = found.curves_of(metric)
    name = "accuracy" if metric == "test_accuracy" else metric
    stages = levels([point for curve in drawn for point in curve.points])
    says = (
        seeds(drawn, found.layout),
        reported(drawn, metric),
        _stop(metric),
        marks(drawn),
        _outside(drawn, found.layout, metric),
        _sources(found.layout, drawn, metric, x),
        tests(verdicts, found.layout),
        matching(found) if metric == found.accuracy and x == found.layout.x else "",
    )
    return Figure(
        name=name + _BY[x],
        caption=caption(found, *says, stages=stages),
        data=_data(drawn, found.layout, metric, verdicts),
        stages=stages,
        draw=partial(_draw, drawn, found.layout, metric, x, verdicts),
    )


def _draw(
    drawn: Sequence[Curve], layout: ReportConfig, metric: str, x: str, verdicts: Sequence[Verdict]
) -> Sheet:
    look = styles([curve.name for curve in drawn])
    made = sheet(len(panels(drawn)) or 1, legend=_legend(drawn, layout, metric))
    for axes, here in zip(made.axes, list(panels(drawn).values()) or [[]], strict=True):
        own = [v for v in verdicts if here and v.curve.panel == here[0].panel]
        panel(axes, here, look, layout=layout, metric=metric, x=x, verdicts=own)
    return made


def _legend(drawn: Sequence[Curve], layout: ReportConfig, metric: str) -> list[Line2D]:
    look = styles([curve.name for curve in drawn])
    labels = {curve.name: curve.label for curve in drawn}
    entries = [entry(labels[name], style) for name, style in look.items()]
    if any(not point.pruned for curve in drawn for point in curve.points):
        taken = "dense" in labels.values()
        name = "mean of dense" if taken else "dense"
        entries.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.6, label=name))
    published = [p for here in panels(drawn).values() for p in relevant(layout, here, metric)]
    if published:
        ring = {"marker": "o", "markersize": 6, "markerfacecolor": "none"}
        entries.append(Line2D([], [], linestyle="none", color=GREY, label="published", **ring))
    return entries


def _data(
    drawn: Sequence[Curve], layout: ReportConfig, metric: str, verdicts: Sequence[Verdict]
) -> pd.DataFrame:
    """Everything that is plotted, in the units of the records."""
    star = {(v.curve.panel, v.curve.name, v.point.stages): v.mark(layout.alpha) for v in verdicts}
    rows = []
    for curve in drawn:
        for point in shown(curve):
            low, high = point.band(layout.band)
            rows.append(
                {
                    "panel": curve.panel,
                    "line": curve.label,
                    "level": point.level,
                    "percent_remaining": point.percent,
                    "sparsity": 1 - point.percent / 100,
                    "metric": metric,
                    "mean": point.mean,
                    "band": layout.band,
                    "low": low,
                    "high": high,
                    "n": point.n_finite,
                    "n_collapsed": point.n_collapsed,
                    "n_diverged": point.n - point.n_finite,
                    "n_missing": len(curve.seeds) - point.n,
                    "mark": star.get((curve.panel, curve.name, point.stages), ""),
                    "source": "",
                }
            )
    for title, here in panels(drawn).items():
        for each in relevant(layout, here, metric):
            rows += [
                {
                    "panel": title,
                    "line": each.label,
                    "percent_remaining": 100 * (1 - sparsity),
                    "sparsity": sparsity,
                    "metric": metric,
                    "mean": value,
                    "source": each.source,
                }
                for sparsity, value in each.points
            ]
    return pd.DataFrame(rows, columns=None if rows else ["panel", "line", "metric", "mean"])


def _stop(metric: str) -> str:
    return (
        "Early-stop step: the evaluation with the lowest validation loss."
        if metric in ("best_step", "reported_step")
        else ""
    )


def _outside(drawn: Sequence[Curve], layout: ReportConfig, metric: str) -> str:
    """What the picture does not show: points below the axis, and those without a number."""
    says = []
    if sum(len(curve.points) - len(shown(curve)) for curve in drawn):
        says.append("Levels with no finite replicate or no weight left are not drawn.")
    lowest = math.inf
    for here in panels(drawn).values():
        lines = [points for curve in here if (points := shown(curve))]
        if lines:
            least = min(p.mean for points in lines for p in points)
            beside = relevant(layout, here, metric)
            ends = asked_limits(layout, metric)
            if (ends or limits(lines, layout.band, metric, beside))[0] > least:
                lowest = min(lowest, least)
    if lowest < math.inf:
        _, scale = quantity(metric)
        unit = "%" if scale == 100 else ""
        says.append(f"▼: leaves the panel, down to {scale * lowest:.4g}{unit}.")
    return " ".join(says)


def _sources(layout: ReportConfig, drawn: Sequence[Curve], metric: str, x: str) -> str:
    if x == "level":
        return ""
    given = [p for here in panels(drawn).values() for p in relevant(layout, here, metric)]
    sources = list(dict.fromkeys(each.source for each in given))
    return f"Rings: published numbers, {'; '.join(sources)}." if sources else ""
