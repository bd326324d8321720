"""Statistics of replicates: their spread, and the difference between two sets of them.

Built on scipy and statsmodels. All of it is at one pruning level: the levels of a run are nested
and correlated, so they are never pooled.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

NAN = math.nan
POWER = 0.8
_DRAWS = 9_999  # arrangements; if there are more, this many are sampled, from a fixed seed
_COUNTS = range(2, 1001)  # seeds; what needs more is reported as needing infinitely many


@dataclass(frozen=True)
class Spread:
    """Statistics of the replicates of one quantity; NaN where there are too few of them.

    Replicates that are all equal have no interval: it would be a point, and accuracies are counts
    of images, of which three seeds often have the same number.
    """

    mean: float
    min: float
    max: float
    sd: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Comparison:
    """The difference between two sets of replicates, with the tests of it side by side.

    `p` is of the paired t-test if both used the same seeds, else of Welch's; `p_student` is of
    Student's two-sample t-test, which arXiv:1905.01067 used; `p_exact` is of the permutation test
    (of the signs of the pairs, or of the labels), which cannot fall below `p_least`. `p_equivalent`
    is of two one-sided tests (TOST): a small one shows that the difference lies within ± `margin`.
    NaN stands for what is not defined: fewer than two replicates, no spread at all, or no margin.
    `p_equivalent` is NaN as well where two replicates are compared with more by Welch's test.
    """

    test: str  # "paired t" or "Welch t"
    n: tuple[int, int]  # finite replicates compared
    asked: tuple[int, int]  # replicates that there should be
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_student: float
    p_exact: float
    p_least: float
    exact: bool  # every arrangement counted, not a sample of them
    sd: float  # of the differences; of two sets, the root of their mean variance
    seeds_needed: float  # per set, for a difference of this size; inf if more than 1000
    margin: float = NAN  # a difference below it counts as none
    p_equivalent: float = NAN

    @property
    def is_uneven(self) -> bool:
        """Whether Welch's test compares two replicates with more, and finds too much."""
        return self.test == "Welch t" and _is_uneven(self.n)


def spread(values: Sequence[float]) -> Spread:
    """Mean, extremes, sample standard deviation and 95% t interval of the mean."""
    if not values:
        return Spread(NAN, NAN, NAN, NAN, NAN, NAN)
    x = np.asarray(values, dtype=float)
    mean, n = float(x.mean()), len(x)
    sd = float(x.std(ddof=1)) if n > 1 else NAN
    known = n > 1 and not _constant(x)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if known else NAN
    return Spread(mean, float(x.min()), float(x.max()), sd, mean - half, mean + half)


def compare_replicates(
    one: Mapping[str, float],
    other: Mapping[str, float],
    *,
    seeds: Collection[str],
    other_seeds: Collection[str],
    alpha: float,
    margin: float = NAN,
    same_draws: bool = True,
) -> Comparison:
    """`one` minus `other`: finite values by seed, of lines that were asked for these seeds.

    Values are paired by seed if both lines were asked for the same seeds, and equal seeds drew the
    same: seed 0 of other code is no pair of ours. A seed that only one line has (the other
    diverged, or is not done) is then left out of both, and `n` says so.
    """
    paired = same_draws and set(seeds) == set(other_seeds)
    kept = [seed for seed in one if seed in other] if paired else list(one)
    a = np.array([one[seed] for seed in kept], dtype=float)
    b = np.array([other[s] for s in (kept if paired else other)], dtype=float)
    difference, sd, p, low, high = _paired_t(a, b) if paired else _welch_t(a, b)
    p_exact, exact = _permutation_test(a, b, paired=paired)
    return Comparison(
        test="paired t" if paired else "Welch t",
        n=(len(a), len(b)),
        asked=(len(set(seeds)), len(set(other_seeds))),
        difference=difference,
        ci_low=low,
        ci_high=high,
        p=p,
        p_student=_student_t(a, b),
        p_exact=p_exact,
        p_least=least_p((len(a), len(b)), paired=paired),
        exact=exact,
        sd=sd,
        seeds_needed=seeds_needed(difference, sd, paired=paired, alpha=alpha),
        margin=margin,
        p_equivalent=_equivalence_test(a, b, margin, paired=paired),
    )


