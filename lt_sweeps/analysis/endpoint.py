"""Endpoints: one number for a whole curve, so that a claim needs one test and not one per level.

For each run (a seed): `peak`, `sparsest_not_inferior` and `area`. For each line, from means over
seeds: `sparsest_not_inferior` again, and the sparsest matching and the best performing ticket of
arXiv:1912.04427, with what it cost to find them.

`sparsest_not_inferior` is the number of the authors' response to that paper ("highest sparsity
achieved while being within 2 % (relative) of the dense model"): see `crossing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from lt_sweeps.analysis.curve import WHOLE, Curve, Point, distinct
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.search_cost import Cost, ticket_cost
from lt_sweeps.analysis.stats import p_above_zero, rounding
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.storage.record import Record

NAMES = {
    "sparsest_not_inferior": "highest sparsity within the margin of dense",
    "sparsest_tested": "the same, held by a test at each level",
    "area": "mean over log density",
    "sparsest_matching": "sparsest matching ticket",
    "sparsest_within_error": "the same, within one standard error of dense",
    "best_performing": "best performing ticket",
    "peak": "best level of each run",
}


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a curve: a number per run (`values`), or one ticket picked from the means."""

    name: str
    values: Mapping[str, float] = field(default_factory=dict)  # by seed; for tickets, of its runs
    ticket: Point | None = None
    sparsity: float = math.nan
    cost: Cost = field(default_factory=Cost)
    crossing: Crossing | None = None  # of the means
    at_least: bool = False  # whether the curve of a run ends before it leaves the margin


@dataclass(frozen=True)
class Crossing:
    """Where a curve leaves the margin around dense, and the two points that it lies between.

    `outside` is NaN where the sparsest point is within the margin: `sparsity` is a lower bound.
    """

    sparsity: float
    inside: float
    outside: float


def endpoints(curve: Curve, layout: ReportConfig, *, least: float) -> dict[str, Endpoint]:
    """The endpoints of a curve by name; all lines go down to the density `least` (in percent)."""
    metric, chooser = curve.metric, layout.chooser(curve.metric.name)
    runs = {seed: _run(curve, seed) for seed in curve.seeds}
    peaks = {seed: _peak(run, metric, chooser) for seed, run in runs.items()}
    areas = {seed: _area(run, metric.name, least) for seed, run in runs.items()}
    reached = 1 - least / 100 if least < WHOLE else math.nan
    ends = (
        Endpoint("peak", _numbers(peaks)),
        _not_inferior(curve, layout),
        Endpoint("area", _numbers(areas), sparsity=reached),
        Endpoint("sparsest_tested", sparsity=_sparsest_tested(curve, layout)),
        *_tickets(curve, chooser, layout),
    )
    return {end.name: end for end in ends}


def shared_density(curves: Iterable[Curve]) -> float:
    """The density (in percent) down to which all of these curves have a pruned network.

    100 where none has one: the dense network beside them is no curve that ends early.
    """
    left = [[p.percent for p in curve.points if p.pruned and p.percent > 0] for curve in curves]
    return max((min(percents) for percents in left if percents), default=100.0)


def crossing(points: Iterable[tuple[float, float]], least: float) -> Crossing:
    """The highest sparsity at which a curve of worths is not below `least`.

    Between a point that is not and the next sparser one, which is, the curve is a straight line in
    sparsity. A value that is not finite is below, and nothing is interpolated towards it.

    Args:
        points: (sparsity, value), at least one of them not below.
    """
    # A NaN is no number to sort by: it comes after the others of its sparsity.
    ordered = sorted(points, key=lambda point: (point[0], math.isnan(point[1]), -point[1]))
    last = max(n for n, (_, value) in enumerate(ordered) if _reaches(value, least))
    (inside, above), beyond = ordered[last], ordered[last + 1 :]
    if not beyond:
        return Crossing(inside, inside, math.nan)
    outside, below = beyond[0]
    part = 0.0 if math.isnan(below) else max(0.0, above - least) / (above - below)
    return Crossing(inside + part * (outside - inside), inside, outside)


