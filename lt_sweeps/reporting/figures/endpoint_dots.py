"""Figure: the endpoints that have one number per run, together with published numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve, by_panel
from lt_sweeps.analysis.endpoint import NAMES
from lt_sweeps.analysis.endpoint_tests import PER_RUN, SPARSITIES
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.captions import (
    caption,
    chosen_text,
    margin_text,
    report_at_sentence,
    span_text,
)
from lt_sweeps.reporting.figures.curve_panel import published_for
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.marks import draw_rings, draw_row, prepare_rows

_COLUMNS = ("panel", "line", "endpoint", "seed", "value", "source")
_Row = tuple[str, str, str, str, float | None, str]
"""An endpoint of a run, or a published endpoint, in the order of `_COLUMNS`."""


def endpoint_figures(analysis: Analysis) -> list[Figure]:
    """Draw the endpoints that are a number per run, with a panel for each."""
    measured = list(_measured(analysis))
    if not measured:
        raise NotDrawn("no run has an endpoint yet")
    data = pd.DataFrame([*measured, *_published(analysis)], columns=_COLUMNS)
    sources = list(dict.fromkeys(data.loc[data["source"] != "", "source"]))
    sentences = (
        f"One number per run: ticks are seeds, markers their mean (n = {_n(data)}), lines their "
        f"range. Best level: chosen {chosen_text(analysis.layout, analysis.accuracy)}. Within the "
        f"margin: at most {margin_text(analysis)} worse than the dense network of the same seed. "
        "Mean over log density: the area under the curve, divided by its width.",
        _lower_bounds(analysis),
        report_at_sentence(analysis.curves, analysis.accuracy),
        f"Rings: published numbers, {'; '.join(sources)}." if sources else "",
    )
    draw = partial(_draw, data, analysis.curves_of(analysis.accuracy))
    return [Figure("endpoints", caption(analysis, *sentences), data, analysis.stages, draw)]


def _lower_bounds(analysis: Analysis) -> str:
    """Name the lines whose highest sparsity is a lower bound: some run never leaves the margin."""
    several = len(by_panel(analysis.curves)) > 1
    lines = [
        f"{curve.label} of {curve.panel}" if several else curve.label
        for curve, endpoints in analysis.endpoints
        if endpoints["sparsest_not_inferior"].at_least
    ]
    return f"Lower bounds, as runs end within the margin: {', '.join(lines)}." if lines else ""


def _n(data: pd.DataFrame) -> str:
    """The number of seeds behind the means: `5`, or `3 to 5` if some seeds lack an endpoint."""
    runs = data[data["seed"] != ""]
    return span_text(runs.groupby(["panel", "line", "endpoint"]).size())


def _measured(analysis: Analysis) -> Iterator[_Row]:
    for curve, endpoints in analysis.endpoints:
        for name in PER_RUN:
            for seed, value in endpoints[name].values.items():
                yield curve.panel, curve.label, name, seed, value, ""


def _published(analysis: Analysis) -> Iterator[_Row]:
    """Yield the published endpoints; each is one value without a seed."""
    # A published line may have the name of a measured line. Its ring is then drawn in that row.
    labels = {curve.name: curve.label for curve in analysis.curves}
    for panel, curves in by_panel(analysis.curves).items():
        for endpoint in PER_RUN:
            for published in published_for(analysis.layout, curves, endpoint):
                line = labels.get(published.label, published.label)
                yield panel, line, endpoint, "", published.value, published.source


def _draw(data: pd.DataFrame, curves: Sequence[Curve]) -> Sheet:
    # Measured lines come first, so that they have the same styles as in other figures.
    styles = style.line_styles([*(curve.label for curve in curves), *data["line"]])
    order = list(styles)
    of_panel = {
        panel: sorted(lines, key=order.index) for panel, lines in style.lines_by_panel(data).items()
    }
    metrics = {curve.panel: curve.metric for curve in curves}
    endpoints = [name for name in PER_RUN if name in set(data["endpoint"])]
    places = list(product(of_panel, endpoints))
    own = {panel: 0.75 + style.rows_height(lines, each=0.17) for panel, lines in of_panel.items()}
    # Several networks have a row each, and only its first panel has the names of the lines.
    several = len(of_panel) > 1
    beside, letters = (len(endpoints), 30) if several else (2, 40)
    sheet = style.new_sheet(len(places), height=[own[panel] for panel, _ in places], beside=beside)
    for axes, (panel, endpoint) in zip(sheet.axes, places, strict=True):
        name = NAMES[endpoint]
        style.decorate(axes, title=textwrap.fill(panel, letters), grid="x")
        # On two lines, because the layout makes no room for a label that is longer than its axis.
        scale, label = metrics[panel].scale, f"{name}:\n{metrics[panel].label}"
        if endpoint in SPARSITIES:
            scale, label = 100.0, textwrap.fill(f"{name} (%)", 36)
        axes.set_xlabel(label[:1].upper() + label[1:], fontsize=style.SMALL)
        prepare_rows(axes, of_panel[panel])
        if several and endpoint != endpoints[0]:
            axes.tick_params(axis="y", labelleft=False)
        panel_rows = data.query("panel == @panel and endpoint == @endpoint")
        if panel_rows.empty:
            axes.set_xticks([])
            middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
            axes.text(0.5, 0.5, "no line has a value", fontsize=style.SMALL, **middle)
        for i, line in enumerate(of_panel[panel]):
            rows = panel_rows[panel_rows["line"] == line]
            draw_row(axes, i, scale * rows.loc[rows["seed"] != "", "value"], styles[line])
            rings = scale * rows.loc[rows["seed"] == "", "value"]
            draw_rings(axes, list(rings), [i] * len(rings), style.GREY)
    return sheet
