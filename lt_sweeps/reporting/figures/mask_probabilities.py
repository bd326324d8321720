"""Figure: the distribution of a learned mask's chances to be kept, or of its soft mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.stored_weights import MaskChances, learned_masks
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, span_text
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.marks import banded_lines

BINS = 20  # of 5% each


def probability_figures(analysis: Analysis) -> list[Figure]:
    """Draw the distribution over weights of each line's last learned mask."""
    rows, stages = [], set()
    for curve in analysis.curves:
        # Use the sparsest level with a learned mask: a line may continue with levels of another
        # kind, such as a finetuned ticket whose mask is fixed.
        for point in reversed(curve.points):
            masks = learned_masks(analysis.results.root, curve, point)
            if masks:
                rows += _rows(curve, masks)
                stages |= {mask.stage for mask in masks.values()}
                break
    if not rows:
        raise NotDrawn("no ticket in the store has a learned mask")
    data = pd.DataFrame(rows)
    density = data.drop_duplicates(["panel", "line"])
    several = density["panel"].nunique() > 1
    means = ", ".join(
        f"{line}{f' of {panel}' if several else ''} {100 * mean:.1f}%"
        for panel, line, mean in density[["panel", "line", "mean_chance"]].to_numpy().tolist()
    )
    draw = partial(_draw, data, [curve.label for curve in analysis.curves])
    sentence = (
        "The learned mask at its end, all layers together: a weight's chance to be kept, or its "
        f"soft mask sigmoid(βs){_betas_text(data)}; mean and range over seeds "
        f"(n = {span_text(data['n'])}). Mean over weights: {means}."
    )
    return [Figure("probabilities", caption(analysis, sentence), data, tuple(sorted(stages)), draw)]


def _betas_text(data: pd.DataFrame) -> str:
    """Name the last values of β if a mask was annealed (β = 1 means no annealing)."""
    betas = sorted(set(data["slope"]) - {1.0})
    return f" at the last β ({', '.join(f'{beta:g}' for beta in betas)})" if betas else ""


def _rows(curve: Curve, masks: Mapping[str, MaskChances]) -> list[dict[str, object]]:
    chances = [mask.chances for mask in masks.values()]
    edges = np.linspace(0, 1, BINS + 1)
    parts = np.stack([np.histogram(seed, bins=edges)[0] / seed.size for seed in chances])
    mean = float(np.mean([seed.mean() for seed in chances]))
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


def _draw(data: pd.DataFrame, labels: Sequence[str]) -> Sheet:
    # Lines through the middles of the bins, because bars of several lines would hide each other.
    middle = (data["from"] + data["to"]) / 2
    percents = data.assign(middle=middle, **(100 * data[["part", "min", "max"]]))
    columns, names = ("middle", "part", "min", "max"), ("Chance to be kept", "Weights (%)")
    sheet, panels = banded_lines(percents, labels, columns, names, marker=2.5)
    for axes, _ in panels:
        axes.set(xlim=(0, 1), ylim=(0, None))
    return sheet
