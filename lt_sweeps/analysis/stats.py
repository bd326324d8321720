"""Statistics of replicates: their spread, and tests of the difference between two sets.

Built on scipy and statsmodels. Every statistic is at one pruning level: the levels of a run are
nested and correlated, so they are never pooled.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

NAN = math.nan
POWER = 0.8
_DRAWS = 9_999  # if there are more permutations, this many are sampled, from a fixed seed
_COUNTS = range(2, 1001)  # numbers of seeds that are tried; above, inf is reported


@dataclass(frozen=True)
class Spread:
    """Statistics of the replicates of one quantity; NaN if there are too few of them.

    If all replicates are equal, the interval is NaN. It would have width zero, although equal
    accuracies prove little: they are counts of images, and three seeds often have the same count.
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

    All p-values are two-sided except `p_equivalent`. `p` is from the paired t-test if both sets
    used the same seeds, otherwise from Welch's t-test, with the single degree of freedom of two
    replicates if they are compared with more. `p_student` is from Student's two-sample
    t-test, which arXiv:1905.01067 used. `p_exact` is from the permutation test (of the signs of the
    pairs, or of the labels), and cannot fall below `p_least`. `p_equivalent` is from two one-sided
    tests (TOST): a small value shows that the difference is within ± `margin`.

    A value is NaN if it is not defined: with fewer than two replicates, no spread, or no margin.
    """

    test: str  # "paired t" or "Welch t"
    n: tuple[int, int]  # finite replicates compared
    asked: tuple[int, int]  # replicates requested, including diverged and unfinished ones
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_student: float
    p_exact: float
    p_least: float
    exact: bool  # whether `p_exact` is from all permutations, not from a sample of them
    sd: float  # paired: of the differences; otherwise the square root of the mean of the variances
    seeds_needed: float  # per set, for 80% power of a single test; inf if more than 1000
    margin: float = NAN  # a difference below it counts as none
    p_equivalent: float = NAN

    @property
    def is_uneven(self) -> bool:
        """Whether Welch's test compares two replicates with more, with one degree of freedom."""
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
    """Compare two lines: `one` minus `other`, each with its finite values by seed.

    `seeds` and `other_seeds` are the requested seeds. Values are paired by seed if both lines have
    the same requested seeds and equal seeds drew the same numbers (`same_draws`): seed 0 of other
    code does not pair with our seed 0. If paired, a seed with a value in only one line (the other
    diverged, or is not done) is left out of both, and `n` is smaller than `asked`.
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
    """The one-sided p-value of a t-test that the mean of paired differences is above 0.

    If all differences are equal, the p-value is that of a sign test, which asks whether the median
    is above 0: 0.5 to the power of the number of seeds, so five seeds are significant at 0.05.
    Accuracies are counts of images, so two seeds that vary by an image or two are often equal by
    chance. If equal differences counted as proof, the test would be wrong in 6 to 18% of cases
    instead of 5%. NaN for fewer than two seeds.

    Args:
        parts: the values from which the differences were computed; a spread that is no larger than
            their rounding counts as none.
    """
    x = np.array(differences)
    if len(x) < 2:
        return NAN
    if _constant(x, np.array(parts)):
        return 0.5 ** len(x) if x.min() > rounding(parts) else 1.0
    return float(DescrStatsW(x).ttest_mean(0, alternative="larger")[1])


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family; NaN stays NaN and is not counted as a test."""
    # Not `multipletests` of statsmodels: each call runs the garbage collector, 0.1 s and more.
    x = np.array(p, dtype=float)
    order = np.argsort(x)[: np.count_nonzero(~np.isnan(x))]  # NaN comes last
    factors = np.arange(len(order), 0, -1)
    x[order] = np.minimum(1.0, np.maximum.accumulate(x[order] * factors))
    return x.tolist()


def rounding(values: Sequence[float] | np.ndarray) -> float:
    """The largest gap between means or differences of these values that counts as equal.

    The gap is relative to the values, because metrics have any unit. It is larger than a rounding
    error, and smaller than the effect of one image on an accuracy.
    """
    return 1e-12 * float(np.abs(values).max(initial=0.0))


