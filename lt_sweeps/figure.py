"""The report's figure: accuracy against percent of weights remaining, a panel per network and data.

A line is the mean, a band what `BANDS` says. Colours are Okabe and Ito's, and markers and dashes
differ too, so that the curves stay apart for every reader and in greyscale.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lt_sweeps.curves import Curve
from lt_sweeps.panel import GREY, NORMAL, SMALL, Style, limits, panel, shown
from lt_sweeps.points import BANDS, Point
from lt_sweeps.table import quantity

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
COLOURS += ["#E69F00", "#56B4E9", "#7A4A12", "#7F7F00"]
MARKERS = "os^DvPX<>p*h"
# 9 colours, 12 markers, 4 dashes: no two of the first 36 curves look alike.
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))]


def draw(curves: Sequence[Curve], *, band: str, metric: str, unfinished: str) -> bytes:
    """The figure as PNG at 200 dpi."""
    panels = list(dict.fromkeys(curve.panel for curve in curves)) or [""]
    styles = _styles(curves)
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    width = 5.0 if columns == 1 else 7.2
    legend_columns = _legend_columns(styles, width)
    legend_rows = math.ceil((len(styles) + 1) / legend_columns)
    text = _caption(curves, band=band, metric=metric, unfinished=unfinished)
    caption = textwrap.fill(text, int(width * 20))
    height = 2.75 * rows + 0.16 * legend_rows + 0.13 * (1 + caption.count("\n"))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, title in zip(grid, panels, strict=False):
        here = [curve for curve in curves if curve.panel == title]
        panel(axes, here, styles, band=band, metric=metric, inches=width / columns - 0.9)
        axes.set_title(title, fontsize=NORMAL)
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    _legend(figure, curves, styles, legend_columns)
    figure.suptitle(caption, x=0.01, ha="left", fontsize=SMALL, color=GREY)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200)
    return file.getvalue()


def _styles(curves: Sequence[Curve]) -> dict[str, Style]:
    labels = dict.fromkeys(curve.label for curve in curves)
    return {
        label: Style(
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i % len(DASHES)],
        )
        for i, label in enumerate(labels)
    }


def _legend_columns(styles: Mapping[str, Style], width: float) -> int:
    longest = max((len(label) for label in styles), default=0)
    return max(1, min(len(styles) + 1, int(width / (0.45 + 0.054 * longest))))


def _legend(
    figure: Figure, curves: Sequence[Curve], styles: Mapping[str, Style], columns: int
) -> None:
    """Below the panels, where it covers no data."""
    handles = [
        Line2D(
            [], [], color=s.color, marker=s.marker, linestyle=s.dash, markersize=3.6, linewidth=1.1
        )
        for s in styles.values()
    ]
    labels = [label.replace("$", r"\$") for label in styles]
    if any(point.level == 0 for curve in curves for point in curve.points):
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.6))
        labels.append("dense")
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.2,
            labelspacing=0.3,
            borderpad=0.1,
        )


def _caption(curves: Sequence[Curve], *, band: str, metric: str, unfinished: str) -> str:
    """What a reader must know to read the figure, as sentences."""
    panels: dict[str, list[list[Point]]] = {}
    for curve in curves:
        panels.setdefault(curve.panel, []).append(shown(curve))
    drawn = {panel: found for panel, found in panels.items() if any(found)}
    points = [point for found in drawn.values() for curve in found for point in curve]
    says = [_seeds(points, band)] if points else []
    says += [_reported(curves, metric)]
    if any(point.n_collapsed or point.n_finite < point.n for c in curves for point in c.points):
        says.append("Open marker: a replicate collapsed, or diverged and is left out of the mean.")
    if sum(map(len, (curve.points for curve in curves))) > len(points):
        says.append("Levels with no finite replicate or no weight left are not drawn.")
    lowest = [
        min(p.mean for curve in found for p in curve)
        for found in drawn.values()
        if limits(found, band, metric)[0] > min(p.mean for curve in found for p in curve)
    ]
    if lowest:
        _, scale = quantity(metric)
        says.append(f"▼: leaves the panel, down to {scale * min(lowest):.4g}%.")
    says.append(f"{unfinished[:1].upper()}{unfinished[1:]}." if unfinished else "")
    return " ".join(filter(None, says))


def _seeds(points: Sequence[Point], band: str) -> str:
    fewest, most = min(p.n_finite for p in points), max(p.n_finite for p in points)
    if most == 1:
        return "One seed, no band."
    several = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"Mean of {several} seeds; band: {BANDS[band]}."


def _reported(curves: Sequence[Curve], metric: str) -> str:
    """Where in training the number was taken, if all curves agree."""
    when = {curve.settings.get("report_at") for curve in curves}
    if metric.split("_")[0] in ("test", "val") and len(when) == 1:
        return {
            "best": "At the lowest validation loss.",
            "end": "At the end of training.",
        }.get(str(when.pop()), "")
    return ""
