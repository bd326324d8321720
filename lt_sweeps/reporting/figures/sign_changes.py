"""Figure: how many weights change their sign while they train, of those kept and those pruned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.stored_weights import point_near, prunings
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, levels
from lt_sweeps.reporting.figures.dot_rows import row, rows_panel
from lt_sweeps.reporting.figures.style import (
    GREY,
    Figure,
    NotDrawn,
    decorate,
    rows_height,
    sheet,
    styles,
)
from lt_sweeps.reporting.result_tables import remaining


def signs(found: Analysis) -> list[Figure]:
    """Percent of weights whose sign at the end is not that of their initialisation."""
    rows, points = [], []
    for given in found.layout.masks_at:
        for curve in found.curves:
            point = point_near(curve, given)
            made = [] if point is None else _rows(found, curve, point)
            rows += made
            points += [point] if made and point is not None else []
    if not rows:
        raise NotDrawn("no tickets near `masks_at` in the store, or no ids of inits")
    data, stages = pd.DataFrame(rows), levels(points)
    says = (
        "Weights whose sign differs between initialisation and the end of the training before the "
        "pruning (%): filled, of those that it keeps; open, of those that it prunes. Ticks are "
        f"seeds (n = {data['seed'].nunique()}), markers their mean, lines their range."
    )
    names = {curve.label: curve.name for curve in found.curves}
    return [
        Figure(
            "signs", caption(found, says, stages=stages), data, stages, partial(_draw, data, names)
        )
    ]


def _rows(found: Analysis, curve: Curve, point: Point) -> list[dict[str, object]]:
    made = []
    for seed in curve.seeds:
        layers = list(prunings(found.reading.root, curve, point, seed))
        if not layers:
            continue
        kept = np.concatenate([each.kept for each in layers]).astype(bool)
        flipped = np.concatenate([np.sign(e.init) != np.sign(e.final) for e in layers])
        made.append(
            {
                "panel": f"{curve.panel}, {remaining(point.percent)}% left",
                "line": curve.label,
                "seed": seed,
                "kept_flipped": 100 * float(flipped[kept].mean()),
                "pruned_flipped": 100 * float(flipped[~kept].mean()) if (~kept).any() else None,
                "kept": int(kept.sum()),
                "pruned": int((~kept).sum()),
            }
        )
    return made


def _draw(data: pd.DataFrame, names: Mapping[str, str]) -> Sheet:
    look = styles(list(names))
    lines = list(dict.fromkeys(data["line"]))
    dots = [
        Line2D([], [], linestyle="none", marker="o", color=GREY, markersize=4, label=text, **face)
        for text, face in {"kept": {}, "pruned": {"markerfacecolor": "white"}}.items()
    ]
    height = 0.6 + rows_height(lines, each=0.26)
    made = sheet(data["panel"].nunique(), height=height, legend=dots)
    for axes, (title, here) in zip(made.axes, data.groupby("panel", sort=False), strict=True):
        decorate(axes, title=str(title), x="Signs changed (%)", grid="x")
        rows_panel(axes, lines)
        for i, line in enumerate(lines):
            kept, pruned = (
                here.loc[here["line"] == line, f"{which}_flipped"].dropna()
                for which in ("kept", "pruned")
            )
            row(axes, i - 0.15, kept, look[line])
            row(axes, i + 0.15, pruned, look[line], filled=False)
        axes.set_xlim(left=0)
    return made