def least_p(n: tuple[int, int], *, paired: bool) -> float:
    """The smallest two-sided p of the permutation test: 0.0625 for five pairs, 0.0079 for 5 + 5."""
    if min(n) < 1:
        return NAN
    # A sampled test counts the observed permutation in addition to the `_DRAWS` drawn ones.
    return min(1.0, 2 / min(_arrangements(n, paired=paired), _DRAWS + 1))


def _arrangements(n: tuple[int, int], *, paired: bool) -> int:
    """The number of ways to assign the signs of `n[0]` pairs, or the labels of two sets."""
    return 2 ** n[0] if paired else math.comb(sum(n), n[0])


@cache  # the caption of each figure asks for the same numbers
def seeds_needed(difference: float, sd: float, *, paired: bool, alpha: float) -> float:
    """Replicates per set that one t-test needs for 80% power at `difference`; inf if over 1000."""
    if math.isnan(difference) or math.isnan(sd) or sd == 0:
        return NAN
    effect = abs(difference) / sd
    place = bisect_left(_COUNTS, POWER, key=lambda n: _power(effect, n, paired=paired, alpha=alpha))
    return _COUNTS[place] if place < len(_COUNTS) else math.inf


def detectable(sd: float, n: int, *, paired: bool, alpha: float) -> float:
    """The difference that one t-test of `n` replicates per set detects with 80% power."""
    if n < 2 or math.isnan(sd):
        return NAN

    def short(effect: float) -> float:
        return _power(effect, n, paired=paired, alpha=alpha) - POWER

    if short(0.0) >= 0:  # alpha >= 0.8: as often significant at no effect
        return 0.0
    enough = 1.0
    while short(enough) < 0:
        enough *= 2
    return sd * optimize.root_scalar(short, bracket=(0.0, enough)).root


def _power(effect: float, n: int, *, paired: bool, alpha: float) -> float:
    """The power of a two-sided t-test of `n` replicates per set at an effect of `effect` sds."""
    # Not computed by statsmodels, which takes the lower tail from scipy's `nct.cdf`. That is NaN
    # for many large effects, and statsmodels' solvers then return wrong results: that 5 pairs at
    # alpha = 0.001 detect an effect of 3.8 (correct: 4.8), and that an effect of 20 needs 3 pairs
    # (correct: 2). The upper tail of the mirrored distribution, by `nct.sf`, is never NaN.
    degrees, shift = (n - 1, math.sqrt(n)) if paired else (2 * n - 2, math.sqrt(n / 2))
    edges = stats.t.ppf(1 - alpha / 2, degrees if paired else _degrees_of_welch(n))
    # Above this limit the power is 99% or more, and scipy's series stop converging.
    shifts = np.minimum(effect * shift, 3 * edges + 10)
    tails = stats.nct.sf(edges, degrees, shifts) + stats.nct.sf(edges, degrees, -shifts)
    return float(np.mean(tails))


def _degrees_of_welch(n: int) -> np.ndarray:
    """Equally likely degrees of freedom of Welch's test, for two sets of `n` of equal variance."""
    # Welch's test computes its degrees of freedom from the two sample variances, which differ by
    # chance: for three seeds they are 3.1 on average, whereas Student's test has 4. With 4, a
    # difference that is found in 70% of cases would be reported as found in 80%. The fraction of
    # the variances' sum that is due to one of them follows a beta distribution and does not depend
    # on the sum.
    parts = stats.beta.ppf((np.arange(16) + 0.5) / 32, (n - 1) / 2, (n - 1) / 2)
    return (n - 1) / (parts**2 + (1 - parts) ** 2)


def _paired_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float, float]:
    """Paired t-test: difference, standard deviation of the differences, p, and 95% interval."""
    differences = spread((a - b).tolist())
    if len(a) < 2 or _constant(a - b, a, b):  # spread unknown: no p, no interval
        return differences.mean, differences.sd, NAN, NAN, NAN
    p = float(DescrStatsW(a - b).ttest_mean(0)[1])
    return differences.mean, differences.sd, p, differences.ci_low, differences.ci_high


