"""What is known of one point of a curve: its place, and its statistics over seeds.

Statistics are over the finite replicates. A collapsed one is a number like any other; both kinds
are counted, so that no reader has to guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lt_sweeps.reading import Row

BANDS = {
    "range": "range over seeds",
    "sd": "± 1 standard deviation over seeds",
    "ci": "95% t interval of the mean",
}


@dataclass(frozen=True)
class Point:
    """One level of a curve: where it lies, and the statistics of its replicates."""

    level: int
    target_sparsity: float | None
    percent: float  # of weights remaining, measured; the mean where replicates differ
    n: int
    n_finite: int
    n_collapsed: int
    mean: float
    min: float
    max: float
    sd: float
    ci_low: float
    ci_high: float
    stages: frozenset[str]

    def band(self, kind: str) -> tuple[float, float]:
        """Lower and upper edge of the band; NaN where this many replicates have none."""
        if kind == "ci":
            return self.ci_low, self.ci_high
        if kind == "sd":
            return self.mean - self.sd, self.mean + self.sd
        return (self.min, self.max) if self.n_finite > 1 else (math.nan, math.nan)


def point(rows: Sequence[Row], metric: str) -> Point:
    """The statistics of the rows that are replicates of each other."""
    finite = [
        float(row[metric])
        for row in rows
        if row["finite"] and row[metric] is not None and math.isfinite(row[metric])
    ]
    return Point(
        level=rows[0]["level"],
        target_sparsity=rows[0]["target_sparsity"],
        percent=float(np.mean([percent(row) for row in rows])),
        n=len(rows),
        n_finite=len(finite),
        n_collapsed=sum(row["collapsed"] for row in rows),
        stages=frozenset(row["stage"] for row in rows),
        **statistics(finite),
    )


def percent(row: Row) -> float:
    """Percent of prunable weights remaining, from the measured counts."""
    return 100 * row["weights_remaining"] / row["weights_total"]


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Mean, extremes, sample standard deviation and 95% t interval of one replicate set.

    What needs two replicates is NaN for one, and everything is NaN for none.
    """
    names = ("mean", "min", "max", "sd", "ci_low", "ci_high")
    if not values:
        return dict.fromkeys(names, math.nan)
    x = np.asarray(values, dtype=float)
    mean, n = float(x.mean()), len(x)
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else math.nan
    return dict(
        zip(
            names, (mean, float(x.min()), float(x.max()), sd, mean - half, mean + half), strict=True
        )
    )
