"""Figure: the percent of weights that change sign in training, for kept and for pruned weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.stored_weights import prunings
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.captions import caption, span_text
from lt_sweeps.reporting.figures.drawn_levels import panels_at, percents_sentence, stage_ids
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.marks import draw_row, prepare_rows


def sign_figures(analysis: Analysis) -> list[Figure]:
    """Draw the percent of weights whose sign at the end differs from that at initialisation."""
    rows, levels = [], []
    for level in panels_at(analysis.curves, analysis.layout.masks_at):
        if lines := _rows(analysis, *level):
            rows += lines
            levels.append(level)
    if not rows:
        raise NotDrawn(
            "no level near a sparsity of `report.masks_at` has stored tickets from both before and "
            "after its pruning"
        )
    data = pd.DataFrame(rows)
    draw = partial(_draw, data, [curve.label for curve in analysis.curves])
    stages = stage_ids([point for _, point, _ in levels])
    seeds = span_text(data.groupby(["panel", "line"]).size())
    sentence = (
        "Percent of weights that changed sign between initialisation and the end of the training "
        "before the pruning: filled, weights that the pruning keeps; open, weights that it prunes. "
        f"Ticks are seeds (n = {seeds}), markers their mean, lines their range."
        f"{percents_sentence(levels)}"
    )
    return [Figure("signs", caption(analysis, sentence), data, stages, draw)]


def _rows(analysis: Analysis, curve: Curve, point: Point, panel: str) -> list[dict[str, object]]:
    """Return one row per seed; seeds whose weights are not stored are left out."""
    rows = []
    for seed in curve.seeds:
        layers = list(prunings(analysis.results.root, curve, point, seed))
        if not layers:
            continue
        kept = np.concatenate([layer.kept for layer in layers]).astype(bool)
        # `np.sign` has three values, so a weight that ends at exactly 0 counts as changed.
        flipped = np.concatenate([np.sign(w.init) != np.sign(w.final) for w in layers])
        rows.append(
            {
                "panel": panel,
                "line": curve.label,
                "seed": seed,
                "kept_flipped": 100 * float(flipped[kept].mean()),
                "pruned_flipped": 100 * float(flipped[~kept].mean()) if (~kept).any() else None,
                "kept": int(kept.sum()),
                "pruned": int((~kept).sum()),
            }
        )
    return rows


def _draw(data: pd.DataFrame, labels: Sequence[str]) -> Sheet:
    styles = style.line_styles(labels)
    lines_of = style.lines_by_panel(data)
    dot = {"linestyle": "none", "marker": "o", "color": style.GREY, "markersize": 4}
    dots = [
        Line2D([], [], label=text, markerfacecolor=fill, **dot)
        for text, fill in {"kept": style.GREY, "pruned": "white"}.items()
    ]
    heights = {
        panel: 0.6 + style.rows_height(lines, each=0.26) for panel, lines in lines_of.items()
    }
    sheet, panels = style.panels_of(data, "panel", height=heights, legend=dots)
    for axes, (title,), panel_rows in panels:
        style.decorate(axes, title=title, x="Signs changed (%)", grid="x")
        prepare_rows(axes, lines_of[title])
        for i, line in enumerate(lines_of[title]):
            kept_percents, pruned_percents = (
                panel_rows.loc[panel_rows["line"] == line, f"{part}_flipped"].dropna()
                for part in ("kept", "pruned")
            )
            # Drawn one above the other in the row of their line, because the two often coincide.
            draw_row(axes, i - 0.15, kept_percents, styles[line])
            draw_row(axes, i + 0.15, pruned_percents, styles[line], filled=False)
        # Room for half a marker at 0: some criteria keep no weight that changed its sign.
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
    return sheet
