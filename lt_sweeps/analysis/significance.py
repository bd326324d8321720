"""Significance: each line tested against the layout's baseline, and which tickets win.

Every test is at one level. Holm's method corrects within the family that the layout declares, and
what a reader needs to judge a p-value is reported with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.endpoint import not_inferior
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.stats import Comparison, compare_replicates, detectable, holm
from lt_sweeps.config.call import nearest
from lt_sweeps.config.report_config import ReportConfig

# Two densities are the same level if they differ by at most 1% of the larger. Counts of weights are
# rounded in each layer, so one target gives densities that differ a little from line to line, while
# neighbouring levels differ by 20% of the density (arXiv:1905.01067).
SAME = 0.01
_FAMILIES = {
    "line": lambda verdict: (verdict.curve.panel, verdict.curve.name),
    "panel": lambda verdict: verdict.curve.panel,
    "figure": lambda verdict: "",
}


@dataclass(frozen=True)
class Verdict:
    """One line against another at one level: the comparison, corrected within its family."""

    curve: Curve
    baseline: Curve
    point: Point
    found: Comparison
    p_holm: float = math.nan
    p_exact_holm: float = math.nan

    def mark(self, alpha: float) -> str:
        """`★` or `×` if the line is above or below after Holm, `☆` or `·` if only uncorrected.

        Uncorrected means Student's two-sample test, by which arXiv:1905.01067 gives its stars.
        """
        if math.isnan(self.found.p):
            return ""
        above = self.found.difference > 0
        if self.p_holm < alpha:
            return "★" if above else "×"
        return ("☆" if above else "·") if self.found.p_student < alpha else ""


def verdicts(curves: Sequence[Curve], layout: ReportConfig) -> list[Verdict]:
    """Every tested line at every level that it shares with the baseline of its panel.

    Raises: ValueError: the layout names a line that no panel has.
    """
    if layout.baseline is None:
        return []
    names = list(dict.fromkeys(curve.name for curve in curves))
    for where in ("baseline", "tested", "control", "highlight"):
        given = getattr(layout, where) or []
        for name in {given} if isinstance(given, str) else given:
            if name not in names:
                raise ValueError(
                    f"report.{where}: no line is called `{name}`{nearest(name, names)}; lines are "
                    f"{names}"
                )
    verdicts = []
    for panel in group_by(curves, lambda curve: curve.panel).values():
        baseline = next((curve for curve in panel if curve.name == layout.baseline), None)
        tested = [c for c in panel if layout.tested is None or c.name in layout.tested]
        for curve in tested:
            if baseline is not None and curve is not baseline:
                verdicts += compare_curves(curve, baseline, alpha=layout.alpha)
    return correct_by_holm(verdicts, layout.family)


def compare_curves(curve: Curve, baseline: Curve, *, alpha: float) -> Iterator[Verdict]:
    """Compare two curves at each level that both have, unless they share its tickets."""
    for point in curve.points:
        other = point_at_density(point, baseline)
        if other is None or other.stages == point.stages:
            continue
        found = compare_replicates(
            point.values,
            other.values,
            seeds=curve.seeds,
            other_seeds=baseline.seeds,
            alpha=alpha,
        )
        yield Verdict(curve, baseline, point, found)


def correct_by_holm(verdicts: Sequence[Verdict], family: str) -> list[Verdict]:
    """The verdicts with p-values adjusted by Holm's method within each family."""
    corrected = []
    for members in group_by(verdicts, _FAMILIES[family]).values():
        p_holm = holm([v.found.p for v in members])
        exact = holm([v.found.p_exact for v in members])
        corrected += [
            replace(v, p_holm=p, p_exact_holm=e)
            for v, p, e in zip(members, p_holm, exact, strict=True)
        ]
    return corrected


def point_at_density(point: Point, curve: Curve) -> Point | None:
    """The point of another curve at the same density, or None."""
    near = min(curve.points, key=lambda p: abs(p.percent - point.percent), default=None)
    if near is None or not math.isclose(near.percent, point.percent, rel_tol=SAME):
        return None
    return near


def winning(
    curve: Curve, verdicts: Sequence[Verdict], layout: ReportConfig
) -> dict[frozenset[str], bool]:
    """Which points win: tests show them not inferior to dense, and better than the control."""
    better = {
        v.point.stages
        for v in verdicts
        if v.p_holm < layout.alpha and v.found.difference > 0 and v.curve is curve
    }
    return {
        point.stages: point.stages in better and not_inferior(point, curve, layout)
        for point in curve.points
        if point.pruned
    }


def caveats(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """The limits of these tests as sentences: attainable p, power, what could not be tested."""
    if not verdicts:
        return []
    tests = sorted({v.found.test for v in verdicts})
    says = [
        f"Tests against {verdicts[0].baseline.label}, at one level each: {' and '.join(tests)}, "
        f"beside Student's two-sample t-test (arXiv:1905.01067) and an exact permutation test; "
        f"Holm within each {layout.family} ({_sizes(verdicts, layout)}), α = {layout.alpha:g}."
    ]
    says += _attainable(verdicts, layout) + _power(verdicts, layout)
    lost = [v for v in verdicts if v.found.n != v.found.asked]
    if lost:
        says.append(f"{len(lost)} of {len(verdicts)} tests lack seeds (diverged, or not yet done).")
    if blank := sum(math.isnan(v.found.p) for v in verdicts):
        says.append(f"{blank} could not be made: fewer than two seeds, or no spread at all.")
    return says


def _sizes(verdicts: Sequence[Verdict], layout: ReportConfig) -> str:
    families = group_by(verdicts, _FAMILIES[layout.family]).values()
    sizes = sorted({sum(not math.isnan(v.found.p) for v in family) for family in families})
    return f"{sizes[0]} tests" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} tests"


def _attainable(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Where the exact test has too few seeds to ever reach alpha."""
    least = {(v.found.test, v.found.n[0]): v.found.p_least for v in verdicts if min(v.found.n) > 1}
    return [
        f"With {n} {'pairs' if test == 'paired t' else 'seeds each'} the exact test cannot fall "
        f"below p = {p:.4g}, so it never reaches {layout.alpha:g}."
        for (test, n), p in least.items()
        if p >= layout.alpha
    ]


def _power(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """The difference that these seeds can show, and the seeds that the seen ones would need."""
    known = [v.found for v in verdicts if v.found.sd > 0 and min(v.found.n) > 1]
    if not known:
        return []
    middle = sorted(known, key=lambda each: each.sd)[len(known) // 2]
    n, paired = min(middle.n), middle.test == "paired t"
    visible = detectable(middle.sd, n, paired=paired, alpha=layout.alpha)
    needs = float(np.median([each.seeds_needed for each in known]))
    many = "more than 1000" if math.isinf(needs) else f"{needs:.0f}"
    scale, unit = (100, " points") if layout.metrics[0].endswith("accuracy") else (1, "")
    return [
        f"Power: {n} seeds show a difference of {scale * visible:.2g}{unit} with 80% probability "
        f"in a single test (standard deviation {scale * middle.sd:.2g}{unit}, the median); the "
        f"median difference seen here would need {many} seeds."
    ]
