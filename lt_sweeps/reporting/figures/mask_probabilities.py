"""Figure: the chances to be kept, or the soft mask, that a learned mask ends with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.stored_weights import LearnedLayer, learned_masks
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption
from lt_sweeps.reporting.figures.style import Figure, NotDrawn, decorate, entry, sheet, styles

BINS = 20


def probabilities(found: Analysis) -> list[Figure]:
    """The distribution over the weights of each line's last learned mask."""
    rows, behind = [], set()
    for curve in found.curves:
        for point in reversed(curve.points):
            masks = learned_masks(found.reading.root, curve, point)
            if masks:
                rows += _rows(curve, masks)
                behind |= {each.stage for each in masks.values()}
                break
    if not rows:
        raise NotDrawn("no ticket in the store has a learned mask")
    data, stages = pd.DataFrame(rows), tuple(sorted(behind))
    density = data.drop_duplicates(["panel", "line"])
    means = ", ".join(
        f"{line} {100 * mean:.1f}%"
        for line, mean in zip(density["line"], density["mean_chance"], strict=True)
    )
    says = (
        "What the learned mask ended with, all layers together: a weight's chance to be kept, or "
        f"the soft mask sigmoid(βs){_slopes(data)}; mean and range over seeds "
        f"(n = {data['n'].min()} to {data['n'].max()}). Mean chance: "
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


def _slopes(data: pd.DataFrame) -> str:
    """The last beta of each line, where masks are annealed."""
    betas = sorted(set(data["slope"]) - {1.0})
    return f" at the last β ({', '.join(f'{beta:g}' for beta in betas)})" if betas else ""


def _rows(curve: Curve, masks: Mapping[str, LearnedLayer]) -> list[dict[str, object]]:
    chances = [each.chances for each in masks.values()]
    edges = np.linspace(0, 1, BINS + 1)
    parts = np.stack([np.histogram(each, bins=edges)[0] / each.size for each in chances])
    mean = float(np.mean([each.mean() for each in chances]))
    slope = next(iter(masks.values())).slope
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
            "slope": slope,
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
