"""One panel of the report's figure: means, bands, the dense reference and the two axes.

The x axis is logarithmic and reversed, as the papers draw it. The y axis shows the curves that
work; one that collapses leaves through the bottom, at a mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from lt_sweeps.curves import Curve
from lt_sweeps.points import Point
from lt_sweeps.table import quantity

GREY = "#555555"
SMALL, NORMAL = 7.0, 8.0  # points
TICK_SPACE = 0.3  # inches between two tick labels


@dataclass(frozen=True)
class Style:
    """How one label is drawn, in every panel."""

    color: str
    marker: str
    dash: Any  # a matplotlib line style


def panel(
    axes: Axes,
    curves: Sequence[Curve],
    styles: Mapping[str, Style],
    *,
    band: str,
    metric: str,
    inches: float,
) -> None:
    """Draw the curves of one network on one dataset into axes that are `inches` wide."""
    name, scale = quantity(metric)
    _decorate(axes, name)
    lines = {curve.label: shown(curve) for curve in curves}
    measured = sorted({p.percent for points in lines.values() for p in points}, reverse=True)
    if not measured:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    for label, points in lines.items():
        _line(axes, points, styles[label], band=band, scale=scale)
    _dense(axes, curves, styles, scale)
    _x_axis(axes, measured, inches)
    _y_axis(axes, lines, styles, band=band, metric=metric)


def shown(curve: Curve) -> list[Point]:
    """The points that can be drawn: finite ones, with weights left (the axis is a logarithm)."""
    return [point for point in curve.points if point.n_finite and point.percent > 0]


def limits(curves: Sequence[Sequence[Point]], band: str, metric: str) -> tuple[float, float]:
    """Lower and upper end of the y axis, in the record's unit.

    An accuracy's axis leaves out points far below the rest (under Tukey's fence, Q1 - 1.5 IQR, of
    all means) when showing them would flatten everything else, but always holds the best curve
    whole.
    """
    points = [point for curve in curves for point in curve]
    edges = [edge for p in points for edge in (p.mean, *p.band(band)) if math.isfinite(edge)]
    low, high = min(edges), max(edges)
    if metric.endswith("accuracy"):
        kept = high - 2 * (high - _floor(curves))
        if high - low > 3 * (high - kept):
            low = kept
        low = max(low, 0.0)
        high = min(high, 1.0)
    room = 0.05 * (high - low) or 0.01
    return low - room, high + room


def _decorate(axes: Axes, name: str) -> None:
    axes.set_xlabel("Weights remaining (%)", fontsize=NORMAL)
    axes.set_ylabel(name[0].upper() + name[1:], fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def _line(axes: Axes, points: Sequence[Point], style: Style, *, band: str, scale: float) -> None:
    x = [point.percent for point in points]
    y = [scale * point.mean for point in points]
    low, high = ([scale * edge for edge in edges] for edges in _edges(points, band))
    axes.fill_between(x, low, high, color=style.color, alpha=0.16, linewidth=0)
    axes.plot(x, y, color=style.color, linestyle=style.dash, linewidth=1.1)
    lost = [point.n_collapsed > 0 or point.n_finite < point.n for point in points]
    for hollow, face in ((False, style.color), (True, "white")):
        axes.plot(
            [a for a, flag in zip(x, lost, strict=True) if flag == hollow],
            [b for b, flag in zip(y, lost, strict=True) if flag == hollow],
            linestyle="none",
            marker=style.marker,
            markersize=3.6,
            markeredgewidth=0.8,
            color=style.color,
            markerfacecolor=face,
            zorder=3,
        )


def _edges(points: Sequence[Point], band: str) -> tuple[list[float], list[float]]:
    edges = [point.band(band) for point in points]
    return [low for low, _ in edges], [high for _, high in edges]


def _dense(axes: Axes, curves: Sequence[Curve], styles: Mapping[str, Style], scale: float) -> None:
    """A thin line at each distinct dense training: grey if the panel shares one."""
    found: dict[frozenset[str], tuple[Point, str]] = {}
    for curve in curves:
        for point in (p for p in shown(curve) if p.level == 0):
            if point.stages not in found or found[point.stages][0].n < point.n:
                found[point.stages] = point, curve.label
    for point, label in found.values():
        color = GREY if len(found) == 1 else styles[label].color
        axes.axhline(scale * point.mean, color=color, linestyle="--", linewidth=0.6, zorder=1)


def _x_axis(axes: Axes, measured: Sequence[float], inches: float) -> None:
    """Reversed and logarithmic; a tick at every measured percent, a label where there is room."""
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
    axes.xaxis.set_major_formatter(FixedFormatter([_tick(x) for x in labelled]))
    axes.xaxis.set_minor_locator(FixedLocator(list(measured)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _tick(x: float) -> str:
    return f"{x:.0f}" if x >= 19.95 else f"{x:.1f}" if x >= 0.95 else f"{x:.2g}"


def _y_axis(
    axes: Axes,
    lines: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Style],
    *,
    band: str,
    metric: str,
) -> None:
    _, scale = quantity(metric)
    bottom, top = (scale * limit for limit in limits(list(lines.values()), band, metric))
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    for label, points in lines.items():
        left_at = _crossing(points, bottom / scale)
        if left_at:
            axes.plot(
                left_at,
                0.02,
                marker="v",
                markersize=6,
                color=styles[label].color,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=4,
            )


def _crossing(points: Sequence[Point], bottom: float) -> float | None:
    """Where a line first falls through the bottom: straight between points, on a log axis."""
    for i, here in enumerate(points):
        if here.mean < bottom:
            last = points[max(i - 1, 0)]
            fall = last.mean - here.mean
            part = (last.mean - bottom) / fall if fall else 0
            return last.percent * (here.percent / last.percent) ** part
    return None


def _floor(curves: Sequence[Sequence[Point]]) -> float:
    """The lowest accuracy that must be visible."""
    means = sorted(point.mean for curve in curves for point in curve)
    q1, q3 = means[len(means) // 4], means[(3 * len(means)) // 4]
    best: dict[float, float] = {}
    for point in (point for curve in curves for point in curve):
        left = round(point.percent, 1)
        best[left] = max(best.get(left, 0.0), point.mean)
    return max(means[0], min(q1 - 1.5 * (q3 - q1), *best.values()))
