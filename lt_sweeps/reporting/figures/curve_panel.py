"""One panel of curves: means, bands, the dense reference, stars and published numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.significance import Verdict, same_tickets
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import Published, ReportConfig
from lt_sweeps.reporting.figures.axes import (
    X_NAMES,
    set_x_axis,
    set_y_axis,
    where_it_leaves,
    x_position,
)
from lt_sweeps.reporting.figures.marks import draw_marker, draw_rings
from lt_sweeps.reporting.figures.style import (
    GREY,
    MARKER,
    NORMAL,
    SMALL,
    Style,
    decorate,
    escaped,
    shortened,
)

# How the mark of a verdict is drawn: its marker, and whether it is filled. Marks are drawn as
# markers and not as text, because fonts lack these characters or do not centre them.
MARKS = {"★": ("*", True), "☆": ("*", False), "×": ("X", True), "·": ("X", False)}
MARK_ROW = 0.1  # inches: the height of a row of marks, in which a name of 6.5 points fits
_NAME = 24  # characters of a line's name beside its row of marks
_FAINT = 0.35  # opacity of a marker where seeds are missing


def draw_panel(
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
    quantity = curves[0].metric if curves else Quantity.of(metric)
    scale, title = quantity.scale, curves[0].panel if curves else ""
    # On one line, `Test perplexity (lower is better)` is longer than the height of a panel.
    label = quantity.label.replace(" (lower", "\n(lower")
    decorate(axes, title=title, x=X_NAMES[x], y=label[0].upper() + label[1:])
    lines = {curve.name: drawable_points(curve) for curve in curves}
    if not any(lines.values()):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    for curve in curves:
        # With ten lines the bands cover each other; `report.highlight` selects the bands to draw.
        banded = layout.highlight is None or any(map(curve.called, layout.highlight))
        band = layout.band if banded else None
        _line(axes, curve, styles[curve.name], band=band, scale=scale, x=x)
    _dense(axes, curves, styles, scale)
    set_x_axis(axes, lines, x)
    # A published number has a sparsity and no level, so it has no place on that axis.
    published_lines = published_for(layout, curves, metric) if x != "level" else []
    ends = set_y_axis(axes, lines, published_lines, layout=layout, metric=quantity)
    for curve in curves:
        # A triangle marks where a line leaves the panel: on the bad side, or at an end of
        # `report.ylim`.
        for edge, up in zip(ends, (False, True), strict=True):
            at = where_it_leaves(lines[curve.name], edge, x, up=up)
            if at is not None:
                triangle = replace(styles[curve.name], marker="^" if up else "v")
                height = 0.98 if up else 0.02
                # x is in data units, and y a fraction of the panel's height.
                place = {"transform": axes.get_xaxis_transform(), "clip_on": False}
                draw_marker(axes, at, height, triangle, 5, zorder=4, **place)
    for published in published_lines:
        _published(axes, published, styles, scale=scale, x=x)
    _stars(axes, verdicts, styles, layout=layout, x=x)


def drawable_points(curve: Curve) -> list[Point]:
    """The points that can be drawn: with a finite mean, and not at 0%, which has no logarithm."""
    return [point for point in curve.points if point.n_finite and point.percent > 0]


def mark_id(curve: Curve, point: Point) -> str:
    """Return the id of a point's marker in the SVG; the page uses it to find the point's tip."""
    place = "\n".join([curve.panel, curve.name, *sorted(point.stages), *point.at])
    return f"point-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def published_for(layout: ReportConfig, curves: Sequence[Curve], metric: str) -> list[Published]:
    """The published numbers of a metric whose `where` matches a curve of the panel."""
    return [
        published
        for published in layout.published
        if published.metric == metric
        and any(
            all(curve.choices.get(group) == option for group, option in published.where.items())
            for curve in curves
        )
    ]


def _line(
    axes: Axes, curve: Curve, style: Style, *, band: str | None, scale: float, x: str
) -> None:
    """Draw a curve with its band; without a band if `band` is None."""
    points = drawable_points(curve)
    at = [x_position(point, x) for point in points]
    y = [scale * point.mean for point in points]
    if band is not None:
        edges = [point.band(band) for point in points]
        low, high = [scale * low for low, _ in edges], [scale * high for _, high in edges]
        axes.fill_between(at, low, high, color=style.color, alpha=0.16, linewidth=0)
    axes.plot(at, y, color=style.color, linestyle=style.dash, linewidth=1.0)
    # Markers are drawn one by one, because each shows the state of its level: open if a replicate
    # collapsed or diverged, faint if seeds are missing. With missing seeds, the mean is over other
    # seeds than the neighbouring means, and a step between them must not be read as an effect.
    for left, height, point in zip(at, y, points, strict=True):
        failed = point.n_collapsed > 0 or point.n_finite < point.n
        alpha = _FAINT if point.n < len(curve.seeds) else 1.0
        state = {"alpha": alpha, "gid": mark_id(curve, point)}
        options = {"markeredgewidth": 0.7, "zorder": 3, **state}
        draw_marker(axes, left, height, style, MARKER, filled=not failed, **options)


def _dense(axes: Axes, curves: Sequence[Curve], styles: Mapping[str, Style], scale: float) -> None:
    """Draw a thin line at each distinct dense training: grey if all curves share one."""
    # Curves that share their dense training would draw the same line on top of each other, so it is
    # drawn once. In an unfinished sweep some curves have more of its seeds than others; the mean
    # over the most seeds is drawn.
    dense = [(p, curve.name) for curve in curves for p in drawable_points(curve) if not p.pruned]
    trainings: list[tuple[Point, str]] = []
    for point, name in sorted(dense, key=lambda pair: -pair[0].n):
        if not any(same_tickets(point, drawn) for drawn, _ in trainings):
            trainings.append((point, name))
    for point, name in trainings:
        color = GREY if len(trainings) == 1 else styles[name].color
        axes.axhline(scale * point.mean, color=color, linestyle="--", linewidth=0.6, zorder=1)


def _published(
    axes: Axes, published: Published, styles: Mapping[str, Style], *, scale: float, x: str
) -> None:
    """Draw rings at published numbers: in the colour of the line of that name, or labelled grey."""
    style = styles.get(published.label)
    heights = [scale * value for _, value in published.points]
    at = [100 * (1 - s) if x == "remaining" else 100 * s for s, _ in published.points]
    draw_rings(axes, at, heights, style.color if style else GREY)
    if style is None:
        text = {"textcoords": "offset points", "fontsize": SMALL, "color": GREY, "clip_on": True}
        axes.annotate(escaped(published.label), (at[-1], heights[-1]), (5, 0), va="center", **text)


def starred(verdicts: Sequence[Verdict], layout: ReportConfig) -> dict[str, str]:
    """The labels of a panel's lines that have a row of marks above it, by the line's name."""
    return {v.curve.name: v.curve.label for v in verdicts if v.mark(layout.alpha)}


def _stars(
    axes: Axes,
    verdicts: Sequence[Verdict],
    styles: Mapping[str, Style],
    *,
    layout: ReportConfig,
    x: str,
) -> None:
    """Draw a row above the panel for each line with marks, and a mark at each of its levels."""
    # Inside the panel, the stars of several lines would cover the lines and each other. The x of a
    # star is in data units, so that it is above its level. The title is padded to be above the
    # rows, and the lowest row is high enough for a tick label at the top of the panel.
    rows = starred(verdicts, layout)
    above = {name: MARK_ROW * (len(rows) - i) for i, name in enumerate(rows)}
    for name, label in rows.items():
        # The row starts with the line's name and its own marker.
        place = {"transform": axes.transAxes + _raised(axes, above[name]), "clip_on": False}
        draw_marker(axes, -0.03, 1, styles[name], MARKER, **place)
        text = escaped(shortened(label, _NAME))
        axes.text(-0.06, 1, text, ha="right", va="center", fontsize=SMALL, **place)
    for verdict in verdicts:
        mark = verdict.mark(layout.alpha)
        if not mark:
            continue
        marker, filled = MARKS[mark]
        name, size = verdict.curve.name, 6.0 if marker == "*" else 4.6
        star, left = replace(styles[name], marker=marker), x_position(verdict.point, x)
        place = {"transform": axes.get_xaxis_transform() + _raised(axes, above[name])}
        options = {"markeredgewidth": 0.6, "zorder": 4, "clip_on": False, **place}
        draw_marker(axes, left, 1, star, size, filled=filled, **options)
    if rows:
        axes.set_title(axes.get_title(), fontsize=NORMAL, pad=8 + 72 * MARK_ROW * len(rows))


def _raised(axes: Axes, inches: float) -> ScaledTranslation:
    return ScaledTranslation(0, inches, axes.figure.dpi_scale_trans)
