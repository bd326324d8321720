"""Sentences on the results of the tests, and on the limits of their p-values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import FAMILIES, Verdict
from lt_sweeps.analysis.stats import Comparison, detectable
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import ReportConfig


def conclusions(verdicts: Sequence[Verdict], layout: ReportConfig) -> list[str]:
    """Return a sentence for each pair of lines: the number of levels with each test result."""
    sentences = []
    for members in group_by(verdicts, FAMILIES["pair"]).values():
        curve, baseline = members[0].curve, members[0].baseline
        counts = Counter(word for v in members for word in v.words(layout.alpha))
        within = f"equivalent within {curve.metric.margin_text(layout.equivalence or 0)}"
        foreign = curve.imported != baseline.imported
        if foreign:  # then the question is whether one line reproduces the other
            within = f"reproduced ({within})"
        words = {"above": "above", "below": "below", "equivalent": within}
        words |= {"undecided": "undecided", "not tested": "not testable"}
        shown = [f"{text} at {counts[word]}" for word, text in words.items() if counts[word]]
        levels = f"of {len(members)} level{'s' * (len(members) > 1)}."
        other = "the reference" if foreign and baseline.imported else members[0].against
        question = f"{curve.panel}: {curve.label} against {other}"
        # Without this, a reader who does not know the metric would take "above" for better.
        which = f", in {curve.metric.label}" if curve.metric.lower_is_better else ""
        sentences.append(f"{question}{which}: {', '.join(shown)} {levels}")
    if any(len(v.words(layout.alpha)) > 1 for v in verdicts):
        sentences.append("A difference can be certain and smaller than the margin: that is both.")
    return sentences


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
            f"{uneven} compare a line of two seeds with a line of more by Welch's test, whose p "
            "can then be too small by half; equivalence is not tested there."
        )
    return says


def _sizes(verdicts: Sequence[Verdict]) -> str:
    families = group_by(verdicts, FAMILIES[verdicts[0].family]).values()
    sizes = sorted({sum(not math.isnan(v.comparison.p) for v in family) for family in families})
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
    known = [v.comparison for v in verdicts if v.comparison.sd > 0 and min(v.comparison.n) > 1]
    if not known:
        return []
    # Standard deviations are comparable only between tests of one kind with equal numbers of seeds,
    # so the median is over the largest such group.
    alike = max(group_by(known, lambda c: (c.test, c.n)).values(), key=len)
    sd = float(np.median([comparison.sd for comparison in alike]))
    n, paired = min(alike[0].n), alike[0].test == "paired t"
    visible = detectable(sd, n, paired=paired, alpha=layout.alpha)
    needs = float(np.median([comparison.seeds_needed for comparison in alike]))
    many = "more than 1000" if math.isinf(needs) else str(math.ceil(needs))
    which = f" of the {len(alike)} tests with {_seeds_text(alike[0])}"
    of = "" if len(alike) == len(known) else which
    visible_text, sd_text = (metric.difference_text(x, digits=2) for x in (visible, sd))
    return [
        f"Power: {n} seeds show a difference of {visible_text} with 80% probability "
        f"in a single test (standard deviation {sd_text}, the median{of}); the "
        f"median difference seen here would need {many} seeds."
    ]
