"""The two axes of a panel of curves: their limits, ticks and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from lt_sweeps.analysis.curve import Point
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import Published, ReportConfig

_AXIS, _TICK_SPACE = 2.5, 0.25  # inches: about the length of an x axis, and between tick labels
X_NAMES = {
    "remaining": "Weights remaining (%)",
    "sparsity": "Sparsity (%)",
    "level": "Level (times pruned)",
}

Lines = Mapping[str, Sequence[Point]]


def x_position(point: Point, x: str) -> float:
    """The place of a point on an x axis that shows `x` (a key of `X_NAMES`)."""
    if x == "remaining":
        return point.percent
    return 100 - point.percent if x == "sparsity" else float(point.level)


def y_limits(
    curves: Sequence[Sequence[Point]],
    band: str,
    metric: Quantity,
    published: Sequence[Published] = (),
) -> tuple[float, float]:
    """Lower and upper end of the y axis, in the record's unit.

    The axis of an accuracy, of another metric of a task or of a loss leaves out points that are far
    worse than the rest where they would flatten everything else. That of an accuracy always holds
    the best curve whole. Published numbers are treated as curves are.
    """
    # Near 99% sparsity some curves fall to chance (10% of ten classes), while the differences that
    # a paper is about are one or two points at 97%. On an axis from 10% to 98% nobody sees them.
    # An R2 has no lower end and a perplexity no upper one: a network that diverged has an R2 of
    # -1e6. So: `floor` is the worst mean that must be visible. The axis may reach twice as far from
    # the best as the floor lies (`cut`); it is cut there only if the data would make it more than
    # three times as long. Between the two factors nothing is cut: a slightly flat picture is better
    # than one that hides a point for little gain. Curves that leave are marked, and the caption
    # says how far they go. Everything is computed in worths, which are larger where it is better.
    points = [point for curve in curves for point in curve]
    means = [(point.percent, metric.worth(point.mean)) for point in points]
    means += [
        (100 * (1 - at), metric.worth(value)) for line in published for at, value in line.points
    ]
    edges = [metric.worth(edge) for p in points for edge in p.band(band) if math.isfinite(edge)]
    edges += [mean for _, mean in means]
    low, high = min(edges), max(edges)
    if metric.is_fraction:
        cut = high - 2 * (high - _floor(means))
        if high - low > 3 * (high - cut):
            low = cut
        # The edge of a band of standard deviations may lie above 100%; the axis does not.
        low = max(low, 0.0)
        high = min(high, 1.0)
    elif metric.judges or metric.kind == "loss":
        # The band of a point that lies outside may reach far to the good side too.
        best = max(mean for _, mean in means)
        reach = 2 * (best - _unbounded_floor(means))
        low = best - reach if best - low > 3 * reach else low
        high = best + reach if high - best > 3 * reach else high
    # Room for markers; where all numbers are equal, enough for an axis to exist.
    room = 0.05 * (high - low) or 0.01
    ends = metric.worth(low - room), metric.worth(high + room)
    return min(ends), max(ends)


def panel_limits(
    curves: Sequence[Sequence[Point]],
    layout: ReportConfig,
    metric: Quantity,
    published: Sequence[Published],
) -> tuple[float, float]:
    """The limits of a panel's y axis: those of `report.ylim`, or those that fit its points."""
    if layout.ylim is None:
        return y_limits(curves, layout.band, metric, published)
    low, high = layout.ylim
    return low, high


def set_x_axis(axes: Axes, lines: Lines, x: str) -> None:
    """Percent remaining reversed and logarithmic, as the papers draw it; the others linear."""
    # Each pruning keeps the same fraction of what is left, so levels are evenly spaced on a
    # logarithmic axis; on a linear one the sparse half of a curve is the last 2% of its width.
    measured = sorted({p.percent for points in lines.values() for p in points}, reverse=True)
    if x == "remaining":
        _remaining(axes, measured)
    elif x == "level":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))


