"""Figure: the fraction of weights kept, in the plane of initial and final weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.stored_weights import prunings
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption, span_text
from lt_sweeps.reporting.figures.drawn_levels import panels_at, percents_sentence, stage_ids
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.style import SMALL, decorate, panels_of, wrapped_title

EDGE, BINS = 3.0, 48  # standard deviations shown to each side, and squares across


def plane_figures(analysis: Analysis) -> list[Figure]:
    """Draw each line's plane at the first sparsity of `report.masks_at`, all seeds together."""
    rows, levels, total = [], [], 0
    # Only one sparsity, because one plane per line fills a page already.
    sparsities = analysis.layout.masks_at[:1]
    for level in panels_at(analysis.curves, sparsities):
        squares, weights = _squares(analysis, *level)
        if squares:
            rows += squares
            levels.append(level)
            total += weights
    if not rows:
        raise NotDrawn(
            "no level near the first sparsity of `report.masks_at` has stored tickets from both "
            "before and after its pruning"
        )
    data = pd.DataFrame(rows)
    beyond = 1 - data["weights"].sum() / total
    sentence = (
        f"{'; '.join(dict.fromkeys(data['panel']))}. Each square holds the weights left before "
        "the pruning with that initial value w_i and that final value w_f, in standard deviations "
        "of their layer's initial weights; its colour is the fraction that the pruning keeps. "
        f"n = {span_text(data['seeds'])} seeds together; {100 * beyond:.1f}% of weights lie "
        f"outside the squares shown.{percents_sentence(levels)}"
    )
    draw = partial(_draw, data)
    stages = stage_ids([point for _, point, _ in levels])
    return [Figure("plane", caption(analysis, sentence), data, stages, draw)]


def _squares(
    analysis: Analysis, curve: Curve, point: Point, panel: str
) -> tuple[list[dict[str, object]], int]:
    """Return a row per square that has weights, and the number of all weights, outside ones too."""
    edges = np.linspace(-EDGE, EDGE, BINS + 1)
    counts = np.zeros((2, BINS, BINS))
    total = seeds = 0
    for seed in curve.seeds:
        layers = list(prunings(analysis.results.root, curve, point, seed))
        seeds += bool(layers)
        for layer in layers:
            total += layer.kept.size
            # counts[0] counts all weights, counts[1] the kept ones; the figure shows their ratio.
            for i, chosen in enumerate((slice(None), layer.kept.astype(bool))):
                places = layer.init[chosen].ravel(), layer.final[chosen].ravel()
                counts[i] += np.histogram2d(*places, bins=(edges, edges))[0]
    middle = (edges[:-1] + edges[1:]) / 2
    rows: list[dict[str, object]] = [
        {
            "panel": panel,
            "line": curve.label,
            "seeds": seeds,
            "w_i": round(float(middle[i]), 4),
            "w_f": round(float(middle[j]), 4),
            "weights": int(counts[0, i, j]),
            "kept": int(counts[1, i, j]),
        }
        for i, j in zip(*np.nonzero(counts[0]), strict=True)
    ]
    return rows, total


def _draw(data: pd.DataFrame) -> Sheet:
    several = data["panel"].nunique() > 1
    # Wrapped to lines no wider than a third of a page.
    titles = {
        (panel, line): "\n".join(wrapped_title(t, 30) for t in (line, panel)[: 1 + several])
        for panel, line in data[["panel", "line"]].drop_duplicates().to_numpy().tolist()
    }
    height = 2.18 + 0.12 * max(title.count("\n") + 1 for title in titles.values())
    sheet, panels = panels_of(data, "panel", "line", height=height, beside=3)
    edges = np.linspace(-EDGE, EDGE, BINS + 1)
    for axes, (panel, line), rows in panels:
        # Squares without weights stay NaN and are white, because they have no fraction. The rows of
        # the matrix are y, so w_f is the first index.
        fraction = np.full((BINS, BINS), np.nan)
        i, j = (np.digitize(rows[name], edges) - 1 for name in ("w_i", "w_f"))
        fraction[j, i] = rows["kept"] / rows["weights"]
        decorate(axes, title=titles[panel, line], grid="")
        axes.set_xlabel("$w_i$", labelpad=0)
        axes.set_ylabel("$w_f$", labelpad=-2)
        mesh = axes.pcolormesh(edges, edges, fraction, cmap="cividis_r", vmin=0, vmax=1)
        # Drawn as vectors, 2,304 squares per panel make a PDF slow to open and show hairlines.
        mesh.set_rasterized(True)
        axes.axhline(0, color="black", linewidth=0.3)
        axes.axvline(0, color="black", linewidth=0.3)
        axes.set(aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    # One colour bar for all panels, which share a scale; its height is that for a single row.
    colours = ScalarMappable(Normalize(0, 1), cmap="cividis_r")
    shrink = 0.6 * height / sheet.get_figheight()
    bar = sheet.colorbar(colours, ax=list(sheet.axes), shrink=shrink, aspect=25, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=SMALL, width=0.4, length=2)
    bar.set_label("Fraction kept")
    return sheet