def _welch_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float, float]:
    """Welch's t-test: difference, square root of the mean variance, p, and 95% interval."""
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else NAN
    if min(len(a), len(b)) < 2:
        return difference, NAN, NAN, NAN, NAN
    sd = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    if _constant(a) and _constant(b):
        return difference, sd, NAN, NAN, NAN
    two = CompareMeans.from_data(a, b)
    if _is_uneven((len(a), len(b))):
        error = _standard_error(a, b)
        p, half = 2 * stats.t.sf(abs(difference) / error, 1), float(stats.t.ppf(0.975, 1)) * error
        return difference, sd, float(p), difference - half, difference + half
    low, high = map(float, two.tconfint_diff(usevar="unequal"))
    return difference, sd, float(two.ttest_ind(usevar="unequal")[1]), low, high


def _student_t(a: np.ndarray, b: np.ndarray) -> float:
    if min(len(a), len(b)) < 2 or (_constant(a) and _constant(b)):
        return NAN
    return float(CompareMeans.from_data(a, b).ttest_ind(usevar="pooled")[1])


def _equivalence_test(a: np.ndarray, b: np.ndarray, margin: float, *, paired: bool) -> float:
    """The larger p of two one-sided t-tests (TOST): difference above -margin, and below margin."""
    # A test that finds no difference is no evidence of equality: with two seeds it finds hardly
    # any. TOST must reject both hypotheses, that the difference is below -margin and that it is
    # above margin, so few or noisy seeds leave the question undecided (Schuirmann 1987).
    if math.isnan(margin) or min(len(a), len(b)) < 2:
        return NAN
    if _constant(a - b, a, b) if paired else _constant(a) and _constant(b):
        return NAN
    if paired:
        return float(DescrStatsW(a - b).ttost_mean(-margin, margin)[0])
    two = CompareMeans.from_data(a, b)
    if _is_uneven((len(a), len(b))):
        inside = (margin - abs(float(a.mean() - b.mean()))) / _standard_error(a, b)
        return float(stats.t.sf(inside, 1))
    return float(two.ttost_ind(-margin, margin, usevar="unequal")[0])


def _standard_error(a: np.ndarray, b: np.ndarray) -> float:
    """The standard error of the difference of two means, as in Welch's test."""
    return math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))


def _is_uneven(n: tuple[int, int]) -> bool:
    """Whether one set has two replicates and the other has more."""
    # If the two replicates vary more than the others, the difference has little more than their
    # single degree of freedom. Welch's test estimates this number from both variances, often far
    # too high: of simulated equal lines, 2 against up to 20 seeds, up to 12% had p < 0.05 and up to
    # 5% had p < 0.001. With one degree of freedom p is right at the worst, and too large otherwise.
    # Other pairs reach 8% at p < 0.05, and 6% one-sided.
    return min(n) == 2 < max(n)


def _permutation_test(a: np.ndarray, b: np.ndarray, *, paired: bool) -> tuple[float, bool]:
    """The two-sided p-value of the permutation test, and whether all permutations were counted."""
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
    # Not scipy's own p-value, because it misses ties. Accuracies are counts of images, so many
    # permutations tie with the observed difference. The rounding errors of their means exceed
    # scipy's tolerance, which is relative to that difference. It gave 0.083 instead of 0.187.
    off = max(rounding(a), rounding(b))
    extreme = min(np.count_nonzero(found >= seen - off), np.count_nonzero(found <= seen + off))
    exact = _arrangements((len(a), len(b)), paired=paired) <= _DRAWS
    among = len(found) if exact else len(found) + 1  # a sample includes the one seen
    return min(1.0, 2 * (extreme + (not exact)) / among), exact


def _constant(x: np.ndarray, *parts: np.ndarray) -> bool:
    """Whether `x` has no spread beyond the rounding of `x`, or of the `parts` it was computed from.

    A t statistic would then be computed from rounding errors.
    """
    return bool(np.ptp(x) <= max(map(rounding, parts or (x,))))
