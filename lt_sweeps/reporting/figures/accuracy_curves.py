"""Figures of curves: a metric against percent of weights remaining, sparsity or level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

from lt_sweeps.analysis.curve import Curve, by_panel
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.analysis.verdict_sentences import conclusions
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import Published, ReportConfig
from lt_sweeps.reporting.figures import captions, style
from lt_sweeps.reporting.figures.axes import panel_limits
from lt_sweeps.reporting.figures.curve_panel import (
    MARK_ROW,
    draw_panel,
    drawable_points,
    mark_id,
    published_for,
    starred,
)
from lt_sweeps.reporting.figures.drawn_levels import stage_ids
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.style import Style
from lt_sweeps.reporting.figures.worth import capped, leave_out_if, one_point
from lt_sweeps.reporting.result_tables import percent_text

_SEEDS = 20  # the number of values shown in a tip
_SUFFIXES = {"remaining": "", "sparsity": "_by_sparsity", "level": "_by_level"}  # of file names


def metric_figures(analysis: Analysis) -> list[Figure]:
    """Draw each metric of `report.metrics` against `report.x`; only the first has test stars."""
    layout, first = analysis.layout, analysis.layout.metrics[0]
    return [
        figure
        for requested in layout.metrics
        for figure in _figures(
            analysis, requested, layout.x, analysis.verdicts if requested == first else ()
        )
    ]


def sparsity_figures(analysis: Analysis) -> list[Figure]:
    """Draw the first metric against sparsity on a linear axis."""
    leave_out_if(analysis, one_point(analysis.curves))
    return _figures(analysis, analysis.layout.metrics[0], "sparsity")


def early_stop_figures(analysis: Analysis) -> list[Figure]:
    """Draw the step with the lowest validation loss, which shows how fast a ticket learns."""
    if not any(row.best_step is not None for c in analysis.results.cells for row in c.rows):
        raise NotDrawn("no record has a `best_step`, the step with the lowest validation loss")
    curves = analysis.curves_of("best_step")
    leave_out_if(analysis, one_point(curves), capped(curves))
    return _figures(analysis, "best_step", analysis.layout.x)


def _figures(
    analysis: Analysis, requested: str, x: str, verdicts: Sequence[Verdict] = ()
) -> list[Figure]:
    """The figure of a metric; `test_metric` gives one figure for each metric that a task has."""
    by_metric = group_by(analysis.curves_of(requested), lambda curve: curve.metric)
    by_metric = by_metric or {Quantity.of(analysis.name_of(requested)): []}
    return [
        _figure(
            analysis,
            metric,
            x,
            curves,
            [v for v in verdicts if v.curve.metric == metric],
            is_first=requested == analysis.layout.metrics[0],
        )
        for metric, curves in by_metric.items()
    ]


def _figure(
    analysis: Analysis,
    metric: Quantity,
    x: str,
    curves: Sequence[Curve],
    verdicts: Sequence[Verdict],
    *,
    is_first: bool,
) -> Figure:
    """One figure. `is_first`: it shows the first metric, and so has `report.ylim` and tips."""
    layout = analysis.layout if is_first else replace(analysis.layout, ylim=None)
    drawn = _distinguishable(curves)
    return Figure(
        name=metric.file_name + _SUFFIXES[x],
        caption=captions.caption(
            analysis,
            *conclusions(verdicts, layout),
            *(captions.winning_sentences(analysis) if verdicts else ()),
            captions.seeds_sentence(curves, layout),
            captions.report_at_sentence(curves, metric.name),
            "Early-stop step: the step with the lowest validation loss."
            if metric.name in ("best_step", "reported_step")
            else "",
            captions.marker_sentence(curves),
            f"Only the first {style.LOOKS} lines of each panel are drawn; the table of this figure "
            f"has all {len(curves)} lines."
            if len(drawn) < len(curves)
            else "",
            _left_out(curves, layout, metric),
            _sources(layout, curves, metric.name, x),
            captions.tests_sentence(verdicts, layout),
            captions.not_inferior_sentence(analysis)
            if metric.judges and analysis.accuracy == analysis.metric and x == layout.x
            else "",
        ),
        data=_data(curves, layout, metric.name, verdicts),
        stages=stage_ids([point for curve in curves for point in curve.points]),
        draw=partial(_draw, drawn, _styles(analysis, drawn), layout, metric.name, x, verdicts),
        tips=_tips(drawn, layout, metric) if is_first and x == layout.x else {},
    )


def _styles(analysis: Analysis, drawn: Sequence[Curve]) -> dict[str, Style]:
    """The style of each line, by its name. Lines with equal labels look the same in all figures."""
    labels = [curve.label for curve in (*analysis.curves, *drawn)]
    styles = style.line_styles(labels)
    return {curve.name: styles[curve.label] for curve in drawn}


def _tips(curves: Sequence[Curve], layout: ReportConfig, metric: Quantity) -> dict[str, str]:
    """The tooltip of each marker, by its id: line, level, mean and band, and the value per seed."""
    text = metric.value_text
    tips = {}
    for curve in curves:
        for point in drawable_points(curve):
            low, high = point.band(layout.band)
            band = "" if math.isnan(low) else f" [{text(low)}, {text(high)}]"
            seeds = [f"{seed}: {text(v)}" for seed, v in point.values.items()]
            ending = f", and {len(seeds) - _SEEDS} more" if len(seeds) > _SEEDS else ""
            tips[mark_id(curve, point)] = (
                f"{curve.label}, {percent_text(point.percent)}% left (level {point.level})\n"
                f"{metric.label} {text(point.mean)}{band}, n = {point.n_finite}\n"
                f"by seed: {', '.join(seeds[:_SEEDS])}{ending}"
            )
    return tips


def _distinguishable(curves: Sequence[Curve]) -> list[Curve]:
    """The first lines of each panel, one per style; more lines would repeat a style."""
    panels = by_panel(curves).values()
    first = {(curve.panel, curve.name) for panel in panels for curve in panel[: style.LOOKS]}
    return [curve for curve in curves if (curve.panel, curve.name) in first]


def _draw(
    curves: Sequence[Curve],
    styles: Mapping[str, Style],
    layout: ReportConfig,
    metric: str,
    x: str,
    verdicts: Sequence[Verdict],
) -> Sheet:
    # Without records, one panel says "no records yet".
    panels = list(by_panel(curves).values()) or [[]]
    own = []
    for panel_curves in panels:
        shown = {(curve.panel, curve.name) for curve in panel_curves}
        own.append([v for v in verdicts if (v.curve.panel, v.curve.name) in shown])
    # Rows of marks above a panel, beyond two, add to the height instead of flattening the lines.
    heights = [2.1 + MARK_ROW * max(0, len(starred(tested, layout)) - 2) for tested in own]
    legend = _legend(curves, styles, layout, metric)
    sheet = style.new_sheet(len(panels), height=heights, legend=legend)
    for axes, panel_curves, tested in zip(sheet.axes, panels, own, strict=True):
        draw_panel(axes, panel_curves, styles, layout=layout, metric=metric, x=x, verdicts=tested)
    return sheet


def _legend(
    curves: Sequence[Curve], styles: Mapping[str, Style], layout: ReportConfig, metric: str
) -> list[Line2D]:
    labels = {curve.label: styles[curve.name] for curve in curves}
    entries = [style.legend_entry(label, look) for label, look in labels.items()]
    unpruned = [point for curve in curves for point in curve.points if not point.pruned]
    if unpruned:
        # A line of the sweep may have the name `dense`.
        name = "mean of dense" if "dense" in labels else "dense"
        if any(point.scored for point in unpruned):
            untrained = all(point.scored for point in unpruned)
            name = "untrained, no mask" if untrained else f"{name}; untrained, no mask"
        entries.append(Line2D([], [], color=style.GREY, linestyle="--", linewidth=0.6, label=name))
    if _all_published(curves, layout, metric):
        ring = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "color": style.GREY}
        entries.append(Line2D([], [], linestyle="none", label="published", **ring))
    return entries


def _data(
    curves: Sequence[Curve], layout: ReportConfig, metric: str, verdicts: Sequence[Verdict]
) -> pd.DataFrame:
    """All numbers that are plotted, in the units of the records."""
    stars = {(v.curve.panel, v.curve.name, v.point.stages): v.mark(layout.alpha) for v in verdicts}
    rows = []
    for curve in curves:
        for point in drawable_points(curve):
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
                    "mark": stars.get((curve.panel, curve.name, point.stages), ""),
                    "source": "",
                }
            )
    # A published line may have the name of a measured line; its rows then get that line's label.
    labels = {curve.name: curve.label for curve in curves}
    for title, panel_curves in by_panel(curves).items():
        for published in published_for(layout, panel_curves, metric):
            rows += [
                {
                    "panel": title,
                    "line": labels.get(published.label, published.label),
                    "percent_remaining": 100 * (1 - sparsity),
                    "sparsity": sparsity,
                    "metric": metric,
                    "mean": value,
                    "source": published.source,
                }
                for sparsity, value in published.points
            ]
    return pd.DataFrame(rows, columns=None if rows else ["panel", "line", "metric", "mean"])


def _left_out(curves: Sequence[Curve], layout: ReportConfig, metric: Quantity) -> str:
    """Describe the points that are not in the picture: no finite number, or outside the y axis."""
    sentences, below, above = [], list[float](), list[float]()
    if any(len(drawable_points(curve)) < len(curve.points) for curve in curves):
        sentences.append("Levels with no finite replicate or no weight left are not drawn.")
    for panel_curves in by_panel(curves).values():
        if lines := [points for curve in panel_curves if (points := drawable_points(curve))]:
            published = published_for(layout, panel_curves, metric.name)
            low, high = panel_limits(lines, layout, metric, published)
            means = [point.mean for points in lines for point in points]
            below += [mean for mean in means if mean < low]
            above += [mean for mean in means if mean > high]
    if below:
        sentences.append(f"▼: leaves the panel, down to {metric.number_text(min(below))}.")
    if above:
        sentences.append(f"▲: leaves the panel, up to {metric.number_text(max(above))}.")
    return " ".join(sentences)


def _all_published(curves: Sequence[Curve], layout: ReportConfig, metric: str) -> list[Published]:
    """The published numbers of all panels."""
    panels = by_panel(curves).values()
    return [line for panel in panels for line in published_for(layout, panel, metric)]


def _sources(layout: ReportConfig, curves: Sequence[Curve], metric: str, x: str) -> str:
    if x == "level":
        return ""
    published = _all_published(curves, layout, metric)
    sources = list(dict.fromkeys(line.source for line in published))
    return f"Rings: published numbers, {'; '.join(sources)}." if sources else ""