def p_above_zero(differences: Sequence[float], parts: Sequence[float]) -> float:
    """p of a one-sided t-test that the mean of paired differences is above 0.

    Without spread it is of the sign test, which asks whether the median is above 0: 0.5 for each
    seed, so five equal seeds show it at 0.05. Accuracies are counts of images, so two seeds that
    vary by an image or two are often equal by chance: taken for a proof, they would be wrong in 6
    to 18% of cases where 5% are promised. NaN for fewer than two seeds.

    Args:
        parts: the values that the differences are made from, whose rounding is no spread.
    """
    x = np.array(differences)
    if len(x) < 2:
        return NAN
    if _constant(x, np.array(parts)):
        return 0.5 ** len(x) if x.min() > rounding(parts) else 1.0
    return float(DescrStatsW(x).ttest_mean(0, alternative="larger")[1])


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family; NaN stays and does not count."""
    # Not by `multipletests` of statsmodels: it collects all garbage at each call, 0.1 s and more.
    x = np.array(p, dtype=float)
    order = np.argsort(x)[: np.count_nonzero(~np.isnan(x))]  # NaN comes last
    factors = np.arange(len(order), 0, -1)
    x[order] = np.minimum(1.0, np.maximum.accumulate(x[order] * factors))
    return x.tolist()


def rounding(values: Sequence[float] | np.ndarray) -> float:
    """How far apart means or differences of these values may be and count as equal.

    It is a part of the values, whose unit is anybody's: more than rounding, and less than an image.
    """
    return 1e-12 * float(np.abs(values).max(initial=0.0))


def least_p(n: tuple[int, int], *, paired: bool) -> float:
    """The smallest two-sided p of the permutation test: 0.0625 for five pairs, 0.0079 for 5 + 5."""
    if min(n) < 1:
        return NAN
    # A sample has the arrangement that was seen beside those that were drawn.
    return min(1.0, 2 / min(_arrangements(n, paired=paired), _DRAWS + 1))


def _arrangements(n: tuple[int, int], *, paired: bool) -> int:
    """In how many ways the signs of pairs, or the labels of two sets, can be given."""
    return 2 ** n[0] if paired else math.comb(sum(n), n[0])


def seeds_needed(difference: float, sd: float, *, paired: bool, alpha: float) -> float:
    """Replicates per set for 80% power to see `difference` in one t-test; inf if over 1000."""
    if math.isnan(difference) or math.isnan(sd) or sd == 0:
        return NAN
    effect = abs(difference) / sd
    place = bisect_left(_COUNTS, POWER, key=lambda n: _power(effect, n, paired=paired, alpha=alpha))
    return _COUNTS[place] if place < len(_COUNTS) else math.inf


def detectable(sd: float, n: int, *, paired: bool, alpha: float) -> float:
    """The difference that `n` replicates per set show with 80% power in one t-test."""
    if n < 2 or math.isnan(sd):
        return NAN

    def short(effect: float) -> float:
        return _power(effect, n, paired=paired, alpha=alpha) - POWER

    if short(0.0) >= 0:  # so large an alpha finds 80% of all differences
        return 0.0
    enough = 1.0
    while short(enough) < 0:
        enough *= 2
    return sd * optimize.root_scalar(short, bracket=(0.0, enough)).root


def _power(effect: float, n: int, *, paired: bool, alpha: float) -> float:
    """How often a two-sided t-test of `n` replicates per set finds a difference of `effect` sds."""
    # Not by statsmodels, which takes the lower tail from scipy's `nct.cdf`. That is NaN for many
    # large effects, and its solvers then end anywhere: 5 pairs at alpha = 0.001 would show an
    # effect of 3.8 (it is 4.8), and an effect of 20 would need 3 pairs (it needs 2). The same tail
    # of the mirrored distribution, by `nct.sf`, is always a number.
    degrees, shift = (n - 1, math.sqrt(n)) if paired else (2 * n - 2, math.sqrt(n / 2))
    edges = stats.t.ppf(1 - alpha / 2, degrees if paired else _degrees_of_welch(n))
    # Beyond this the power is 99% or more, and scipy's series stop converging.
    shifts = np.minimum(effect * shift, 3 * edges + 10)
    tails = stats.nct.sf(edges, degrees, shifts) + stats.nct.sf(edges, degrees, -shifts)
    return float(np.mean(tails))


def _degrees_of_welch(n: int) -> np.ndarray:
    """Degrees of freedom that Welch's test gives two sets of `n` equal variances, equally often."""
    # It takes them from the two sample variances, of which one is the larger by chance: 3.1 for
    # three seeds on average, where Student's test has 4. With the 4 a difference that is found in
    # 70% of cases would be said to be found in 80%. What part of their sum one of the variances is
    # follows a beta distribution and does not depend on the sum.
    parts = stats.beta.ppf((np.arange(16) + 0.5) / 32, (n - 1) / 2, (n - 1) / 2)
    return (n - 1) / (parts**2 + (1 - parts) ** 2)


