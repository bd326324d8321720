"""Sentences on the results of the tests, and on the limits of their p-values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import FAMILIES, Verdict
from lt_sweeps.analysis.stats import Comparison, detectable
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.config.spelling import listed


def conclusions(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Count the levels with each test result, in a sentence for each pair of lines.

    Lines of a panel whose sentences would be equal share one.
    """
    lines: dict[tuple[str, str], list[str]] = {}  # by panel and the sentence after the line's name
    for members in group_by(verdicts, FAMILIES["pair"]).values():
        curve, baseline = members[0].curve, members[0].baseline
        counts = Counter(word for v in members for word in v.words(layout.alpha))
        within = f"equivalent within {curve.metric.margin_text(layout.equivalence or 0)}"
        foreign = curve.imported != baseline.imported
        if foreign:  # then the question is whether one line reproduces the other
            within = f"reproduced ({within})"
        words = {"above": "above", "below": "below", "equivalent": within}
        words |= {"undecided": "undecided", "not tested": "not testable"}
        shown = _counted(counts, words)
        levels = f"of {len(members)} level{'s' * (len(members) > 1)}"
        if hidden := _hidden(members, layout.alpha):
            levels += (
                f"; without the correction for {members[0].tests} tests, "
                f"{', '.join(_counted(hidden, words))} of the undecided"
            )
        other = "the reference" if foreign and baseline.imported else members[0].against
        # Without this, a reader who does not know the metric would take "above" for better.
        which = f", in {curve.metric.label}" if curve.metric.lower_is_better else ""
        says = f"against {other}{which}: {', '.join(shown)} {levels}."
        lines.setdefault((curve.panel, says), []).append(curve.label)
    sentences = [
        f"{panel}: {labels[0] if len(labels) == 1 else f'{listed(labels)}, each'} {says}"
        for (panel, says), labels in lines.items()
    ]
    if any(len(v.words(layout.alpha)) > 1 for v in verdicts):
        sentences.append(
            "A level counts as above or below and as equivalent if its difference is certain, but "
            "smaller than the margin."
        )
    if any(v.tests > _tests_of_line(v, verdicts) for v in verdicts if _hidden([v], layout.alpha)):
        fewer = ", tested=[LINE] tests fewer lines" * (layout.baseline is not None)
        sentences.append(
            "Hint: the fewer tests, the weaker the correction. family=line corrects each line by "
            f"itself{fewer}. Choose before you see the results."
        )
    return sentences


