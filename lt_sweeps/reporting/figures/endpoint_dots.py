"""Figure: one number per run and line, with the published ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.endpoint import NAMES
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.csv_tables import PER_RUN
from lt_sweeps.reporting.figures.captions import caption, margin
from lt_sweeps.reporting.figures.curve_panel import relevant
from lt_sweeps.reporting.figures.dot_rows import row, rows_panel
from lt_sweeps.reporting.figures.style import (
    GREY,
    SMALL,
    Figure,
    NotDrawn,
    decorate,
    rows_height,
    sheet,
    styles,
)
from lt_sweeps.reporting.result_tables import quantity


def endpoints(found: Analysis) -> list[Figure]:
    """The endpoints that are a number per run, a panel each."""
    rows = [row for curve, _ in found.endpoints for row in _rows(found, curve.name, curve.panel)]
    rows += _published(found)
    if not any(row["seed"] for row in rows):
        raise NotDrawn("no run has an endpoint yet")
    data = pd.DataFrame(rows)
    looks = found.layout
    sources = list(dict.fromkeys(data.loc[data["source"] != "", "source"]))
    says = (
        f"A number per run: ticks are seeds, markers their mean (n = {_n(data)}), lines their "
        f"range. Not inferior: at most {margin(looks)} below the same seed's dense network. "
        f"Best level: picked by {looks.select} accuracy.",
        f"Rings: published numbers, {'; '.join(sources)}." if sources else "",
    )
    return [
        Figure(
            "endpoints",
            caption(found, *says, stages=found.stages),
            data,
            found.stages,
            partial(_draw, data, [curve.label for curve in found.curves]),
        )
    ]


def _n(data: pd.DataFrame) -> str:
    runs = data[data["seed"] != ""]
    counts = runs.groupby(["panel", "line", "endpoint"]).size()
    least, most = counts.min(), counts.max()
    return str(most) if least == most else f"{least} to {most}"


def _rows(found: Analysis, name: str, panel: str) -> list[dict[str, object]]:
    return [
        {
            "panel": curve.panel,
            "line": curve.label,
            "endpoint": each.name,
            "seed": seed,
            "value": value,
            "source": "",
        }
        for curve, ends in found.endpoints
        if (curve.name, curve.panel) == (name, panel)
        for each in ends
        if each.name in PER_RUN
        for seed, value in each.values.items()
    ]


def _published(found: Analysis) -> list[dict[str, object]]:
    labels = {curve.name: curve.label for curve in found.curves}
    return [
        {
            "panel": panel,
            "line": labels.get(each.label, each.label),
            "endpoint": endpoint,
            "seed": "",
            "value": each.value,
            "source": each.source,
        }
        for panel, here in group_by(found.curves, lambda curve: curve.panel).items()
        for endpoint in PER_RUN
        for each in relevant(found.layout, here, endpoint)
    ]


def _draw(data: pd.DataFrame, labels: Sequence[str]) -> Sheet:
    lines = list(dict.fromkeys([*labels, *data["line"]]))
    look = styles(lines)
    groups = list(data.groupby(["panel", "endpoint"], sort=False))
    made = sheet(len(groups), height=0.65 + rows_height(lines, each=0.17))
    for axes, (_, here) in zip(made.axes, groups, strict=True):
        panel, endpoint = (str(here[name].iloc[0]) for name in ("panel", "endpoint"))
        _, scale = quantity("test_accuracy")
        says = NAMES[endpoint]
        decorate(axes, title=panel, grid="x")
        axes.set_xlabel(f"{says[:1].upper()}{says[1:]} (%)", fontsize=SMALL)
        rows_panel(axes, lines)
        for i, line in enumerate(lines):
            own = here[here["line"] == line]
            row(axes, i, scale * own.loc[own["seed"] != "", "value"], look[line])
            rings = scale * own.loc[own["seed"] == "", "value"]
            axes.plot(
                rings,
                [i] * len(rings),
                linestyle="none",
                marker="o",
                markersize=7.5,
                markerfacecolor="none",
                color=GREY,
                zorder=4,
            )
    return made