def set_y_axis(
    axes: Axes,
    lines: Lines,
    published: Sequence[Published],
    *,
    layout: ReportConfig,
    metric: Quantity,
) -> tuple[float, float]:
    """Set limits and ticks; returns the limits in the record's unit."""
    ends = panel_limits(list(lines.values()), layout, metric, published)
    axes.set_ylim(*(metric.scale * end for end in ends))
    whole = metric.name.endswith(("step", "steps"))
    steps = [1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10]
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=steps, integer=whole))
    return ends


def where_it_leaves(points: Sequence[Point], edge: float, x: str, *, up: bool) -> float | None:
    """The x position at which a line first crosses an edge of its panel, `up` or down; or None."""
    for i, point in enumerate(points):
        if point.mean > edge if up else point.mean < edge:
            last = points[max(i - 1, 0)]
            fall = last.mean - point.mean
            part = (last.mean - edge) / fall if fall else 0
            # The mark has to sit on the line as drawn, and a line that is straight on a logarithmic
            # axis goes through the geometric means of its ends.
            if x == "remaining":
                return last.percent * (point.percent / last.percent) ** part
            return x_position(last, x) + (x_position(point, x) - x_position(last, x)) * part
    return None


def tick_text(x: float) -> str:
    """A percent as short as a tick has room for: 100, 51.2, 16.8, 0.55."""
    return f"{x:.0f}" if x >= 99.95 else f"{x:.1f}" if x >= 0.95 else f"{x:.2g}"


def _remaining(axes: Axes, measured: Sequence[float]) -> None:
    """A tick at every measured percent, a label where there is room."""
    axes.set_xscale("log")
    most, least = measured[0], measured[-1]
    # 3% of the width on each side, in factors because the axis is logarithmic; where a single
    # percent was measured that is no width, so at least a factor of 1.03. The limits are given
    # from large to small, which turns the axis round: pruning goes to the right.
    margin = max((most / least) ** 0.03, 1.03)
    axes.set_xlim(most * margin, least / margin)
    decades = math.log10(most / least * margin**2)
    # From the densest on, a percent gets its label if that of the last one is far enough away.
    # Powers of ten would be easier to place, and no level lies at one.
    labelled: list[float] = []
    for x in measured:
        if not labelled or math.log10(labelled[-1] / x) / decades * _AXIS >= _TICK_SPACE:
            labelled.append(x)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(FixedFormatter([tick_text(x) for x in labelled]))
    axes.xaxis.set_minor_locator(FixedLocator(list(measured)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _floor(points: Sequence[tuple[float, float]]) -> float:
    """The lowest accuracy that must be visible, from pairs of percent remaining and mean."""
    # Points below Tukey's fence, Q1 - 1.5 IQR of all means, are outliers and may be left out. The
    # best curve may not: where every curve falls, the fall of the best is the result. The best mean
    # at each percent stands for it, since one curve may be best when dense and another when sparse.
    means = sorted(mean for _, mean in points)
    q1, q3 = means[len(means) // 4], means[(3 * len(means)) // 4]
    best = _best_by_place(points).values()
    return max(means[0], min(q1 - 1.5 * (q3 - q1), *best))


def _unbounded_floor(points: Sequence[tuple[float, float]]) -> float:
    """The worst mean that must be visible where no value is too bad to occur, in worths."""
    # Even the best curve may diverge, so it is not held whole. The median over the levels of the
    # best mean does not move with a few levels that do; three times its distance from the best is
    # allowed below it, and a distance of nothing counts as 2% of the best.
    best = list(_best_by_place(points).values())
    top, middle = max(best), sorted(best)[len(best) // 2]
    distance = max(top - middle, 0.02 * abs(top))
    return max(min(mean for _, mean in points), middle - 3 * distance)


def _best_by_place(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    """The best mean at each percent remaining."""
    best: dict[float, float] = {}
    for percent, mean in points:
        # Two schedules of one rate reach 16.78% and 16.79%, which are one place.
        place = round(percent, 1)
        best[place] = max(best.get(place, -math.inf), mean)
    return best
