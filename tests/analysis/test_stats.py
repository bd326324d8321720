"""Statistics compared with values worked out by hand, and with scipy and statsmodels."""

from __future__ import annotations

import gc
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

from lt_sweeps.analysis.stats import (
    Comparison,
    compare_replicates,
    detectable,
    holm,
    least_p,
    p_above_zero,
    seeds_needed,
    spread,
)

SEEDS = tuple("01234")
ONE = [2.0, 4.0, 6.0, 8.0, 10.0]
OTHER = [1.0, 2.0, 3.0, 4.0, 5.0]


def compared(one: list[float], other: list[float], *, paired: bool = True) -> Comparison:
    beside = SEEDS[: len(other)] if paired else tuple(f"b{i}" for i in range(len(other)))
    mine = SEEDS[: len(one)]
    return compare_replicates(
        dict(zip(mine, one, strict=True)),
        dict(zip(beside, other, strict=True)),
        seeds=mine,
        other_seeds=beside,
        alpha=0.05,
    )


def test_spread_agrees_with_hand_and_scipy() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.min, found.max) == (3, 1, 5)
    assert found.sd == pytest.approx(math.sqrt(10 / 4))
    expected = stats.t.interval(0.95, 4, loc=3, scale=math.sqrt(2.5 / 5))
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)


def test_one_replicate_has_no_spread_and_none_has_nothing() -> None:
    assert spread([2.0]).mean == 2 and math.isnan(spread([2.0]).ci_low)
    assert math.isnan(spread([]).mean)


def test_equal_replicates_have_no_interval() -> None:
    """Three seeds with 351 of 360 images each do not show that every other seed gets 351 too."""
    found = spread([351 / 360] * 3)
    assert found.sd == 0 and math.isnan(found.ci_low) and math.isnan(found.ci_high)
    assert (found.min, found.max) == (351 / 360, 351 / 360)


def test_the_pooled_deviation_of_two_sets_is_of_samples() -> None:
    # the variances of 2, 4, 6, 8, 10 and of 1, 2, 3, 4, 5 are 10 and 2.5
    assert compared(ONE, OTHER, paired=False).sd == pytest.approx(2.5)


def test_equal_seeds_are_paired() -> None:
    found = compared(ONE, OTHER)  # the differences are 1, 2, 3, 4, 5
    assert found.test == "paired t" and found.difference == 3
    # t = 3 / (1.5811 / √5) = 4.2426 with 4 degrees of freedom
    assert found.p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(2.5 / 5), 4))
    assert found.p == pytest.approx(stats.ttest_rel(ONE, OTHER)[1])
    assert found.p_exact == found.p_least == 2 / 2**5  # all five signs point one way
    assert found.ci_low == pytest.approx(3 - stats.t.ppf(0.975, 4) * math.sqrt(2.5 / 5))


def test_other_seeds_are_compared_by_welch() -> None:
    found = compared(ONE, OTHER[:4], paired=False)
    expected = stats.ttest_ind(ONE, OTHER[:4], equal_var=False)
    assert found.test == "Welch t" and found.n == (5, 4)
    assert found.p == pytest.approx(expected[1])
    interval = expected.confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert found.p_student == pytest.approx(stats.ttest_ind(ONE, OTHER[:4])[1])


def test_the_papers_test_stands_beside_the_paired_one() -> None:
    assert compared(ONE, OTHER).p_student == pytest.approx(stats.ttest_ind(ONE, OTHER)[1])


