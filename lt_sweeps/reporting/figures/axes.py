"""The two axes of a panel of curves: where they end, and what is written at them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from lt_sweeps.analysis.points import Point
from lt_sweeps.config.report_config import Published, ReportConfig
from lt_sweeps.reporting.result_tables import quantity

TICK_SPACE = 0.25  # inches between two tick labels
X_NAMES = {
    "remaining": "Weights remaining (%)",
    "sparsity": "Sparsity (%)",
    "level": "Level (times pruned)",
}

Lines = Mapping[str, Sequence[Point]]


def place(point: Point, x: str) -> float:
    """Where a point lies on the x axis of this kind."""
    if x == "remaining":
        return point.percent
    return 100 - point.percent if x == "sparsity" else float(point.level)


def limits(
    curves: Sequence[Sequence[Point]], band: str, metric: str, beside: Sequence[Published] = ()
) -> tuple[float, float]:
    """Lower and upper end of the y axis, in the record's unit.

    An accuracy's axis leaves out points far below the rest (under Tukey's fence, Q1 - 1.5 IQR, of
    all means) when showing them would flatten everything else, but always holds the best curve
    whole. Published numbers are treated as curves are.
    """
    points = [point for curve in curves for point in curve]
    means = [(point.percent, point.mean) for point in points]
    means += [(100 * (1 - at), value) for each in beside for at, value in each.points]
    edges = [edge for p in points for edge in p.band(band) if math.isfinite(edge)]
    edges += [mean for _, mean in means]
    low, high = min(edges), max(edges)
    if metric.endswith("accuracy"):
        kept = high - 2 * (high - _floor(means))
        if high - low > 3 * (high - kept):
            low = kept
        low = max(low, 0.0)
        high = min(high, 1.0)
    room = 0.05 * (high - low) or 0.01
    return low - room, high + room


def asked_limits(layout: ReportConfig, metric: str) -> tuple[float, float] | None:
    """The ends that the layout gives to the axis of its first metric."""
    if layout.ylim is None or metric != layout.metrics[0]:
        return None
    return layout.ylim[0], layout.ylim[1]


def x_axis(axes: Axes, lines: Lines, x: str, inches: float) -> None:
    """Percent remaining reversed and logarithmic, as the papers draw it; the others linear."""
    measured = sorted({p.percent for points in lines.values() for p in points}, reverse=True)
    if x == "remaining":
        _remaining(axes, measured, inches)
    elif x == "level":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))


def y_axis(
    axes: Axes, lines: Lines, beside: Sequence[Published], *, layout: ReportConfig, metric: str
) -> float:
    """Returns its lower end, in the unit that is drawn."""
    _, scale = quantity(metric)
    ends = asked_limits(layout, metric)
    ends = ends or limits(list(lines.values()), layout.band, metric, beside)
    bottom, top = (scale * end for end in ends)
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    return bottom


def crossing(points: Sequence[Point], bottom: float, x: str) -> float | None:
    """Where a line first falls through the bottom: straight between two points as drawn."""
    for i, here in enumerate(points):
        if here.mean < bottom:
            last = points[max(i - 1, 0)]
            fall = last.mean - here.mean
            part = (last.mean - bottom) / fall if fall else 0
            if x == "remaining":
                return last.percent * (here.percent / last.percent) ** part
            return place(last, x) + (place(here, x) - place(last, x)) * part
    return None


def tick(x: float) -> str:
    return f"{x:.0f}" if x >= 19.95 else f"{x:.1f}" if x >= 0.95 else f"{x:.2g}"


def _remaining(axes: Axes, measured: Sequence[float], inches: float) -> None:
    """A tick at every measured percent, a label where there is room."""
    axes.set_xscale("log")
    most, least = measured[0], measured[-1]
    margin = max((most / least) ** 0.03, 1.03)
    axes.set_xlim(most * margin, least / margin)
    decades = math.log10(most / least * margin**2)
    labelled: list[float] = []
    for x in measured:
        if not labelled or math.log10(labelled[-1] / x) / decades * inches >= TICK_SPACE:
            labelled.append(x)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(FixedFormatter([tick(x) for x in labelled]))
    axes.xaxis.set_minor_locator(FixedLocator(list(measured)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _floor(found: Sequence[tuple[float, float]]) -> float:
    """The lowest accuracy that must be visible, of pairs of percent remaining and mean."""
    means = sorted(mean for _, mean in found)
    q1, q3 = means[len(means) // 4], means[(3 * len(means)) // 4]
    best: dict[float, float] = {}
    for percent, mean in found:
        left = round(percent, 1)
        best[left] = max(best.get(left, 0.0), mean)
    return max(means[0], min(q1 - 1.5 * (q3 - q1), *best.values()))
