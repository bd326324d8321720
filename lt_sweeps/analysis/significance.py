"""Significance: tests of each line against the layout's baseline, and the tickets that win.

Every test is at one level. Holm's method corrects within the family that the layout declares.
Each test of a difference comes with a test of equivalence, because a difference that is not
significant is no evidence of equality. `verdict_sentences` has the sentences of a report.
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
from lt_sweeps.analysis.stats import Comparison, compare_replicates, holm, seeds_needed
from lt_sweeps.config.report_config import ReportConfig

# Two densities are the same level if they differ by at most 1% of the larger. Counts of weights are
# rounded in each layer, so one target gives densities that differ a little from line to line, while
# neighbouring levels differ by 20% of the density (arXiv:1905.01067).
SAME = 0.01
Pair = tuple[Curve, Curve]
"""A line, and the line that it is tested against."""
Tested = TypeVar("Tested", bound="LineTest")
# The families of Holm's method, by their name in `report.family`: tests with the same key are
# corrected together.
FAMILIES = {
    "pair": lambda verdict: verdict.question,
    "line": lambda verdict: (verdict.curve.panel, verdict.curve.name),
    "panel": lambda verdict: verdict.curve.panel,
    "figure": lambda verdict: "",
}


@dataclass(frozen=True, kw_only=True)
class LineTest:
    """One line tested against another: the comparison, with p-values corrected by family."""

    curve: Curve
    baseline: Curve
    comparison: Comparison
    p_holm: float = math.nan
    p_exact_holm: float = math.nan
    p_equivalent_holm: float = math.nan
    family: str = ""  # the name of the family in `FAMILIES` that Holm's method corrected within
    tests: int = 0  # the tests of that family with a p-value

    @property
    def question(self) -> tuple[str, ...]:
        """The two lines that are compared, with the panel of each."""
        return self.curve.panel, self.curve.name, self.baseline.panel, self.baseline.name

    @property
    def is_better(self) -> bool:
        """Whether the line is better than the other: above it, or below it if lower is better."""
        return self.curve.metric.worth(self.comparison.difference) > 0

    @property
    def against(self) -> str:
        """The baseline's label in the legend, with its panel if that differs from the line's."""
        elsewhere = self.baseline.panel != self.curve.panel
        return (
            f"{self.baseline.label} of {self.baseline.panel}" if elsewhere else self.baseline.label
        )

    @property
    def side(self) -> str:
        """`above` or `below`, whether or not the difference is significant."""
        return "above" if self.comparison.difference > 0 else "below"

    def words(self, alpha: float) -> tuple[str, ...]:
        """The verdict after Holm's correction: `above` or `below`, `equivalent`, or `undecided`.

        A difference that is significant, and also shown to be smaller than the margin, has two
        words, such as `above` and `equivalent`. A pair without a p-value is `not tested`.
        """
        if math.isnan(self.comparison.p):
            return ("not tested",)
        shown = {self.side: self.p_holm, "equivalent": self.p_equivalent_holm}
        return tuple(word for word, p in shown.items() if p < alpha) or ("undecided",)

    def seeds_needed(self, alpha: float) -> float:
        """The seeds per line for 80% power at this difference after Holm's correction.

        Holm's method compares the smallest p of a family with alpha divided by the number of tests.
        The seeds are counted for that level, so they suffice for any order of the p-values.
        """
        comparison, level = self.comparison, alpha / max(1, self.tests)
        paired = comparison.test == "paired t"
        return seeds_needed(comparison.difference, comparison.sd, paired=paired, alpha=level)

    def mark(self, alpha: float) -> str:
        """`★` or `×` if the line is better or worse after Holm, `☆` or `·` if only uncorrected.

        "Uncorrected" means Student's two-sample t-test, on which arXiv:1905.01067 bases its stars.
        """
        if math.isnan(self.comparison.p):
            return ""
        better = self.is_better
        if self.p_holm < alpha:
            return "★" if better else "×"
        return ("☆" if better else "·") if self.comparison.p_student < alpha else ""


@dataclass(frozen=True, kw_only=True)
class Verdict(LineTest):
    """One line tested against another at one level."""

    point: Point


def verdicts(curves: Sequence[Curve], layout: ReportConfig) -> list[Verdict]:
    """Test every tested line at every level that it shares with the baseline of its panel.

    Raises: ValueError: the layout names a line that no panel has.
    """
    return _tested_pairs(curves, against_baseline(curves, layout), layout, layout.family)


def pair_verdicts(curves: Sequence[Curve], layout: ReportConfig) -> list[Verdict]:
    """Test the pairs of lines that the layout names; each pair is a family of its own."""
    return _tested_pairs(curves, named_pairs(curves, layout), layout, "pair")


def _tested_pairs(
    curves: Sequence[Curve], pairs: Sequence[Pair], layout: ReportConfig, family: str
) -> list[Verdict]:
    check_lines([curve.name for curve in curves], layout)
    verdicts = [v for curve, other in pairs for v in compare_curves(curve, other, layout)]
    return correct_by_holm(verdicts, family)


def compare_curves(curve: Curve, baseline: Curve, layout: ReportConfig) -> Iterator[Verdict]:
    """Compare two curves at each density that both have, unless their tickets are the same."""
    for point, other in shared_levels(curve, baseline):
        if same_tickets(point, other):
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


def shared_levels(curve: Curve, other: Curve) -> list[tuple[Point, Point]]:
    """The points of two curves at each density that both have."""
    pairs = ((point, point_at_density(point, other)) for point in curve.points)
    return [(point, match) for point, match in pairs if match is not None]


def same_tickets(point: Point, other: Point) -> bool:
    """Whether one point has no other tickets than the other point: same stages, seeds and values.

    A point may have fewer seeds: its cells are unfinished, or the lines asked for other numbers of
    seeds. Nothing is left to compare then, because one sample is part of the other.
    """
    # Equal stages are not enough: other seeds, or another root that was trained on another device,
    # give other networks.
    mine, theirs = point.values.items(), other.values.items()
    return point.stages == other.stages and (mine <= theirs or mine >= theirs)


def equivalence_margin(baseline: Curve, layout: ReportConfig, mean: float) -> float:
    """The margin of equivalence: a smaller difference counts as none. NaN if there is no margin.

    A relative margin is a fraction of the value of the baseline's dense network, or of `mean` if
    the baseline has no dense network. The default (`auto`) gives a margin only for metrics by which
    a task is judged: for a loss no default would suit every task.
    """
    metric, given = baseline.metric, layout.equivalence
    if given is None or (given == "auto" and not metric.judges):
        return math.nan
    dense = baseline.dense
    return metric.margin(given, mean if dense is None else dense.mean)


def against_baseline(curves: Sequence[Curve], layout: ReportConfig) -> list[Pair]:
    """Pair each tested line with the baseline of its panel."""
    name, pairs = layout.baseline, []
    for panel in by_panel(curves).values():
        baseline = next((c for c in panel if name is not None and c.called(name)), None)
        for curve in panel if baseline else ():
            tested = layout.tested is None or any(map(curve.called, layout.tested))
            if tested and curve is not baseline:
                pairs.append((curve, baseline))
    return pairs


def named_pairs(curves: Sequence[Curve], layout: ReportConfig) -> list[Pair]:
    """The pairs of lines that the layout names under `pairs`, in every panel that has both.

    The two lines of a pair are in one panel, or in two panels that differ only in the option that
    both names contain: `large_final @ reset.to=2ep` and `large_final @ reset.to=0it`. A pair that
    is also tested as a line and its baseline, in either order, is left out: otherwise each of its
    levels would be tested and counted twice.

    Raises: ValueError: the lines of a pair are judged by different metrics.
    """
    pairs: list[Pair] = []
    for names in layout.pairs:
        (line, option), (other_line, other_option) = map(line_and_option, names)
        firsts = [(c, at) for c in curves if (at := _rest(c, line, option, layout)) is not None]
        for other in curves:
            rest = _rest(other, other_line, other_option, layout)
            pairs += [(first, other) for first, at in firsts if at == rest]
    compared = set(map(_unordered, against_baseline(curves, layout)))
    once = {_unordered(pair): pair for pair in reversed(pairs)}
    pairs = [pair for lines, pair in reversed(once.items()) if lines not in compared]
    for one, other in pairs:
        if one.metric != other.metric:
            raise ValueError(
                f"report.pairs: {one.label} is judged by {one.metric.words} and {other.label} by "
                f"{other.metric.words}; give lines with one metric"
            )
    return pairs


def _rest(curve: Curve, line: str, option: str, layout: ReportConfig) -> tuple[Any, ...] | None:
    """The values that define a curve's panel, without the key of `option`.

    None if the curve is not `line`, or its panel does not have the option.
    """
    key, _, value = option.partition("=")
    options = {panel_key: str(value_of(curve.cells[0], panel_key)) for panel_key in layout.panels}
    if not curve.called(line) or (option and options.pop(key, None) != value):
        return None
    return tuple(options.items())


def _unordered(pair: Pair) -> frozenset[tuple[str, str]]:
    """A value that is equal for pairs of the same two lines in either order."""
    return frozenset((curve.panel, curve.name) for curve in pair)


def correct_by_holm(verdicts: Sequence[Tested], family: str) -> list[Tested]:
    """Return the verdicts with p-values adjusted by Holm's method within each family.

    The p-values of the t-test, the permutation test and the equivalence test are adjusted
    separately.
    """
    corrected = []
    for members in group_by(verdicts, FAMILIES[family]).values():
        n_tests = sum(not math.isnan(v.comparison.p) for v in members)
        p_holm = holm([v.comparison.p for v in members])
        exact = holm([v.comparison.p_exact for v in members])
        equal = holm([v.comparison.p_equivalent for v in members])
        corrected += [
            replace(v, p_holm=p, p_exact_holm=e, p_equivalent_holm=q, family=family, tests=n_tests)
            for v, p, e, q in zip(members, p_holm, exact, equal, strict=True)
        ]
    return corrected


def point_at_density(point: Point, curve: Curve) -> Point | None:
    """The point of another curve at the same density (within 1%); None if it has none there.

    If there are several, a point with the same values of the keys in `report.along` is preferred,
    then the nearest density.
    """
    near = [p for p in curve.points if math.isclose(p.percent, point.percent, rel_tol=SAME)]
    distance = [(p.at != point.at, abs(p.percent - point.percent)) for p in near]
    return near[distance.index(min(distance))] if near else None


def winning(
    curve: Curve, verdicts: Sequence[Verdict], layout: ReportConfig
) -> dict[frozenset[str], bool]:
    """Whether each pruned point wins, by its stages.

    A point wins if tests show that it is not inferior to dense, and better than the lines that
    `verdicts` test it against (the control).
    """
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
