"""Figure: the overlap of masks, between the seeds of a line and between lines at equal seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.stored_weights import Arrays, masks
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.captions import caption, span_text
from lt_sweeps.reporting.figures.drawn_levels import panels_at, percents_sentence, stage_ids
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn

MaskedPoint = tuple[Curve, Point, str, Mapping[str, Arrays]]  # with its panel, and masks by seed

_NAMED = 4  # a caption gives the chance levels of up to this many lines; the CSV gives all


def overlap_figures(analysis: Analysis) -> list[Figure]:
    """Draw the Jaccard overlap of masks, with a matrix per network and sparsity."""
    rows, points = [], []
    levels = panels_at(analysis.curves, analysis.layout.masks_at)
    for members in group_by(levels, lambda member: member[2]).values():
        masked = [
            (curve, point, panel, masks(analysis.results.root, curve, point))
            for curve, point, panel in members
        ]
        rows += [row for one in masked for other in masked for row in _pair(one, other)]
        points += [point for _, point, _, by_seed in masked if by_seed]
    if not rows:
        raise NotDrawn(
            "the store lacks the masks of two seeds or two lines near a sparsity of "
            "`report.masks_at`"
        )
    data = pd.DataFrame(rows)
    sentence = (
        "Overlap of masks: weights that both keep, in percent of those that at least one keeps. On "
        "the diagonal between the seeds of a line, elsewhere between two lines at the same seed; "
        f"means over {span_text(data['n'])} pairs. Chance: the overlap of independent "
        f"masks with the same densities in each layer.{percents_sentence(levels)}"
        f"{_chance_sentence(data)}"
    )
    lines = data.groupby("panel")["line"].nunique()
    if len(data) < sum(lines**2):
        sentence += " Blank: networks with different layers, or fewer than two masks."
    draw = partial(_draw, data)
    return [Figure("overlap", caption(analysis, sentence), data, stage_ids(points), draw)]


def _chance_sentence(data: pd.DataFrame) -> str:
    """Say the chance level of each line's own masks; empty if the lines of each panel agree."""
    panels = []
    for panel, rows in data[data["line"] == data["other"]].groupby("panel", sort=False):
        own = zip(rows["line"], rows["chance"], strict=True)
        chances = {line: f"{100 * chance:.0f}%" for line, chance in own}
        if len({*chances.values()}) > 1:
            named = ", ".join(f"{line} {chance}" for line, chance in chances.items())
            panels.append(f"{panel}: {named if len(chances) <= _NAMED else 'see the CSV'}")
    return f" Chance on the diagonal in {'; '.join(panels)}." if panels else ""


def jaccard(one: Arrays, other: Arrays) -> float:
    """Return the number of weights that both masks keep, over the number that either keeps."""
    both = sum(int((one[layer] & other[layer]).sum()) for layer in one)
    either = sum(int((one[layer] | other[layer]).sum()) for layer in one)
    return both / either if either else 1.0


def chance_overlap(one: Arrays, other: Arrays) -> float:
    """Return the overlap of independent masks with the densities of these masks in each layer."""
    # Computed layer by layer, because masks that prune the same layers strongly overlap even if the
    # choice within each layer is random. With densities p and q, a weight is kept by both with
    # probability pq and by at least one with p + q - pq. The ratio of the two expectations
    # approximates the expectation of the ratio; over thousands of weights they are equal.
    both = either = 0.0
    for layer, kept in one.items():
        p, q = float(kept.mean()), float(other[layer].mean())
        both += kept.size * p * q
        either += kept.size * (p + q - p * q)
    return both / either if either else 1.0


def _pair(one: MaskedPoint, other: MaskedPoint) -> Iterator[dict[str, object]]:
    """Yield the row of two lines, or of a line with itself; nothing if no masks can be compared."""
    (curve, _, panel, masks), (other_curve, _, _, other_masks) = one, other
    # Two lines are compared only at equal seeds: these masks started from the same weights, so they
    # differ only because the lines do. A line is compared with itself between different seeds,
    # which shows how much of a mask depends on the seed.
    pairs: Sequence[tuple[str, str]] = (
        list(combinations(masks, 2))
        if curve is other_curve
        else [(seed, seed) for seed in masks if seed in other_masks]
    )
    pairs = [(a, b) for a, b in pairs if _same_shapes(masks[a], other_masks[b])]
    if pairs:
        overlaps = [jaccard(masks[a], other_masks[b]) for a, b in pairs]
        chances = [chance_overlap(masks[a], other_masks[b]) for a, b in pairs]
        yield {
            "panel": panel,
            "line": curve.label,
            "other": other_curve.label,
            "overlap": float(np.mean(overlaps)),
            "min": min(overlaps),
            "max": max(overlaps),
            "chance": float(np.mean(chances)),
            "n": len(pairs),
        }


def _same_shapes(one: Arrays, other: Arrays) -> bool:
    """Whether two masks have equal layers and shapes: lines may have networks of other widths."""
    return {n: m.shape for n, m in one.items()} == {n: m.shape for n, m in other.items()}


def _draw(data: pd.DataFrame) -> Sheet:
    of_panel = {panel: _axis_labels(lines) for panel, lines in style.lines_by_panel(data).items()}
    heights = {p: 1.1 + style.rows_height(names, each=0.24) for p, (names, _) in of_panel.items()}
    sheet, panels = style.panels_of(data, "panel", height=heights)
    for axes, (title,), rows in panels:
        names, columns = of_panel[title]
        lines = list(dict.fromkeys(rows["line"]))
        matrix = rows.pivot_table(index="line", columns="other", values="overlap", sort=False)
        matrix = matrix.reindex(index=lines, columns=lines)
        chance = span_text(np.round(100 * rows["chance"]).astype(int))
        separator = " " if len(title) < 26 else "\n"
        style.decorate(axes, title=f"{title}{separator}(chance {chance}%)", grid="")
        # White is no overlap. Full overlap is dark grey and not black (1 of 1.3), and large numbers
        # are written in white, so that every number can be read on its square.
        axes.imshow(matrix, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
        centred = {"ha": "center", "va": "center", "fontsize": style.SMALL}
        for i, row in enumerate(matrix.to_numpy()):
            for j, value in enumerate(row):
                if not np.isnan(value):
                    color = "white" if value > 0.75 else "black"
                    text = f"{100 * value:.0f}"
                    axes.text(j, i, text, color=color, **centred)
        # Slanted names are anchored at their ends, so that each points at its own column.
        slanted = {"rotation": 45, "ha": "right"} if columns == names else {}
        axes.set_xticks(
            range(len(lines)), list(map(style.escaped, columns)), rotation_mode="anchor", **slanted
        )
        axes.set_yticks(range(len(lines)), [style.wrapped_label(name) for name in names])
        axes.tick_params(length=0)
    return sheet


def _axis_labels(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the labels of rows and columns; columns get numbers if a label needs two lines."""
    if not any("\n" in style.wrapped_label(line) for line in lines):
        return list(lines), list(lines)
    numbers = [str(number) for number in range(1, len(lines) + 1)]
    return [f"{line} [{number}]" for number, line in zip(numbers, lines, strict=True)], numbers
