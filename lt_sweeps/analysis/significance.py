"""Significance: each line tested against the layout's baseline, and which tickets win.

Every test is at one level. Holm's method corrects within the family that the layout declares.
Beside each test of a difference stands one of equivalence, because a difference that was not found
is not a difference that is not there. What a report says of the tests is in `verdict_sentences`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lt_sweeps.analysis.curve import Curve, Point, by_panel
from lt_sweeps.analysis.endpoint import not_inferior
from lt_sweeps.analysis.labels import group_by, value_of
from lt_sweeps.analysis.line_names import check_lines, line_and_option
from lt_sweeps.analysis.stats import Comparison, compare_replicates, holm
from lt_sweeps.config.report_config import ReportConfig

# Two densities are the same level if they differ by at most 1% of the larger. Counts of weights are
# rounded in each layer, so one target gives densities that differ a little from line to line, while
# neighbouring levels differ by 20% of the density (arXiv:1905.01067).
SAME = 0.01
Pair = tuple[Curve, Curve]
"""A line, and the one that it is tested against."""
Tested = TypeVar("Tested", bound="LineTest")
# What Holm corrects together, by the name in `report.family`: tests with the same key.
FAMILIES = {
    "pair": lambda verdict: verdict.question,
    "line": lambda verdict: (verdict.curve.panel, verdict.curve.name),
    "panel": lambda verdict: verdict.curve.panel,
    "figure": lambda verdict: "",
}


@dataclass(frozen=True, kw_only=True)
class LineTest:
    """One line against another: the comparison, corrected within its family."""

    curve: Curve
    baseline: Curve
    comparison: Comparison
    p_holm: float = math.nan
    p_exact_holm: float = math.nan
    p_equivalent_holm: float = math.nan
    family: str = ""  # what Holm corrected together

    @property
    def question(self) -> tuple[str, ...]:
        """The lines that are compared, and where each is drawn."""
        return self.curve.panel, self.curve.name, self.baseline.panel, self.baseline.name

    @property
    def is_better(self) -> bool:
        """Whether the line is better than the other: above it, or below it if lower is better."""
        return self.curve.metric.worth(self.comparison.difference) > 0

    @property
    def against(self) -> str:
        """The baseline's name in the legend, with its panel where that is another."""
        elsewhere = self.baseline.panel != self.curve.panel
        return (
            f"{self.baseline.label} of {self.baseline.panel}" if elsewhere else self.baseline.label
        )

    def words(self, alpha: float) -> tuple[str, ...]:
        """What the tests show after Holm: `above` or `below`, `equivalent`, both, or `undecided`.

        A difference that is certain and smaller than the margin is both.
        """
        if math.isnan(self.comparison.p):
            return ("not tested",)
        above = "above" if self.comparison.difference > 0 else "below"
        shown = {above: self.p_holm, "equivalent": self.p_equivalent_holm}
        return tuple(word for word, p in shown.items() if p < alpha) or ("undecided",)

    def mark(self, alpha: float) -> str:
        """`★` or `×` if the line is better or worse after Holm, `☆` or `·` if only uncorrected.

        Uncorrected means Student's two-sample test, by which arXiv:1905.01067 gives its stars.
        """
        if math.isnan(self.comparison.p):
            return ""
        better = self.is_better
        if self.p_holm < alpha:
            return "★" if better else "×"
        return ("☆" if better else "·") if self.comparison.p_student < alpha else ""


@dataclass(frozen=True, kw_only=True)
class Verdict(LineTest):
    """One line against another at one level."""

    point: Point


def verdicts(curves: Sequence[Curve], layout: ReportConfig) -> list[Verdict]:
    """Every tested line at every level that it shares with the baseline of its panel.

    Raises: ValueError: the layout names a line that no panel has.
    """
    return _tested_pairs(curves, against_baseline(curves, layout), layout, layout.family)


def pair_verdicts(curves: Sequence[Curve], layout: ReportConfig) -> list[Verdict]:
    """The pairs of lines that the layout names, each a family of tests of its own."""
    return _tested_pairs(curves, named_pairs(curves, layout), layout, "pair")


def _tested_pairs(
    curves: Sequence[Curve], pairs: Sequence[Pair], layout: ReportConfig, family: str
) -> list[Verdict]:
    check_lines([curve.name for curve in curves], layout)
    verdicts = [v for curve, other in pairs for v in compare_curves(curve, other, layout)]
    return correct_by_holm(verdicts, family)


def compare_curves(curve: Curve, baseline: Curve, layout: ReportConfig) -> Iterator[Verdict]:
    """Compare two curves at each level that both have, unless they share its tickets."""
    for point in curve.points:
        other = point_at_density(point, baseline)
        if other is None or other.stages == point.stages:
            continue
        comparison = compare_replicates(
            point.values,
            other.values,
            seeds=curve.seeds,
            other_seeds=baseline.seeds,
            alpha=layout.alpha,
            margin=equivalence_margin(baseline, layout, other.mean),
            same_draws=curve.imported == baseline.imported,
        )
        yield Verdict(curve=curve, baseline=baseline, point=point, comparison=comparison)


