"""Figure: how much masks agree, between the seeds of a line and between lines at the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.stored_weights import Arrays, masks, point_near
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, levels, panels
from lt_sweeps.reporting.figures.style import (
    SMALL,
    Figure,
    NotDrawn,
    decorate,
    rows_height,
    sheet,
    wrapped,
)
from lt_sweeps.reporting.result_tables import remaining

Looked = tuple[Curve, Point, Mapping[str, Arrays]]


def overlap(found: Analysis) -> list[Figure]:
    """Jaccard overlap of masks, a matrix per network and sparsity."""
    rows, points = [], []
    for given in found.layout.masks_at:
        for here in panels(found.curves).values():
            looked = [
                (curve, point, masks(found.reading.root, curve, point))
                for curve in here
                if (point := point_near(curve, given)) is not None
            ]
            rows += [row for one in looked for other in looked for row in _pair(one, other)]
            points += [point for _, point, kept in looked if kept]
    if not rows:
        raise NotDrawn("no tickets of at least two seeds or lines near `masks_at` in the store")
    data, stages = pd.DataFrame(rows), levels(points)
    says = (
        "Overlap of masks (kept by both, of those kept by either, %): on the diagonal between the "
        "seeds of a line, beside it between two lines at the same seed; means over "
        f"{data['n'].min()} to {data['n'].max()} pairs. `Chance` is what independent masks with "
        "these densities of layers would share."
    )
    return [
        Figure("overlap", caption(found, says, stages=stages), data, stages, partial(_draw, data))
    ]


def jaccard(one: Arrays, other: Arrays) -> float:
    """Weights that both keep, as a part of those that either keeps."""
    both = sum(int((one[layer] & other[layer]).sum()) for layer in one)
    either = sum(int((one[layer] | other[layer]).sum()) for layer in one)
    return both / either if either else 1.0


def chance(one: Arrays, other: Arrays) -> float:
    """The overlap to expect of independent masks with the same density in each layer."""
    both = either = 0.0
    for layer, kept in one.items():
        p, q = float(kept.mean()), float(other[layer].mean())
        both += kept.size * p * q
        either += kept.size * (p + q - p * q)
    return both / either if either else 1.0


def _pair(one: Looked, other: Looked) -> Iterator[dict[str, object]]:
    (curve, point, mine), (beside, _, theirs) = one, other
    same = curve is beside
    pairs: Sequence[tuple[str, str]] = (
        list(combinations(mine, 2)) if same else [(s, s) for s in mine if s in theirs]
    )
    if pairs:
        found = [jaccard(mine[a], theirs[b]) for a, b in pairs]
        yield {
            "panel": f"{curve.panel}, {remaining(point.percent)}% left",
            "line": curve.label,
            "other": beside.label,
            "overlap": float(np.mean(found)),
            "min": min(found),
            "max": max(found),
            "chance": float(np.mean([chance(mine[a], theirs[b]) for a, b in pairs])),
            "n": len(pairs),
        }


def _draw(data: pd.DataFrame) -> Sheet:
    lines = list(dict.fromkeys(data["line"]))
    made = sheet(data["panel"].nunique(), height=1.1 + rows_height(lines, each=0.24))
    for axes, (title, here) in zip(made.axes, data.groupby("panel", sort=False), strict=True):
        matrix = here.pivot_table(index="line", columns="other", values="overlap", sort=False)
        matrix = matrix.reindex(index=lines, columns=lines)
        expected = f"{100 * here['chance'].mean():.0f}"
        decorate(axes, title=f"{title} (chance {expected}%)", grid="")
        axes.imshow(matrix, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
        for i, row in enumerate(matrix.to_numpy()):
            for j, value in enumerate(row):
                if not np.isnan(value):
                    color = "white" if value > 0.75 else "black"
                    text = f"{100 * value:.0f}"
                    axes.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=color)
        names = [wrapped(line) for line in lines]
        axes.set_xticks(range(len(lines)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(lines)), names)
        axes.tick_params(length=0)
    return made
