"""`Point`: one point of a curve, with its density and its statistics over seeds.

Statistics leave out replicates that diverged and keep those that collapsed, whose accuracy is a
number like any other. Both are counted, so that no reader has to guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from lt_sweeps.analysis.stats import spread
from lt_sweeps.storage.record import Record

WHOLE = 100 - 1e-9  # percent of weights remaining from which on none is pruned


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
    values: Mapping[str, float] = field(default_factory=dict)  # the finite ones, by seed
    at: tuple[str, ...] = ()  # its values of the layout's `along` keys, such as `method.bias=0.1`
    sparsity_total: float = math.nan  # of all parameters; NaN where records do not say
    dense_resources: bool | None = None  # whether a training held more weights than the ticket
    scored: bool = False  # evaluated as it was found, without a training of its own

    @property
    def pruned(self) -> bool:
        """Whether a weight is missing: a learned mask prunes at level 0 already."""
        return self.percent < WHOLE

    def band(self, kind: str) -> tuple[float, float]:
        """Lower and upper edge of the band; NaN if there are too few replicates for one."""
        if kind == "ci":
            return self.ci_low, self.ci_high
        if kind == "sd":
            return self.mean - self.sd, self.mean + self.sd
        return (self.min, self.max) if self.n_finite > 1 else (math.nan, math.nan)


def point(rows: Sequence[Record], metric: str, at: tuple[str, ...] = ()) -> Point:
    """The statistics of the rows that are replicates of each other."""
    values = {row.seed: v for row in rows if not math.isnan(v := row.value(metric))}
    totals = [math.nan if row.sparsity_total is None else row.sparsity_total for row in rows]
    return Point(
        level=rows[0].level,
        target_sparsity=rows[0].target_sparsity,
        percent=float(np.mean([row.percent_remaining for row in rows])),
        n=len(rows),
        n_finite=len(values),
        n_collapsed=sum(row.collapsed for row in rows),
        stages=frozenset(row.stage for row in rows),
        values=values,
        at=at,
        sparsity_total=float(np.mean(totals)),
        dense_resources=rows[0].dense_resources,
        scored=all(row.kind == "score" for row in rows),
        **asdict(spread(list(values.values()))),
    )