def not_inferior(point: Point, curve: Curve, layout: ReportConfig) -> bool:
    """Whether a one-sided paired t-test puts a point above dense minus the margin, in worth.

    Every seed must be there: dropping the seeds that diverged would make a level look better.
    Where all seeds are equally far above, five of them are needed (at `alpha` 0.05).
    """
    dense = curve.dense
    if dense is None:
        return False
    above = [
        curve.metric.worth(value) - _least_worth(curve, dense.values[seed], layout)
        for seed, value in point.values.items()
        if seed in dense.values
    ]
    if len(above) < max(2, len(curve.seeds)):
        return False
    return p_above_zero(above, [*point.values.values(), *dense.values.values()]) < layout.alpha


def _reaches(value: float, least: float) -> bool:
    """Whether a worth is at least as much, rounding aside: means of as many images are equal."""
    return value >= least - rounding([value, least])


def _least_worth(curve: Curve, dense: float, layout: ReportConfig) -> float:
    """The worth of a value that is as much worse than dense as the margin allows."""
    return curve.metric.worth(curve.metric.limit(layout.margin, dense))


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def _run(curve: Curve, seed: str) -> list[Record]:
    """A seed's rows with weights left, from the densest to the sparsest, dense among them."""
    counted = [row for row in _rows(curve, seed) if row.weights_remaining and row.kind != "mask"]
    return sorted(counted, key=lambda row: -row.percent_remaining)


def _rows(curve: Curve, seed: str) -> list[Record]:
    """A seed's rows of a curve, and of the dense line that it is compared with."""
    return distinct(cell for line in _lines(curve) for cell in line.by_seed.get(seed, ()))


def _lines(curve: Curve) -> list[Curve]:
    return [curve] if curve.reference is None else [curve, curve.reference]


def _peak(run: Sequence[Record], metric: Quantity, chooser: str) -> float:
    tickets = [
        row
        for row in run
        if row.percent_remaining < WHOLE
        and not any(math.isnan(row.value(name)) for name in (metric.name, chooser))
    ]
    best = max(tickets, key=lambda row: metric.worth(row.value(chooser)), default=None)
    return math.nan if best is None else best.value(metric.name)


def _not_inferior(curve: Curve, layout: ReportConfig) -> Endpoint:
    """`sparsest_not_inferior` of each run, and of the means over seeds."""
    worth = curve.metric.worth
    runs = {seed: _crossing_of_run(curve, seed, layout) for seed in curve.seeds}
    crossings = {seed: at for seed, at in runs.items() if at is not None}
    points = [
        (1 - p.percent / 100, worth(p.mean) if p.n_finite == p.n else math.nan)
        for p in curve.points
        if p.pruned
    ]
    means = None
    if points and curve.dense is not None and curve.dense.n_finite:
        dense = curve.dense.mean
        means = crossing([(0.0, worth(dense)), *points], _least_worth(curve, dense, layout))
    return Endpoint(
        "sparsest_not_inferior",
        {seed: at.sparsity for seed, at in crossings.items()},
        sparsity=math.nan if means is None else means.sparsity,
        crossing=means,
        at_least=any(math.isnan(at.outside) for at in crossings.values()),
    )


def _crossing_of_run(curve: Curve, seed: str, layout: ReportConfig) -> Crossing | None:
    """That of one seed; its networks that diverged or have no weight left count as worse."""
    metric, worth = curve.metric.name, curve.metric.worth
    rows = _rows(curve, seed)
    dense = [r.value(metric) for r in rows if r.percent_remaining >= WHOLE and r.kind != "score"]
    pruned = [r for r in rows if r.percent_remaining < WHOLE]
    if curve.dense is None or not pruned or not dense or math.isnan(dense[0]):
        return None
    points = [(1 - r.percent_remaining / 100, worth(r.value(metric))) for r in pruned]
    return crossing([(0.0, worth(dense[0])), *points], _least_worth(curve, dense[0], layout))


