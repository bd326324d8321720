"""The sentences of a caption: what a reader must know to judge a figure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.points import Point
from lt_sweeps.analysis.significance import Verdict, caveats
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.report_config import BANDS, ReportConfig


def caption(found: Analysis, *says: str, stages: Sequence[str]) -> str:
    """The takeaway, what is particular to the figure, and what holds for every one of them."""
    title = (found.layout.title or "").rstrip(".")
    whole = [f"{title}." if title else "", *says, *state(found), behind(stages)]
    return " ".join(filter(None, whole))


def state(found: Analysis) -> list[str]:
    """What is not as it should be: cells that are not done, more than one version of the code."""
    versions, unfinished = found.reading.versions, found.reading.unfinished
    return [
        f"Unfinished: {unfinished}." if unfinished else "",
        f"Made by {len(versions)} versions of the code: {', '.join(versions)}."
        if len(versions) > 1
        else "",
    ]


def behind(stages: Sequence[str]) -> str:
    """The trainings behind a figure: their number, and a digest that names the whole set."""
    if not stages:
        return ""
    name = hashlib.sha256("\n".join(sorted(stages)).encode()).hexdigest()[:12]
    named = ", ".join(stages) if len(stages) <= 3 else f"set {name}"
    return f"From {len(stages)} stage{'s' * (len(stages) > 1)} ({named})."


def seeds(curves: Sequence[Curve], layout: ReportConfig) -> str:
    """How many seeds a mean is of, and what the band is."""
    points = [point for curve in curves for point in curve.points if point.n_finite]
    if not points:
        return ""
    fewest, most = min(p.n_finite for p in points), max(p.n_finite for p in points)
    if most == 1:
        return "One seed, no band."
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    names = {curve.name: curve.label for curve in curves}
    which = [names[name] for name in layout.highlight or () if name in names]
    only = f" (of {', '.join(which)})" if which else ""
    return f"Mean over seeds, {n}; band{only}: {BANDS[layout.band]}."


def marks(curves: Sequence[Curve]) -> str:
    """What an open and a faint marker say, where there is one."""
    points = [(curve, point) for curve in curves for point in curve.points]
    lost = sum(p.n_collapsed for _, p in points), sum(p.n - p.n_finite for _, p in points)
    absent = sum(len(curve.seeds) - point.n for curve, point in points)
    says = []
    if any(lost):
        says.append(
            f"Open marker: a replicate collapsed ({lost[0]} in all), or diverged and is left out "
            f"of the mean ({lost[1]})."
        )
    if absent:
        says.append(f"Faint marker: seeds are missing there ({absent} in all).")
    return " ".join(says)


def reported(curves: Sequence[Curve], metric: str) -> str:
    """Where in training the number was taken, if all curves agree."""
    when = {curve.settings.get("report_at") for curve in curves}
    if metric.split("_")[0] in ("test", "val") and len(when) == 1:
        return {
            "best": "At the lowest validation loss.",
            "end": "At the end of training.",
        }.get(str(when.pop()), "")
    return ""


def tests(verdicts: Sequence[Verdict], layout: ReportConfig) -> str:
    """What the stars mean, which tests they are of, and what limits them."""
    if not verdicts:
        return ""
    above = (
        "Filled star (cross): above (below) the baseline after Holm; open: only by Student's "
        "test, uncorrected."
    )
    return " ".join([above, *caveats(verdicts, layout)])


def matching(found: Analysis) -> str:
    """Down to where each line is shown to be as good as dense, and by which test and margin."""
    reached = {
        curve.label: each.sparsity
        for curve, ends in found.endpoints
        for each in ends
        if each.name == "sparsest_tested" and not math.isnan(each.sparsity)
    }
    if not reached or max(len(curve.seeds) for curve in found.curves) < 2:
        return ""
    lines = ", ".join(f"{label} {100 * (1 - s):.3g}%" for label, s in reached.items())
    return (
        f"Not inferior to dense by {margin(found.layout)} (one-sided paired t, level after level, "
        f"α = {found.layout.alpha:g}) down to: {lines}."
    )


def margin(layout: ReportConfig) -> str:
    """The margin as a reader says it."""
    if isinstance(layout.margin, str):
        return f"{layout.margin} of its accuracy"
    return f"{100 * layout.margin:g} points"


def levels(points: Sequence[Point]) -> tuple[str, ...]:
    """The ids of the stages behind these points."""
    return tuple(sorted({stage for point in points for stage in point.stages}))


def panels(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves by the panel that they are drawn in."""
    return group_by(curves, lambda curve: curve.panel)
