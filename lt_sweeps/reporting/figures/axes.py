"""The two axes of a panel of curves: their limits, ticks and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from lt_sweeps.analysis.curve import Point
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import Published, ReportConfig

_AXIS, _TICK_SPACE = 2.5, 0.3  # inches: rough length of an x axis; least space between labels
X_NAMES = {
    "remaining": "Weights remaining (%)",
    "sparsity": "Sparsity (%)",
    "level": "Level (times pruned)",
}

Lines = Mapping[str, Sequence[Point]]


def x_position(point: Point, x: str) -> float:
    """Return the position of a point on an x axis that shows `x` (a key of `X_NAMES`)."""
    if x == "remaining":
        return point.percent
    return 100 - point.percent if x == "sparsity" else float(point.level)


def y_limits(
    curves: Sequence[Sequence[Point]],
    band: str,
    metric: Quantity,
    published: Sequence[Published] = (),
) -> tuple[float, float]:
    """Return the lower and upper end of the y axis, in the record's unit.

    Points that are far worse than the rest are left outside the axis if they would flatten all
    other curves. This applies to accuracies, losses and the metrics that judge a task. The axis of
    an accuracy always contains the whole best curve. Published numbers are treated like curves.
    """
    # Near 99% sparsity some curves fall to chance (10% for ten classes), while a paper discusses
    # differences of one or two points at 97%. These are invisible on an axis from 10% to 98%. An R2
    # has no lower bound and a perplexity no upper bound: a network that diverged has an R2 of -1e6.
    # So the floor is defined as the worst mean that must be visible, and `cut` is twice as far from
    # the best value as the floor. The axis ends at `cut` only if it would otherwise be more than
    # three times as long as that. Between these factors nothing is cut: a slightly flat picture is
    # better than one that hides a point for little gain. Curves that leave the panel are marked,
    # and the caption says how far they go. All values here are worths, for which larger is better.
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
        # A band of standard deviations may go beyond 0% or 100%; the axis does not follow it.
        low = max(low, 0.0)
        high = min(high, 1.0)
    elif metric.judges or metric.kind == "loss":
        # A point outside the axis may have a band that reaches far to the good side too.
        best = max(mean for _, mean in means)
        reach = 2 * (best - _unbounded_floor(means))
        low = best - reach if best - low > 3 * reach else low
        high = best + reach if high - best > 3 * reach else high
    # Room for markers; if all numbers are equal, the axis still needs a length.
    padding = 0.05 * (high - low) or (0.01 if metric.is_fraction else 0.05 * abs(high) or 0.01)
    ends = metric.worth(low - padding), metric.worth(high + padding)
    return min(ends), max(ends)


def panel_limits(
    curves: Sequence[Sequence[Point]],
    layout: ReportConfig,
    metric: Quantity,
    published: Sequence[Published],
) -> tuple[float, float]:
    """Return the limits of a panel's y axis: `report.ylim`, or limits that fit its points."""
    if layout.ylim is None:
        return y_limits(curves, layout.band, metric, published)
    low, high = layout.ylim
    return low, high


def set_x_axis(axes: Axes, lines: Lines, x: str) -> None:
    """Set the scale and ticks: reversed and logarithmic for percent remaining, otherwise linear."""
    # The papers draw percent remaining like this. Each pruning keeps the same fraction of the
    # remaining weights, so levels are evenly spaced on a logarithmic axis; on a linear axis the
    # sparse half of a curve is the last 2% of its width.
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
    """Set limits and ticks; return the limits in the record's unit."""
    ends = panel_limits(list(lines.values()), layout, metric, published)
    axes.set_ylim(*(metric.scale * end for end in ends))
    whole = metric.name.endswith(("step", "steps"))
    steps = [1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10]
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=steps, integer=whole))
    return ends


def where_it_leaves(points: Sequence[Point], edge: float, x: str, *, up: bool) -> float | None:
    """Return the x position where a line first leaves the panel over `edge`; None if it does not.

    `edge` is the upper edge of the panel if `up` is True, otherwise the lower one.
    """
    for i, point in enumerate(points):
        if point.mean > edge if up else point.mean < edge:
            last = points[max(i - 1, 0)]
            fall = last.mean - point.mean
            part = (last.mean - edge) / fall if fall else 0
            # The mark must be on the line as it is drawn. On a logarithmic axis a straight line
            # passes through the geometric means of its ends, so x is interpolated geometrically.
            if x == "remaining":
                return last.percent * (point.percent / last.percent) ** part
            return x_position(last, x) + (x_position(point, x) - x_position(last, x)) * part
    return None


def tick_text(x: float) -> str:
    """Format a percent, short enough for a tick: 100, 51.2, 16.8, 0.55."""
    return f"{x:.0f}" if x >= 99.95 else f"{x:.1f}" if x >= 0.95 else f"{x:.2g}"


def _remaining(axes: Axes, measured: Sequence[float]) -> None:
    """Set a tick at every measured percent, with a label if there is room."""
    axes.set_xscale("log")
    most, least = measured[0], measured[-1]
    # A margin of 3% of the width on each side, as a factor because the axis is logarithmic. With a
    # single measured percent there is no width, so the factor is at least 1.03. Limits from large
    # to small reverse the axis, so that sparsity increases to the right.
    margin = max((most / least) ** 0.03, 1.03)
    axes.set_xlim(most * margin, least / margin)
    decades = math.log10(most / least * margin**2)
    # From the densest on, a percent gets a label if the previous label is far enough away. Labels
    # at powers of ten would be easier to place, but no level is at a power of ten.
    labelled: list[float] = []
    for x in measured:
        if not labelled or math.log10(labelled[-1] / x) / decades * _AXIS >= _TICK_SPACE:
            labelled.append(x)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(FixedFormatter([tick_text(x) for x in labelled]))
    axes.xaxis.set_minor_locator(FixedLocator(list(measured)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _floor(points: Sequence[tuple[float, float]]) -> float:
    """Return the lowest accuracy that must be visible, from pairs of percent remaining and mean."""
    # Points below Tukey's fence, Q1 - 1.5 IQR of all means, are outliers and may be left out, but
    # not those of the best curve: if every curve falls, the fall of the best one is the result. The
    # best curve is the best mean at each percent, because different lines may be best when dense
    # and when sparse.
    means = sorted(mean for _, mean in points)
    q1, q3 = means[len(means) // 4], means[(3 * len(means)) // 4]
    best = _best_by_place(points).values()
    return max(means[0], min(q1 - 1.5 * (q3 - q1), *best))


def _unbounded_floor(points: Sequence[tuple[float, float]]) -> float:
    """Return the worst mean that must be visible, as a worth, if a metric has no worst value."""
    # Even the best curve may diverge, so it need not be visible as a whole. The median over levels
    # of the best mean is not affected by a few levels that diverge. The floor is below this median
    # by three times its distance from the best level, which counts as at least 2% of the best. The
    # floor is never below the worst mean.
    best = list(_best_by_place(points).values())
    top, median = max(best), sorted(best)[len(best) // 2]
    distance = max(top - median, 0.02 * abs(top))
    return max(min(mean for _, mean in points), median - 3 * distance)


def _best_by_place(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    """Return the best mean at each percent remaining."""
    best: dict[float, float] = {}
    for percent, mean in points:
        # Two schedules with the same rate reach 16.78% and 16.79%, which count as one percent.
        place = round(percent, 1)
        best[place] = max(best.get(place, -math.inf), mean)
    return best