def _area(run: Sequence[Record], metric: str, least: float) -> float:
    """Trapezoids under the metric against log density from 100% to `least`, over that width.

    NaN where the run diverged on the way: a line drawn over the gap would hide the level.
    """
    x = -np.log([row.percent_remaining / 100 for row in run])
    y = np.array([row.value(metric) for row in run])
    end = -math.log(least / 100)
    if len(run) < 2 or x[0] > 1e-9 or end <= 0 or x[-1] < end - 1e-9:
        return math.nan
    x = np.where(np.abs(x - end) < 1e-9, end, x)
    inside = x < end
    x, y = np.append(x[inside], end), np.append(y[inside], np.interp(end, x, y))
    return float(np.trapezoid(y, x) / end)


def _sparsest_tested(curve: Curve, layout: ReportConfig) -> float:
    """The highest sparsity that a chain of tests shows to be not inferior to dense."""
    # The question is how far a network can be pruned, so the answer is one sparsity. Testing every
    # level and taking the sparsest that passes would be wrong: of twenty levels at alpha = 0.05
    # a level passes by chance, and that level is then the answer, however sparse it is. Correcting
    # over all levels (Bonferroni, Holm) would be right, but takes most of the power of five seeds.
    #
    # Instead the order is fixed in advance, from the densest level to the sparsest, and the first
    # level that fails ends the chain, whatever lies behind it. A false claim then needs the first
    # level that is truly inferior to pass its own test, which happens with probability alpha, so
    # every test has the full alpha and no correction is due (fixed-sequence testing, Maurer et al.
    # 1995). The price: one noisy level hides all that lie behind it.
    if curve.dense is None:
        return math.nan
    reached = 0.0
    for point in curve.points:
        if point.pruned and not not_inferior(point, curve, layout):
            break
        reached = 1 - point.percent / 100
    return reached


def _tickets(curve: Curve, chooser: str, layout: ReportConfig) -> list[Endpoint]:
    """The sparsest matching and the best performing ticket, by means over seeds of `chooser`.

    A ticket matches if its mean is no worse than that of dense; `sparsest_within_error` lets it be
    worse by the standard error of dense.
    """
    cells = (cell for line in _lines(curve) for cell in line.cells)
    rows = group_by(distinct(cells), lambda row: row.stage)

    def scores(point: Point) -> list[float]:
        """The worth of a point's finite replicates by the metric that chooses tickets."""
        own = [row for stage in sorted(point.stages) for row in rows.get(stage, ())]
        values = [row.value(chooser) for row in own if row.seed in point.values]
        return [curve.metric.worth(value) for value in values if not math.isnan(value)]

    points = [point for point in curve.points if point.n_finite and point.percent > 0]
    scored = [(scores(point), point) for point in points]
    tickets = [(fmean(worths), point) for worths, point in scored if worths and point.pruned]
    dense = [] if curve.dense is None else scores(curve.dense)

    def sparsest(least: float) -> Point | None:
        matching = [point for score, point in tickets if _reaches(score, least)]
        return min(matching, key=lambda point: point.percent, default=None)

    mean = fmean(dense) if dense else math.nan
    error = stdev(dense) / math.sqrt(len(dense)) if len(dense) > 1 else math.nan
    picked = {
        "sparsest_matching": sparsest(mean),
        "sparsest_within_error": sparsest(mean - error),
        "best_performing": max(tickets, key=lambda pair: pair[0], default=(0, None))[1],
    }
    return [_ticket(name, curve, point, layout) for name, point in picked.items()]


def _ticket(name: str, curve: Curve, point: Point | None, layout: ReportConfig) -> Endpoint:
    if point is None:
        return Endpoint(name)
    sparsity = 1 - point.percent / 100
    spent = ticket_cost(curve, point, workers=layout.workers)
    return Endpoint(name, point.values, point, sparsity, spent)