@pytest.mark.parametrize("same_draws", [True, False])
def test_equivalence_is_two_one_sided_tests_and_not_a_large_p(same_draws: bool) -> None:
    def tested(one: list[float], other: list[float]) -> Comparison:
        a, b = (dict(zip(SEEDS, values, strict=False)) for values in (one, other))
        draws = {"margin": 1.0, "same_draws": same_draws}
        return compare_replicates(a, b, seeds=a, other_seeds=b, alpha=0.05, **draws)

    near = [2.1, 3.9, 6.2, 8.1, 9.8]
    sides = {"greater": -1, "less": 1}  # above -1, and below 1
    p = []
    for side, end in sides.items():
        if same_draws:
            result: Any = stats.ttest_1samp(np.array(near) - np.array(ONE), end, alternative=side)
        else:
            result = stats.ttest_ind(np.array(near) - end, ONE, equal_var=False, alternative=side)
        p.append(float(result.pvalue))
    assert tested(near, ONE).p_equivalent == pytest.approx(max(p))
    # Two seeds show no difference, however large it is, and they show no equivalence either.
    two = tested([1.0, 9.0], [8.0, 2.5])
    assert two.p > 0.9 and two.p_equivalent > 0.3
    assert math.isnan(tested([1.0], [1.0]).p_equivalent) and math.isnan(tested([], []).p_equivalent)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("sd", [1.0, 2.0])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.8])
def test_networks_that_are_inferior_by_the_margin_pass_in_at_most_5_percent_of_cases(
    seeds: int, sd: float, margin: float
) -> None:
    """Weigh every outcome by its probability: differences of one or two whole images."""
    images = np.arange(-9, 10)
    shares = np.diff(stats.norm.cdf([*(images - 0.5), 9.5], -margin, sd))
    centre = images @ shares / shares.sum()  # the margin, but for the rounding to images
    wrong = 0.0
    for outcome in itertools.product(range(len(images)), repeat=seeds):
        above = images[list(outcome)] - centre
        if above.mean() > 0 and p_above_zero(above.tolist(), images.tolist()) < 0.05:
            wrong += math.prod(shares[list(outcome)])
    assert wrong < 0.051  # it was up to 0.18 when equal seeds were taken for evidence


@pytest.mark.parametrize("more", [3, 5, 20])
def test_two_replicates_differ_from_more_equal_ones_no_more_often_than_p_says(more: int) -> None:
    """At the worst ratio of spreads. Welch's degrees of freedom give up to 12% and 5%."""
    rng, wrong = np.random.default_rng(0), np.zeros(2)
    two, others = (rng.normal(size=(100_000, count)) for count in (2, more))
    for spread_of_two in (0.1, 0.7, 1.5, 4.0, 10.0):
        error = np.sqrt(
            spread_of_two**2 * two.var(axis=1, ddof=1) / 2 + others.var(axis=1, ddof=1) / more
        )
        t = (spread_of_two * two.mean(axis=1) - others.mean(axis=1)) / error
        p = 2 * stats.t.sf(np.abs(t), 1)
        wrong = np.maximum(wrong, [(p < 0.05).mean(), (p < 0.001).mean()])
    assert wrong[0] < 0.052 and wrong[1] < 0.0013


def test_two_replicates_against_more_have_one_degree_of_freedom() -> None:
    """Computed from the definitions: means 2 and 7, squared error 2/2 + 2.5/5 = 1.5."""
    mine = {"0": 1.0, "1": 3.0}
    theirs = {str(seed): 5.0 + seed for seed in range(5)}
    found = compare_replicates(
        mine, theirs, seeds=mine, other_seeds=theirs, alpha=0.05, margin=9.0, same_draws=False
    )
    error = 1.5**0.5
    assert found.is_uneven and found.difference == -5.0
    assert found.p == pytest.approx(2 * stats.t.sf(5 / error, 1))
    assert found.ci_high == pytest.approx(-5 + stats.t.ppf(0.975, 1) * error)
    assert found.p_equivalent == pytest.approx(stats.t.sf((9 - 5) / error, 1))


def test_the_exact_test_counts_arrangements() -> None:
    # of C(4, 2) = 6 ways to label, the one seen and its mirror are the most extreme: 2 / 6
    found = compared([3.0, 4.0], [1.0, 2.0], paired=False)
    assert found.p_exact == pytest.approx(1 / 3) and found.exact
    # signs of (1, -2): |1 - 2| = 1 or more in all four of the four
    assert compared([2.0, 0.0], [1.0, 2.0]).p_exact == 1