def equivalence_margin(baseline: Curve, layout: ReportConfig, mean: float) -> float:
    """The difference from a baseline that counts as none; NaN where none is asked for.

    A relative one is a part of the baseline's dense network, or of its `mean` where it has none. A
    loss has no difference by default that would mean the same to everybody.
    """
    metric, given = baseline.metric, layout.equivalence
    if given is None or (given == "auto" and not metric.judges):
        return math.nan
    dense = baseline.dense
    return metric.margin(given, mean if dense is None else dense.mean)


def against_baseline(curves: Sequence[Curve], layout: ReportConfig) -> list[Pair]:
    """Each tested line with the baseline of its panel."""
    name, pairs = layout.baseline, []
    for panel in by_panel(curves).values():
        baseline = next((c for c in panel if name is not None and c.called(name)), None)
        for curve in panel if baseline else ():
            tested = layout.tested is None or any(map(curve.called, layout.tested))
            if tested and curve is not baseline:
                pairs.append((curve, baseline))
    return pairs


def named_pairs(curves: Sequence[Curve], layout: ReportConfig) -> list[Pair]:
    """The pairs of lines that the layout asks about and the panels have.

    Two lines of a pair lie in one panel, or in two that differ by the option that both name:
    `large_final @ reset.to=2ep` and `large_final @ reset.to=0it`. A pair that is compared as a line
    and its baseline is left out, in either order: tested twice, each of its levels would count as
    two.
    """
    pairs: list[Pair] = []
    for names in layout.pairs:
        (line, option), (other_line, other_option) = map(line_and_option, names)
        firsts = [(c, at) for c in curves if (at := _rest(c, line, option, layout)) is not None]
        for other in curves:
            rest = _rest(other, other_line, other_option, layout)
            pairs += [(first, other) for first, at in firsts if at == rest]
    compared = set(map(_both_lines, against_baseline(curves, layout)))
    once = {_both_lines(pair): pair for pair in reversed(pairs)}
    pairs = [pair for lines, pair in reversed(once.items()) if lines not in compared]
    for one, other in pairs:
        if one.metric != other.metric:
            raise ValueError(
                f"report.pairs: {one.label} is judged by {one.metric.words} and {other.label} by "
                f"{other.metric.words}; give lines with one metric"
            )
    return pairs


def _rest(curve: Curve, line: str, option: str, layout: ReportConfig) -> tuple[Any, ...] | None:
    """The panel of a curve but for an option; None for another line, or another option."""
    key, _, value = option.partition("=")
    options = {panel_key: str(value_of(curve.cells[0], panel_key)) for panel_key in layout.panels}
    if not curve.called(line) or (option and options.pop(key, None) != value):
        return None
    return tuple(options.items())


def _both_lines(pair: Pair) -> frozenset[tuple[str, str]]:
    """Equal for pairs of the same two lines, whichever is the first."""
    return frozenset((curve.panel, curve.name) for curve in pair)


def correct_by_holm(verdicts: Sequence[Tested], family: str) -> list[Tested]:
    """The verdicts with p-values adjusted by Holm's method within each family."""
    corrected = []
    for members in group_by(verdicts, FAMILIES[family]).values():
        p_holm = holm([v.comparison.p for v in members])
        exact = holm([v.comparison.p_exact for v in members])
        equal = holm([v.comparison.p_equivalent for v in members])
        corrected += [
            replace(v, p_holm=p, p_exact_holm=e, p_equivalent_holm=q, family=family)
            for v, p, e, q in zip(members, p_holm, exact, equal, strict=True)
        ]
    return corrected


def point_at_density(point: Point, curve: Curve) -> Point | None:
    """The point of another curve at the same density, or None.

    Of several there it is the one with the same values of the keys in `report.along`.
    """
    near = [p for p in curve.points if math.isclose(p.percent, point.percent, rel_tol=SAME)]
    distance = [(p.at != point.at, abs(p.percent - point.percent)) for p in near]
    return near[distance.index(min(distance))] if near else None


def winning(
    curve: Curve, verdicts: Sequence[Verdict], layout: ReportConfig
) -> dict[frozenset[str], bool]:
    """Which points win: tests show them not inferior to dense, and better than the control."""
    better = {
        v.point.stages
        for v in verdicts
        if v.p_holm < layout.alpha and v.is_better and v.curve is curve
    }
    return {
        point.stages: point.stages in better and not_inferior(point, curve, layout)
        for point in curve.points
        if point.pruned
    }
