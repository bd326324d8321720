"""Figure: the chances to be kept that a learned mask ends with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.curves import Curve
from lt_sweeps.figures.captions import caption, levels
from lt_sweeps.figures.paper import Figure, NotDrawn, decorate, entry, sheet, styles
from lt_sweeps.findings import Findings
from lt_sweeps.points import Point
from lt_sweeps.weights import learned

BINS = 20


def probabilities(found: Findings) -> list[Figure]:
    """The distribution of sigmoid(logit) over the weights of each line's last learned mask."""
    rows, points = [], []
    for curve in found.curves:
        for point in reversed(curve.points):
            made = _rows(found, curve, point)
            if made:
                rows, points = rows + made, [*points, point]
                break
    if not rows:
        raise NotDrawn("no ticket in the store has a learned mask")
    data, stages = pd.DataFrame(rows), levels(points)
    density = data.drop_duplicates(["panel", "line"])
    means = ", ".join(
        f"{line} {100 * mean:.1f}%"
        for line, mean in zip(density["line"], density["mean_chance"], strict=True)
    )
    says = (
        "Chance of a weight to be kept by the learned mask, sigmoid(logit), all layers together: "
        f"mean and range over seeds (n = {data['n'].min()} to {data['n'].max()}). Mean chance: "
        f"{means}."
    )
    names = {curve.label: curve.name for curve in found.curves}
    return [
        Figure(
            "probabilities",
            caption(found, says, stages=stages),
            data,
            stages,
            partial(_draw, data, names),
        )
    ]


def _rows(found: Findings, curve: Curve, point: Point) -> list[dict[str, object]]:
    chances = learned(found.reading.root, curve, point)
    if not chances:
        return []
    edges = np.linspace(0, 1, BINS + 1)
    parts = np.stack([np.histogram(each, bins=edges)[0] / each.size for each in chances.values()])
    mean = float(np.mean([each.mean() for each in chances.values()]))
    return [
        {
            "panel": curve.panel,
            "line": curve.label,
            "from": round(float(edges[i]), 4),
            "to": round(float(edges[i + 1]), 4),
            "part": float(parts[:, i].mean()),
            "min": float(parts[:, i].min()),
            "max": float(parts[:, i].max()),
            "mean_chance": mean,
            "n": len(parts),
        }
        for i in range(BINS)
    ]


def _draw(data: pd.DataFrame, names: Mapping[str, str]) -> Sheet:
    look = styles(list(names))
    shown = list(dict.fromkeys(data["line"]))
    made = sheet(data["panel"].nunique(), legend=[entry(line, look[line]) for line in shown])
    for axes, (title, here) in zip(made.axes, data.groupby("panel", sort=False), strict=True):
        decorate(axes, title=str(title), x="Chance to be kept", y="Weights (%)")
        for line, own in here.groupby("line", sort=False):
            style = look[str(line)]
            middle = (own["from"] + own["to"]) / 2
            low, high = 100 * own["min"], 100 * own["max"]
            axes.fill_between(middle, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(
                middle,
                100 * own["part"],
                color=style.color,
                marker=style.marker,
                linestyle=style.dash,
                markersize=2.5,
                linewidth=1.0,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    return made