@given(st.data(), st.booleans(), st.sampled_from([100, 360, 10_000]))
def test_the_exact_test_counts_ties_of_accuracies(
    data: st.DataObject, paired: bool, images: int
) -> None:
    """The reference permutes whole numbers of images, so that no rounding hides a tie."""
    right = st.integers(images - 8, images)
    one = data.draw(st.lists(right, min_size=2, max_size=5))
    least, most = (len(one), len(one)) if paired else (2, 5)
    other = data.draw(st.lists(right, min_size=least, max_size=most))
    n, m, both = len(one), len(other), one + other
    if paired:
        apart = [a - b for a, b in zip(one, other, strict=True)]
        signs = itertools.product((1, -1), repeat=n)
        found = [sum(s * d for s, d in zip(row, apart, strict=True)) for row in signs]
        seen = sum(apart)
    else:  # n m times a difference of means
        firsts = [sum(row) for row in itertools.combinations(both, n)]
        found = [m * first - n * (sum(both) - first) for first in firsts]
        seen = m * sum(one) - n * sum(other)
    extreme = min(sum(d >= seen for d in found), sum(d <= seen for d in found))
    parts = ([count / images for count in counts] for counts in (one, other))
    p = compared(*parts, paired=paired).p_exact
    assert p == pytest.approx(min(1.0, 2 * extreme / len(found)))


def test_a_seed_that_one_side_has_lost_leaves_both_and_is_counted() -> None:
    one = {"0": 2.0, "1": 4.0, "2": 6.0}
    found = compare_replicates(
        one, {"0": 1.0, "2": 2.0}, seeds=("0", "1", "2"), other_seeds=("0", "1", "2"), alpha=0.05
    )
    assert found.test == "paired t" and found.n == (2, 2) and found.asked == (3, 3)
    assert found.difference == pytest.approx((1 + 4) / 2)


def test_equal_differences_have_no_t_test() -> None:
    same = compared([0.5] * 5, [0.5] * 5)
    assert math.isnan(same.p) and math.isnan(same.p_student) and same.p_exact == 1
    apart = compared([0.5] * 5, [0.4] * 5)
    assert math.isnan(apart.p) and apart.p_exact == 0.0625
    assert apart.difference == pytest.approx(0.1) and math.isnan(apart.ci_low), "no interval either"
    assert math.isnan(compared([1.0], [2.0]).p)


def test_a_constant_beside_one_that_varies_is_compared_without_a_warning() -> None:
    found = compared(ONE, [0.1135] * 5)  # a collapsed network scores the same for every seed
    assert found.p_student == pytest.approx(
        stats.ttest_ind_from_stats(6, math.sqrt(10), 5, 0.1135, 0, 5)[1]
    )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("unit", [1e-13, 1e13])
def test_no_test_depends_on_the_unit_of_a_metric(unit: float, paired: bool) -> None:
    one, other = [3.0, 5.0, 4.0, 6.0, 5.5], [2.0, 2.5, 4.5, 3.0, 3.5]
    parts = ([unit * value for value in values] for values in (one, other))
    found, usual = compared(*parts, paired=paired), compared(one, other, paired=paired)
    for name in ("p", "p_student", "p_exact", "seeds_needed"):
        assert getattr(found, name) == pytest.approx(getattr(usual, name)), name


def test_holm_agrees_with_hand_and_leaves_nan_out() -> None:
    # sorted .01 .03 .04 times 3 2 1, never falling: .03 .06 .06
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.03])
    assert math.isnan(adjusted[1]) and adjusted[::2] == pytest.approx([0.02, 0.03])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)  # at each call: all of it for 100 lists is slow
        expected = multipletests(p, method="holm")[1]
    assert holm([math.nan, *p])[1:] == list(np.asarray(expected))


def test_tests_of_a_large_report_collect_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """`multipletests` of statsmodels collects garbage: 0.1 s per call, more in a large process."""
    collected = []
    monkeypatch.setattr(gc, "collect", lambda *_: collected.append(1))
    holm([0.01, 0.04])
    compared(ONE, OTHER)
    assert not collected


