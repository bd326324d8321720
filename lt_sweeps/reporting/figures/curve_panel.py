"""One panel of curves: means, bands, the dense reference, stars, and numbers from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.config.report_config import Published, ReportConfig
from lt_sweeps.reporting.figures.axes import X_NAMES, crossing, place, x_axis, y_axis
from lt_sweeps.reporting.figures.style import GREY, MARKER, NORMAL, SMALL, Style, decorate, plain
from lt_sweeps.reporting.result_tables import quantity

# How a verdict's mark is drawn: marker, and whether it is filled.
MARKS = {"★": ("*", True), "☆": ("*", False), "×": ("X", True), "·": ("X", False)}
_FAINT = 0.35  # where seeds are missing


def panel(
    axes: Axes,
    curves: Sequence[Curve],
    styles: Mapping[str, Style],
    *,
    layout: ReportConfig,
    metric: str,
    x: str,
    verdicts: Sequence[Verdict] = (),
) -> None:
    """Draw the curves of one panel into axes of about a column's width."""
    name, scale = quantity(metric)
    title = curves[0].panel if curves else ""
    decorate(axes, title=title, x=X_NAMES[x], y=name[0].upper() + name[1:])
    lines = {curve.name: shown(curve) for curve in curves}
    if not any(lines.values()):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    for curve in curves:
        banded = layout.highlight is None or curve.name in layout.highlight
        band = layout.band if banded else None
        _line(axes, curve, styles[curve.name], band=band, scale=scale, x=x)
    _dense(axes, curves, styles, scale)
    x_axis(axes, lines, x, 2.5)
    given = relevant(layout, curves, metric) if x != "level" else []
    bottom = y_axis(axes, lines, given, layout=layout, metric=metric)
    for curve in curves:
        _fallen(axes, crossing(lines[curve.name], bottom / scale, x), styles[curve.name])
    for published in given:
        _published(axes, published, styles, scale=scale, x=x)
    _stars(axes, verdicts, styles, layout=layout, x=x)


def shown(curve: Curve) -> list[Point]:
    """The points that can be drawn: finite ones, with weights left (the axis is a logarithm)."""
    return [point for point in curve.points if point.n_finite and point.percent > 0]


def relevant(layout: ReportConfig, curves: Sequence[Curve], metric: str) -> list[Published]:
    """The published numbers of a metric that belong into a panel."""
    return [
        each
        for each in layout.published
        if each.metric == metric
        and any(
            all(curve.choices.get(group) == option for group, option in each.where.items())
            for curve in curves
        )
    ]


def _line(
    axes: Axes, curve: Curve, style: Style, *, band: str | None, scale: float, x: str
) -> None:
    points = shown(curve)
    at = [place(point, x) for point in points]
    y = [scale * point.mean for point in points]
    if band is not None:
        edges = [point.band(band) for point in points]
        low, high = [scale * low for low, _ in edges], [scale * high for _, high in edges]
        axes.fill_between(at, low, high, color=style.color, alpha=0.16, linewidth=0)
    axes.plot(at, y, color=style.color, linestyle=style.dash, linewidth=1.0)
    for left, height, point in zip(at, y, points, strict=True):
        lost = point.n_collapsed > 0 or point.n_finite < point.n
        axes.plot(
            left,
            height,
            marker=style.marker,
            markersize=MARKER,
            markeredgewidth=0.7,
            color=style.color,
            markerfacecolor="white" if lost else style.color,
            alpha=_FAINT if point.n < len(curve.seeds) else 1.0,
            zorder=3,
        )


def _dense(axes: Axes, curves: Sequence[Curve], styles: Mapping[str, Style], scale: float) -> None:
    """A thin line at each distinct dense training: grey if the panel shares one."""
    found: dict[frozenset[str], tuple[Point, str]] = {}
    for curve in curves:
        for point in (p for p in shown(curve) if not p.pruned):
            if point.stages not in found or found[point.stages][0].n < point.n:
                found[point.stages] = point, curve.name
    for point, name in found.values():
        color = GREY if len(found) == 1 else styles[name].color
        axes.axhline(scale * point.mean, color=color, linestyle="--", linewidth=0.6, zorder=1)


def _fallen(axes: Axes, at: float | None, style: Style) -> None:
    """A mark where a line leaves through the bottom."""
    if at is not None:
        axes.plot(
            at,
            0.02,
            marker="v",
            markersize=5,
            color=style.color,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=4,
        )


def _published(
    axes: Axes, given: Published, styles: Mapping[str, Style], *, scale: float, x: str
) -> None:
    """Rings around where somebody else's numbers lie."""
    style = styles.get(given.label)
    heights = [scale * value for _, value in given.points]
    at = [100 * (1 - s) if x == "remaining" else 100 * s for s, _ in given.points]
    axes.plot(
        at,
        heights,
        linestyle="none",
        marker="o",
        markersize=7,
        markerfacecolor="none",
        markeredgewidth=0.8,
        color=style.color if style else GREY,
        zorder=5,
    )
    if style is None:
        text = {"textcoords": "offset points", "fontsize": SMALL, "color": GREY, "clip_on": True}
        axes.annotate(plain(given.label), (at[-1], heights[-1]), (5, 0), va="center", **text)


def _stars(
    axes: Axes,
    verdicts: Sequence[Verdict],
    styles: Mapping[str, Style],
    *,
    layout: ReportConfig,
    x: str,
) -> None:
    """A row above the panel for each line that differs, a mark at each level where it does."""
    rows = list(dict.fromkeys(v.curve.name for v in verdicts if v.mark(layout.alpha)))
    height = {name: 1.03 + 0.05 * (len(rows) - 1 - i) for i, name in enumerate(rows)}
    for name in rows:  # whose row it is, also in greyscale
        style = styles[name]
        axes.plot(
            -0.03,
            height[name],
            marker=style.marker,
            markersize=2.6,
            color=style.color,
            transform=axes.transAxes,
            clip_on=False,
        )
    for verdict in verdicts:
        mark = verdict.mark(layout.alpha)
        if not mark:
            continue
        marker, filled = MARKS[mark]
        color = styles[verdict.curve.name].color
        axes.plot(
            place(verdict.point, x),
            height[verdict.curve.name],
            marker=marker,
            markersize=4.5 if marker == "*" else 3.2,
            markeredgewidth=0.5,
            color=color,
            markerfacecolor=color if filled else "white",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=4,
        )
    if rows:
        axes.set_title(axes.get_title(), fontsize=NORMAL, pad=5 + 5.5 * len(rows))
