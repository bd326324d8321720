"""Figure: where in the plane of initial and final weights a criterion's mask keeps them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.stored_weights import point_near, prunings
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, levels
from lt_sweeps.reporting.figures.style import SMALL, Figure, NotDrawn, decorate, sheet
from lt_sweeps.reporting.result_tables import remaining

EDGE, BINS = 3.0, 48  # standard deviations shown to each side, and squares across


def plane(found: Analysis) -> list[Figure]:
    """The plane of each line at the first of the layout's sparsities, all seeds together."""
    rows, points = [], []
    for curve in found.curves:
        point = point_near(curve, found.layout.masks_at[0]) if found.layout.masks_at else None
        if point is not None:
            made = _squares(found, curve, point)
            rows += made
            points += [point] if made else []
    if not rows:
        raise NotDrawn("no tickets near the first of `masks_at` in the store, or no ids of inits")
    data, stages = pd.DataFrame(rows), levels(points)
    beyond = 1 - data.loc[data["inside"], "weights"].sum() / data["weights"].sum()
    where = ", ".join(dict.fromkeys(data["panel"]))
    says = (
        f"{where}. Weights before the pruning that led here, by initial weight w_i and final "
        "weight w_f (in standard deviations of their layer's initial weights): the part of each "
        f"square that the mask keeps; n = {data['seeds'].max()} seeds together; "
        f"{100 * beyond:.1f}% of weights lie outside the squares shown."
    )
    shown = pd.DataFrame([row for row in rows if row["inside"]]).drop(columns="inside")
    return [
        Figure("plane", caption(found, says, stages=stages), shown, stages, partial(_draw, shown))
    ]


def _squares(found: Analysis, curve: Curve, point: Point) -> list[dict[str, object]]:
    """How many weights lie in each square, and how many of them are kept."""
    edges = np.linspace(-EDGE, EDGE, BINS + 1)
    counts = np.zeros((2, BINS, BINS))
    total = seeds = 0
    for seed in curve.seeds:
        layers = list(prunings(found.reading.root, curve, point, seed))
        seeds += bool(layers)
        for each in layers:
            total += each.kept.size
            for i, chosen in enumerate((slice(None), each.kept.astype(bool))):
                at = each.init[chosen].ravel(), each.final[chosen].ravel()
                counts[i] += np.histogram2d(*at, bins=(edges, edges))[0]
    if not total:
        return []
    panel = f"{curve.panel}, {remaining(point.percent)}% left"
    about = {"panel": panel, "line": curve.label, "seeds": seeds}
    middle = (edges[:-1] + edges[1:]) / 2
    rows: list[dict[str, object]] = [
        {
            **about,
            "w_i": round(float(middle[i]), 4),
            "w_f": round(float(middle[j]), 4),
            "weights": int(counts[0, i, j]),
            "kept": int(counts[1, i, j]),
            "inside": True,
        }
        for i, j in zip(*np.nonzero(counts[0]), strict=True)
    ]
    rows.append({**about, "weights": total - int(counts[0].sum()), "inside": False})
    return rows


def _draw(data: pd.DataFrame) -> Sheet:
    groups = list(data.groupby(["panel", "line"], sort=False))
    several = data["panel"].nunique() > 1
    made = sheet(len(groups), height=2.3 + 0.12 * several, beside=3)
    edges = np.linspace(-EDGE, EDGE, BINS + 1)
    for axes, (_, here) in zip(made.axes, groups, strict=True):
        panel, line = (str(here[name].iloc[0]) for name in ("panel", "line"))
        part = np.full((BINS, BINS), np.nan)
        i, j = (np.digitize(here[name], edges) - 1 for name in ("w_i", "w_f"))
        part[j, i] = here["kept"] / here["weights"]
        decorate(axes, title=f"{line}\n{panel}" if several else line, grid="")
        axes.set_xlabel("$w_i$", labelpad=0)
        axes.set_ylabel("$w_f$", labelpad=-2)
        mesh = axes.pcolormesh(edges, edges, part, cmap="cividis_r", vmin=0, vmax=1)
        mesh.set_rasterized(True)
        axes.axhline(0, color="black", linewidth=0.3)
        axes.axvline(0, color="black", linewidth=0.3)
        axes.set(aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    _bar(made)
    return made


def _bar(made: Sheet) -> None:
    colours = ScalarMappable(Normalize(0, 1), cmap="cividis_r")
    bar = made.colorbar(colours, ax=list(made.axes), shrink=0.6, aspect=25, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=SMALL, width=0.4, length=2)
    bar.set_label("part kept")
