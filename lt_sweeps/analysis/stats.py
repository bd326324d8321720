"""Statistics of replicates: their spread, and the difference between two sets of them.

Built on scipy and statsmodels. Everything here is at one pruning level: levels of one run are
nested and correlated, so nothing is ever pooled over them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

POWER = 0.8
_DRAWS = 9_999  # at most: what has more arrangements is sampled, from a fixed seed
_MOST = 1000  # seeds; a difference that needs more is said to need more


@dataclass(frozen=True)
class Spread:
    """What replicates of one quantity show; NaN where there are too few of them."""

    mean: float
    min: float
    max: float
    sd: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Comparison:
    """The difference between two sets of replicates, with the tests of it side by side.

    `p` is of the paired t-test where both used the same seeds, of Welch's where not; `p_student`
    of Student's two-sample t-test, which arXiv:1905.01067 used; `p_exact` of the permutation test
    (signs of the pairs, or labels), which cannot fall below `p_least`. What is not defined (fewer
    than two replicates; no spread at all) is NaN.
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
    sd: float  # of the differences, or pooled
    seeds_needed: float  # per set, for a difference of this size; inf if more than 1000


def spread(values: Sequence[float]) -> Spread:
    """Mean, extremes, sample standard deviation and 95% t interval of the mean."""
    nan = math.nan
    if not values:
        return Spread(nan, nan, nan, nan, nan, nan)
    x = np.asarray(values, dtype=float)
    mean, n = float(x.mean()), len(x)
    sd = float(x.std(ddof=1)) if n > 1 else nan
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else nan
    return Spread(mean, float(x.min()), float(x.max()), sd, mean - half, mean + half)


def compare_replicates(
    one: Mapping[str, float],
    other: Mapping[str, float],
    *,
    seeds: Collection[str],
    other_seeds: Collection[str],
    alpha: float,
) -> Comparison:
    """`one` minus `other`, finite values by seed, of cells that were asked for these seeds.

    Pairs by seed if both cells were asked for the same ones; a seed that one of them has lost
    (diverged, or not there yet) then leaves both, and `n` says so.
    """
    paired = set(seeds) == set(other_seeds)
    kept = [seed for seed in one if seed in other] if paired else list(one)
    a = np.array([one[seed] for seed in kept], dtype=float)
    b = np.array([other[s] for s in (kept if paired else other)], dtype=float)
    found = _paired(a, b) if paired else _welch(a, b)
    exact = _exact(a, b, paired=paired)
    return Comparison(
        test="paired t" if paired else "Welch t",
        n=(len(a), len(b)),
        asked=(len(set(seeds)), len(set(other_seeds))),
        p_student=_student(a, b),
        **exact,
        **found,
        seeds_needed=seeds_needed(found["difference"], found["sd"], paired=paired, alpha=alpha),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family; NaN stays and does not count."""
    known = [value for value in p if not math.isnan(value)]
    adjusted = iter(np.asarray(multipletests(known, method="holm")[1]) if known else ())
    return [value if math.isnan(value) else float(next(adjusted)) for value in p]


def least_p(n: tuple[int, int], *, paired: bool) -> float:
    """The smallest two-sided p of the exact test: 0.0625 for five pairs, 0.0079 for 5 against 5."""
    if min(n) < 1:
        return math.nan
    return min(1.0, 2 / (2 ** n[0] if paired else math.comb(sum(n), n[0])))


def seeds_needed(difference: float, sd: float, *, paired: bool, alpha: float) -> float:
    """Replicates per set for 80% power to see `difference` in one t-test; inf if over 1000."""
    if math.isnan(difference) or math.isnan(sd) or sd == 0:
        return math.nan
    effect = abs(difference) / sd
    enough = (n for n in _counts() if _power(effect, n, paired=paired, alpha=alpha) >= POWER)
    return next(enough, math.inf)


def detectable(sd: float, n: int, *, paired: bool, alpha: float) -> float:
    """The difference that `n` replicates per set show with 80% power in one t-test."""
    if n < 2 or math.isnan(sd):
        return math.nan
    solver = TTestPower() if paired else TTestIndPower()
    size: dict[str, Any] = {"nobs": n} if paired else {"nobs1": n, "ratio": 1.0}
    return sd * float(solver.solve_power(effect_size=None, alpha=alpha, power=POWER, **size))


def _counts() -> Sequence[int]:
    return (*range(2, 101), *range(110, _MOST + 1, 10))


def _power(effect: float, n: int, *, paired: bool, alpha: float) -> float:
    if paired:
        return float(TTestPower().power(effect, n, alpha))
    return float(TTestIndPower().power(effect, n, alpha, ratio=1))


def _paired(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    d = a - b
    found = spread(d.tolist())
    # Differences that are all the same tell nothing of their spread: no p, and no interval.
    spreads = len(d) > 1 and not _constant(d)
    return {
        "difference": found.mean,
        "ci_low": found.ci_low if spreads else math.nan,
        "ci_high": found.ci_high if spreads else math.nan,
        "p": float(DescrStatsW(d).ttest_mean(0)[1]) if spreads else math.nan,
        "sd": found.sd,
    }


def _welch(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else math.nan
    found = {"ci_low": math.nan, "ci_high": math.nan, "p": math.nan, "sd": math.nan}
    if min(len(a), len(b)) > 1:
        found["sd"] = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        if not (_constant(a) and _constant(b)):
            two = CompareMeans.from_data(a, b)
            found["p"] = float(two.ttest_ind(usevar="unequal")[1])
            found["ci_low"], found["ci_high"] = map(float, two.tconfint_diff(usevar="unequal"))
    return {"difference": difference, **found}


def _student(a: np.ndarray, b: np.ndarray) -> float:
    if min(len(a), len(b)) < 2 or (_constant(a) and _constant(b)):
        return math.nan
    return float(CompareMeans.from_data(a, b).ttest_ind(usevar="pooled")[1])


def _exact(a: np.ndarray, b: np.ndarray, *, paired: bool) -> dict[str, Any]:
    n = (len(a), len(b))
    if min(n) < 2:
        return {"p_exact": math.nan, "p_least": least_p(n, paired=paired), "exact": True}
    arrangements = 2 ** n[0] if paired else math.comb(sum(n), n[0])
    result = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples" if paired else "independent",
        n_resamples=max(_DRAWS, 1),
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return {
        "p_exact": float(result.pvalue),
        "p_least": least_p(n, paired=paired),
        "exact": arrangements <= _DRAWS,
    }


def _constant(x: np.ndarray) -> bool:
    """No spread beyond rounding: a t statistic of it is a rounding error."""
    return bool(np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max(initial=0.0))))