def test_five_pairs_stop_at_0_0625_and_six_do_not() -> None:
    assert least_p((5, 5), paired=True) == 0.0625
    assert least_p((6, 6), paired=True) == 0.03125
    assert least_p((5, 5), paired=False) == pytest.approx(2 / 252)


def test_a_permutation_test_of_sampled_arrangements_stops_where_it_says() -> None:
    seeds = [str(seed) for seed in range(20)]
    low = {seed: 0.01 * int(seed) for seed in seeds}
    high = {seed: 9 + value for seed, value in low.items()}
    high["0"] += 0.001  # differences that are all equal have no spread to test
    found = compare_replicates(high, low, seeds=seeds, other_seeds=seeds, alpha=0.05)
    assert not found.exact  # 2**20 arrangements, of which 9,999 are drawn
    assert found.p_exact == found.p_least == 2 / 10_000


def test_the_seeds_needed_are_the_fewest_that_statsmodels_gives_the_power_to() -> None:
    for paired, solver in ((True, TTestPower()), (False, TTestIndPower())):
        exact = solver.solve_power(effect_size=1.0, alpha=0.05, power=0.8)
        assert seeds_needed(1.0, 1.0, paired=paired, alpha=0.05) == math.ceil(exact)
    assert seeds_needed(0.001, 1.0, paired=True, alpha=0.05) == math.inf
    assert math.isnan(seeds_needed(1.0, 0.0, paired=True, alpha=0.05))


def _power(effect: float, n: int, alpha: float) -> float:
    """The power of a two-sided paired t-test by definition: its mean over all sample deviations."""
    edge = stats.t.ppf(1 - alpha / 2, n - 1) / math.sqrt(n - 1)

    def rejected(part: float) -> float:
        sd = stats.chi.ppf(part, n - 1)
        tails = (stats.norm.cdf(sign * effect * math.sqrt(n) - edge * sd) for sign in (1, -1))
        return float(sum(tails))

    return integrate.quad(rejected, 0, 1, limit=200)[0]


LEVELS = [(5, 0.05), (2, 0.05), (2, 0.001), (3, 0.01), (5, 0.001)]


@pytest.mark.parametrize(("n", "alpha"), LEVELS)
def test_the_detectable_difference_has_80_percent_power(n: int, alpha: float) -> None:
    found = detectable(1.0, n, paired=True, alpha=alpha)
    assert _power(found, n, alpha) == pytest.approx(0.8, abs=1e-4)
    assert detectable(0.01, n, paired=True, alpha=alpha) == pytest.approx(found / 100)


@pytest.mark.parametrize(("n", "alpha"), [*LEVELS, (3, 0.05), (10, 0.05)])
def test_of_100_differences_that_other_seeds_can_show_welchs_test_finds_80(
    n: int, alpha: float
) -> None:
    found = detectable(1.0, n, paired=False, alpha=alpha)
    one, other = np.random.default_rng(0).normal(size=(2, 100_000, n))
    # `stats.ttest_ind(found + one, other, axis=1, equal_var=False)`, which takes a second
    a, b = one.var(axis=1, ddof=1) / n, other.var(axis=1, ddof=1) / n
    t = (found + one.mean(axis=1) - other.mean(axis=1)) / np.sqrt(a + b)
    p = 2 * stats.t.sf(abs(t), (a + b) ** 2 / ((a**2 + b**2) / (n - 1)))
    assert (p < alpha).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("effect", [1.0, 2.0, 5.0])
def test_the_seeds_needed_are_exact_at_the_level_of_the_smallest_of_66_tests(effect: float) -> None:
    n = int(seeds_needed(effect, 1.0, paired=True, alpha=0.05 / 66))
    assert _power(effect, n - 1, 0.05 / 66) < 0.8 <= _power(effect, n, 0.05 / 66)


def test_a_large_difference_needs_two_seeds_and_a_level_of_90_percent_finds_any() -> None:
    for effect in (20.0, 50.0, 1e3, 1e9):
        assert seeds_needed(effect, 1.0, paired=True, alpha=0.05) == 2
    assert _power(20.0, 2, 0.05) > 0.8
    assert detectable(1.0, 5, paired=True, alpha=0.9) == 0.0
