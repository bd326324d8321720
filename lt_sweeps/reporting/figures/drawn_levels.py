"""The levels near given sparsities, which the figures of masks draw, and the stages behind them."""

from __future__ import annotations

from collections.abc import Sequence

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.stored_weights import points_near
from lt_sweeps.reporting.result_tables import percent_text


def stage_ids(points: Sequence[Point]) -> tuple[str, ...]:
    """Return the ids of the stages behind these points, sorted."""
    return tuple(sorted({stage for point in points for stage in point.stages}))


def panels_at(
    curves: Sequence[Curve], sparsities: Sequence[float]
) -> list[tuple[Curve, Point, str]]:
    """Return the levels near `sparsities`, each with its panel's title: `fc on digits, 20.0% left`.

    Levels near the same sparsity share a panel even if their percents differ, such as 52.1% after
    pruning whole neurons and 51.6% after pruning single weights.
    """
    levels = points_near(curves, sparsities)
    places = [
        (curve.panel, min(sparsities, key=lambda at: abs(100 * (1 - at) - point.percent)))
        for curve, point in levels
    ]
    indices = group_by(range(len(levels)), lambda i: places[i])
    titles = {}
    for place, members in indices.items():
        percents = sorted((levels[i][1].percent for i in members), reverse=True)
        ends = dict.fromkeys(map(percent_text, (percents[0], percents[-1])))
        titles[place] = f"{place[0]}, {' to '.join(ends)}% left"
    return [
        (curve, point, titles[place]) for (curve, point), place in zip(levels, places, strict=True)
    ]


def percents_sentence(levels: Sequence[tuple[Curve, Point, str]]) -> str:
    """Say which line of a panel has which percent; empty if all lines of each panel have the same.

    `levels` are those of `panels_at`. The sentence begins with a space.
    """
    panels = []
    for panel, members in group_by(levels, lambda level: level[2]).items():
        percents = {curve.label: percent_text(point.percent) for curve, point, _ in members}
        if len({*percents.values()}) > 1:
            lines = ", ".join(f"{line} {percent}%" for line, percent in percents.items())
            panels.append(f"{panel}: {lines}")
    return f" Weights remaining in {'; '.join(panels)}." if panels else ""