def _counted(counts: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    return [f"{text} at {counts[word]}" for word, text in words.items() if counts.get(word)]


def _hidden(verdicts: Sequence[Verdict], alpha: float) -> Mapping[str, int]:
    """Count the undecided levels that would be above or below without Holm's correction."""
    undecided = [v for v in verdicts if v.words(alpha) == ("undecided",)]
    return Counter(v.side for v in undecided if v.comparison.p < alpha)


def _tests_of_line(verdict: Verdict, verdicts: Sequence[Verdict]) -> int:
    return sum(
        v.family == verdict.family
        and FAMILIES["line"](v) == FAMILIES["line"](verdict)
        and not math.isnan(v.comparison.p)
        for v in verdicts
    )


def caveats(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Describe the tests and their limits: attainable p, power, tests that were not possible."""
    if not verdicts:
        return []
    tests = sorted({v.comparison.test for v in verdicts})
    baselines = list(dict.fromkeys(v.against for v in verdicts))
    against = baselines[0] if len(baselines) == 1 else "the named line"
    holm_within = " and ".join(
        f"within each {family} ({_sizes(members)})"
        for family, members in group_by(verdicts, lambda v: v.family).items()
    )
    exact = all(v.comparison.exact for v in verdicts)
    says = [
        f"Tests against {against}, at one level each: {' and '.join(tests)}, "
        f"beside Student's two-sample t-test (arXiv:1905.01067) and "
        f"{'an exact' if exact else 'a sampled'} permutation test; "
        f"Holm {holm_within}, α = {layout.alpha:g}."
    ]
    if any(not math.isnan(v.comparison.margin) for v in verdicts):
        margins = [v.curve.metric.margin_text(layout.equivalence or 0) for v in verdicts]
        says.append(
            f"Equivalent: two one-sided t-tests show a difference below "
            f"{' and '.join(dict.fromkeys(margins))}. Undecided: these seeds show neither."
        )
    says += _attainable(verdicts, layout) + _power(verdicts, layout)
    lost = [v for v in verdicts if v.comparison.n != v.comparison.asked]
    if lost:
        says.append(f"{len(lost)} of {len(verdicts)} tests lack seeds (diverged, or not yet done).")
    if blank := sum(math.isnan(v.comparison.p) for v in verdicts):
        tests = f"{blank} test{'s' * (blank > 1)} could not be made"
        says.append(f"{tests}: fewer than two seeds, or no spread at all.")
    if uneven := sum(v.comparison.is_uneven for v in verdicts):
        says.append(
            f"{uneven} of {len(verdicts)} tests compare a line of two seeds with a line of more. "
            "Their p and interval have one degree of freedom, that of two seeds, because Welch's "
            "estimate of it can be far too high: they hardly ever find a difference."
        )
    return says


def _sizes(verdicts: Sequence[Verdict]) -> str:
    sizes = sorted({v.tests for v in verdicts})
    return f"{sizes[0]} tests" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} tests"


def _attainable(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Warn that the exact test cannot reach alpha with this few seeds."""
    least = {
        _seeds_text(v.comparison): v.comparison.p_least
        for v in verdicts
        if min(v.comparison.n) > 1 and v.comparison.p_least >= layout.alpha
    }
    return [
        f"With {seeds} the exact test cannot fall below p = {p:.4g}, so it never reaches "
        f"{layout.alpha:g}."
        for seeds, p in least.items()
    ]


def _seeds_text(comparison: Comparison) -> str:
    one, other = comparison.n
    if comparison.test == "paired t":
        return f"{one} pairs"
    return f"{one} seeds each" if one == other else f"{one} against {other} seeds"


def _power(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Per metric: the difference that these seeds detect, and the seeds that the observed need."""
    by_metric = group_by(verdicts, lambda v: v.curve.metric).items()
    return [says for metric, same in by_metric for says in _power_in(metric, same, layout)]


def _power_in(metric: Quantity, verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    known = [v for v in verdicts if v.comparison.sd > 0 and min(v.comparison.n) > 1]
    if not known:
        return []
    # Standard deviations are comparable only between tests of one kind with equal numbers of seeds,
    # so the median is over the largest such group.
    groups = group_by(known, lambda v: (v.comparison.test, v.comparison.n))
    alike = max(groups.values(), key=len)
    first = alike[0].comparison
    sd = float(np.median([v.comparison.sd for v in alike]))
    n, paired = min(first.n), first.test == "paired t"
    visible = detectable(sd, n, paired=paired, alpha=layout.alpha)
    needs = _median_text([v.comparison.seeds_needed for v in alike])
    if any(v.tests > 1 for v in alike):
        corrected = _median_text([v.seeds_needed(layout.alpha) for v in alike])
        needs += f" in a single test, and {corrected} after Holm's correction"
    which = f" of the {len(alike)} tests with {_seeds_text(first)}"
    of = "" if len(alike) == len(known) else which
    visible_text, sd_text = (metric.difference_text(x, digits=2) for x in (visible, sd))
    return [
        f"Power: {n} seeds show a difference of {visible_text} with 80% probability "
        f"in a single test (standard deviation {sd_text}, the median{of}); the "
        f"median difference seen here would need {needs}."
    ]


def _median_text(seeds: Sequence[float]) -> str:
    median = float(np.median(seeds))
    return f"{'more than 1000' if math.isinf(median) else math.ceil(median)} seeds"