def _paired_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float, float]:
    """Difference, standard deviation of the differences, p, and the 95% interval."""
    differences = spread((a - b).tolist())
    if len(a) < 2 or _constant(a - b, a, b):  # of the spread nothing is known: no p, no interval
        return differences.mean, differences.sd, NAN, NAN, NAN
    p = float(DescrStatsW(a - b).ttest_mean(0)[1])
    return differences.mean, differences.sd, p, differences.ci_low, differences.ci_high


def _welch_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float, float]:
    """Difference, root of the mean variance, p, and the 95% interval."""
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else NAN
    if min(len(a), len(b)) < 2:
        return difference, NAN, NAN, NAN, NAN
    sd = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    if _constant(a) and _constant(b):
        return difference, sd, NAN, NAN, NAN
    two = CompareMeans.from_data(a, b)
    low, high = map(float, two.tconfint_diff(usevar="unequal"))
    return difference, sd, float(two.ttest_ind(usevar="unequal")[1]), low, high


def _student_t(a: np.ndarray, b: np.ndarray) -> float:
    if min(len(a), len(b)) < 2 or (_constant(a) and _constant(b)):
        return NAN
    return float(CompareMeans.from_data(a, b).ttest_ind(usevar="pooled")[1])


def _equivalence_test(a: np.ndarray, b: np.ndarray, margin: float, *, paired: bool) -> float:
    """The larger p of two one-sided t-tests: of a difference above -margin, and below margin."""
    # That a test finds no difference is no evidence of equality: with two seeds it never finds any.
    # Here the two hypotheses that the difference is too large must both be rejected, so that few or
    # noisy seeds leave the question open instead of answering it (Schuirmann 1987).
    if math.isnan(margin) or min(len(a), len(b)) < 2:
        return NAN
    if not paired and _is_uneven((len(a), len(b))):
        return NAN
    if _constant(a - b, a, b) if paired else _constant(a) and _constant(b):
        return NAN
    if paired:
        return float(DescrStatsW(a - b).ttost_mean(-margin, margin)[0])
    two = CompareMeans.from_data(a, b)
    return float(two.ttost_ind(-margin, margin, usevar="unequal")[0])


def _is_uneven(n: tuple[int, int]) -> bool:
    """Whether there are two replicates of one set and more of the other."""
    # If the two vary more than the others, Welch's test is one of their single degree of freedom.
    # It estimates up to twice as many, and errs in up to 8% of cases at a one-sided level of 5%,
    # and in 11% at a two-sided one. Any other two sets stay below 6%, simulated up to 20 seeds.
    return min(n) == 2 < max(n)


def _permutation_test(a: np.ndarray, b: np.ndarray, *, paired: bool) -> tuple[float, bool]:
    """The p-value, and whether every arrangement was counted."""
    if min(len(a), len(b)) < 2:
        return NAN, True
    seen = float(a.mean() - b.mean())
    found = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples" if paired else "independent",
        n_resamples=_DRAWS,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).null_distribution
    # Not scipy's own p-value, which takes what is one difference for several: accuracies are counts
    # of images, so many arrangements tie with the one that was seen, and the rounding of their
    # means is more than the part of that difference which scipy allows. It gave 0.083 for 0.187.
    off = max(rounding(a), rounding(b))
    extreme = min(np.count_nonzero(found >= seen - off), np.count_nonzero(found <= seen + off))
    exact = _arrangements((len(a), len(b)), paired=paired) <= _DRAWS
    among = len(found) if exact else len(found) + 1  # a sample is counted with the one seen
    return min(1.0, 2 * (extreme + (not exact)) / among), exact


def _constant(x: np.ndarray, *parts: np.ndarray) -> bool:
    """Whether there is no spread beyond the rounding of `x`, or of the `parts` it is made from.

    A t statistic would be a rounding error.
    """
    return bool(np.ptp(x) <= max(map(rounding, parts or (x,))))
