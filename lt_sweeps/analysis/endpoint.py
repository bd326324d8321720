"""Endpoints: one number for a whole curve, so that a claim needs one test and not one per level.

Each run (seed) has `peak`, `sparsest_not_inferior` and `area`. Each line has, from means over
seeds, `sparsest_not_inferior` again, and the sparsest matching and the best performing ticket of
arXiv:1912.04427, with the cost of finding them.

`sparsest_not_inferior` is the number of the authors' response to that paper ("highest sparsity
achieved while being within 2 % (relative) of the dense model"): see `crossing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, KeysView, Mapping, Sequence
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
    """An endpoint of a curve: a number per run (`values`), or one ticket chosen by its means."""

    name: str
    values: Mapping[str, float] = field(default_factory=dict)  # by seed; of a ticket: its metric
    ticket: Point | None = None
    sparsity: float = math.nan
    cost: Cost = field(default_factory=Cost)
    crossing: Crossing | None = None  # of the means over seeds
    failed: Point | None = None  # the level at which a chain of tests ended
    at_least: bool = False  # whether some run ends within the margin: its value is a lower bound


@dataclass(frozen=True)
class Crossing:
    """The sparsity at which a curve leaves the margin around dense, and its two neighbors.

    `inside` and `outside` are the sparsities of the last point within the margin and of the first
    point beyond. `outside` is NaN if the sparsest point is within the margin; then `sparsity` is a
    lower bound.
    """

    sparsity: float
    inside: float
    outside: float


def endpoints(curve: Curve, layout: ReportConfig, *, least: float) -> dict[str, Endpoint]:
    """The endpoints of a curve by name; `area` ends at the density `least` (in percent)."""
    metric, chooser = curve.metric, layout.chooser(curve.metric.name)
    runs = {seed: _run(curve, seed) for seed in curve.seeds}
    peaks = {seed: _peak(run, metric, chooser) for seed, run in runs.items()}
    areas = {seed: _area(run, metric.name, least) for seed, run in runs.items()}
    reached = 1 - least / 100 if least < WHOLE else math.nan
    ends = (
        Endpoint("peak", _numbers(peaks)),
        _not_inferior(curve, layout),
        Endpoint("area", _numbers(areas), sparsity=reached),
        _sparsest_tested(curve, layout),
        *_tickets(curve, chooser, layout),
    )
    return {end.name: end for end in ends}


def shared_density(curves: Iterable[Curve]) -> float:
    """The lowest density (in percent) that all runs of all curves reach.

    Runs with only a dense network are ignored, and so are those with fewer levels than another run
    of their curve, which are not finished. 100 if no run has a pruned network.
    """
    reached = []
    for curve in curves:
        runs = [_run(curve, seed) for seed in curve.seeds]
        levels = max(map(len, runs), default=0)
        reached += [run[-1].percent_remaining for run in runs if run and len(run) == levels]
    return max((percent for percent in reached if percent < WHOLE), default=100.0)


def crossing(points: Iterable[tuple[float, float]], least: float) -> Crossing:
    """The highest sparsity at which a curve of worths is not below `least`.

    After the last point that is not below `least`, the curve is interpolated to the next sparser
    point as a straight line in sparsity. A value that is not finite counts as below, without
    interpolation towards it.

    Args:
        points: pairs of sparsity and worth; at least one must not be below `least`.
    """
    # NaN cannot be sorted by value: it comes after the other points of the same sparsity.
    ordered = sorted(points, key=lambda point: (point[0], math.isnan(point[1]), -point[1]))
    last = max(n for n, (_, value) in enumerate(ordered) if _reaches(value, least))
    (inside, above), beyond = ordered[last], ordered[last + 1 :]
    if not beyond:
        return Crossing(inside, inside, math.nan)
    outside, below = beyond[0]
    part = 0.0 if math.isnan(below) else max(0.0, above - least) / (above - below)
    return Crossing(inside + part * (outside - inside), inside, outside)


def not_inferior(point: Point, curve: Curve, layout: ReportConfig) -> bool:
    """Whether a one-sided paired t-test puts a point's worth above that of dense minus the margin.

    Every seed must have a value, at least two in all: without the seeds that diverged, a level
    would look better than it is. If all seeds have the same difference, a sign test replaces the
    t-test, and five seeds are needed (at `alpha` 0.05).
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


def why_failed(point: Point, curve: Curve, layout: ReportConfig) -> str:
    """Say why a level failed the test of `not_inferior`; empty if its mean is outside the margin.

    A noisy level can fail although its mean is within the margin, or even above dense.
    """
    both = sum(seed in point.values for seed in curve.dense.values) if curve.dense else 0
    if both < len(curve.seeds):
        return f"{both} of {len(curve.seeds)} seeds have a value"
    dense = curve.dense.mean if curve.dense else math.nan
    if not _reaches(curve.metric.worth(point.mean), _least_worth(curve, dense, layout)):
        return ""
    return f"{curve.metric.value_text(point.mean)} is within the margin but not significant"


def _reaches(value: float, least: float) -> bool:
    """Whether a worth is at least `least`, up to rounding: equal counts of images must be equal."""
    return value >= least - rounding([value, least])


def _least_worth(curve: Curve, dense: float, layout: ReportConfig) -> float:
    """The lowest worth that is within the margin of the dense value."""
    return curve.metric.worth(curve.metric.limit(layout.margin, dense))


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def _run(curve: Curve, seed: str) -> list[Record]:
    """A seed's rows that have weights left, from the densest (dense included) to the sparsest."""
    counted = [row for row in _rows(curve, seed) if row.weights_remaining and row.kind != "mask"]
    return sorted(counted, key=lambda row: -row.percent_remaining)


def _rows(curve: Curve, seed: str) -> list[Record]:
    """A seed's rows of a curve and of its reference, the dense line that it is compared with."""
    return distinct(cell for line in _lines(curve) for cell in line.by_seed.get(seed, ()))


def _lines(curve: Curve) -> list[Curve]:
    return [curve] if curve.reference is None else [curve, curve.reference]


def best_ticket(run: Iterable[Record], metric: Quantity, chooser: str) -> Record | None:
    """Return the pruned ticket of a run with the best value of `chooser`, a validation metric."""
    tickets = (
        row
        for row in run
        if row.percent_remaining < WHOLE
        and not any(math.isnan(row.value(name)) for name in (metric.name, chooser))
    )
    return max(tickets, key=lambda row: metric.worth(row.value(chooser)), default=None)


def _peak(run: Sequence[Record], metric: Quantity, chooser: str) -> float:
    best = best_ticket(run, metric, chooser)
    return math.nan if best is None else best.value(metric.name)


def _not_inferior(curve: Curve, layout: ReportConfig) -> Endpoint:
    """The endpoint `sparsest_not_inferior`, of each run and of the means over seeds."""
    worth, dense = curve.metric.worth, curve.dense
    runs = {seed: _crossing_of_run(curve, seed, layout) for seed in curve.seeds}
    crossings = {seed: at for seed, at in runs.items() if at is not None}
    pruned = [p for p in curve.points if p.pruned]
    means = None
    if pruned and dense is not None and dense.n_finite:
        least = _least_worth(curve, dense.mean, layout)
        points = [(0.0, worth(dense.mean))]
        for p in pruned:
            # A level that lacks seeds is compared with the dense networks of the seeds that it has.
            paired = _least_worth(curve, _mean_of(p.values.keys(), dense.values), layout)
            mean = worth(p.mean) + least - paired if p.n_finite == p.n else math.nan
            points.append((1 - p.percent / 100, mean))
        means = crossing(points, least)
    return Endpoint(
        "sparsest_not_inferior",
        {seed: at.sparsity for seed, at in crossings.items()},
        sparsity=math.nan if means is None else means.sparsity,
        crossing=means,
        at_least=any(math.isnan(at.outside) for at in crossings.values()),
    )


def _mean_of(seeds: KeysView[str], dense: Mapping[str, float]) -> float:
    """The mean of the dense networks of these seeds; of all if a seed has none."""
    return fmean([dense[s] for s in seeds] if seeds and seeds <= dense.keys() else dense.values())


def sparsest_up_to(most: float, curve: Curve, layout: ReportConfig) -> dict[str, float]:
    """The `sparsest_not_inferior` of each run, if its curve ended at the sparsity `most`."""
    runs = {seed: _crossing_of_run(curve, seed, layout, most) for seed in curve.seeds}
    return {seed: at.sparsity for seed, at in runs.items() if at is not None}


def _crossing_of_run(
    curve: Curve, seed: str, layout: ReportConfig, most: float = 1.0
) -> Crossing | None:
    """The crossing of one seed; None without a pruned network or a single, finite dense network.

    Networks that diverged or have no weight left count as worse than the margin allows.
    """
    metric, worth = curve.metric.name, curve.metric.worth
    rows = _rows(curve, seed)
    dense = [r.value(metric) for r in rows if r.percent_remaining >= WHOLE and r.kind != "score"]
    pruned = [r for r in rows if r.percent_remaining < WHOLE]
    if curve.dense is None or not pruned or not dense or math.isnan(dense[0]):
        return None
    points = [(1 - r.percent_remaining / 100, worth(r.value(metric))) for r in pruned]
    points = _cut([(0.0, worth(dense[0])), *points], most)
    return crossing(points, _least_worth(curve, dense[0], layout))


def _cut(points: list[tuple[float, float]], most: float) -> list[tuple[float, float]]:
    """The points up to the sparsity `most`, to which the curve is interpolated."""
    inside = [point for point in points if point[0] <= most + 1e-9]
    beyond = [point for point in points if point[0] > most + 1e-9]
    if beyond and max(inside)[0] < most - 1e-9:
        (start, above), (end, below) = max(inside), min(beyond)
        if math.isfinite(below - above):
            part = (most - start) / (end - start)
            inside.append((most, above + part * (below - above)))
    return inside


def _area(run: Sequence[Record], metric: str, least: float) -> float:
    """The mean of the metric over log density from 100% to `least` percent, by trapezoids.

    NaN if the run diverged at a level on the way: interpolating over the gap would hide that level.
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


def _sparsest_tested(curve: Curve, layout: ReportConfig) -> Endpoint:
    """The highest sparsity that fixed-sequence tests show to be not inferior to dense.

    `failed` is the level whose test ended the sequence; None if every level passed.
    """
    # The question is how far a network can be pruned, so the answer is one sparsity. Testing every
    # level and taking the sparsest that passes would be wrong: among twenty levels at alpha = 0.05
    # about one passes by chance, and that level is then the answer, however sparse it is.
    # Correcting over all levels (Bonferroni, Holm) would be valid, but costs most of the power that
    # five seeds have.
    #
    # Instead the order is fixed in advance, from the densest level to the sparsest, and the chain
    # ends at the first level that fails, even if sparser levels would pass. A false claim then
    # requires that the first truly inferior level passes its own test, which happens with
    # probability alpha. So every test may use the full alpha, without a correction (fixed-sequence
    # testing, Maurer et al. 1995). The price: one noisy level hides all sparser levels.
    if curve.dense is None or not any(point.pruned for point in curve.points):
        return Endpoint("sparsest_tested")
    reached, failed = 0.0, None
    for point in curve.points:
        if point.pruned and not not_inferior(point, curve, layout):
            failed = point
            break
        reached = 1 - point.percent / 100
    return Endpoint("sparsest_tested", sparsity=reached, failed=failed)


def _tickets(curve: Curve, chooser: str, layout: ReportConfig) -> list[Endpoint]:
    """The sparsest matching and the best performing ticket, by means over seeds of `chooser`.

    A ticket matches if its mean is no worse than that of dense; for `sparsest_within_error` it may
    be worse by up to the standard error of dense.
    """
    cells = (cell for line in _lines(curve) for cell in line.cells)
    rows = group_by(distinct(cells), lambda row: row.stage)

    def scores(point: Point) -> dict[str, float]:
        """The worth of a point's finite replicates by the metric that chooses tickets."""
        own = [row for stage in sorted(point.stages) for row in rows.get(stage, ())]
        values = {row.seed: row.value(chooser) for row in own if row.seed in point.values}
        return {seed: curve.metric.worth(v) for seed, v in values.items() if not math.isnan(v)}

    dense = {} if curve.dense is None else scores(curve.dense)
    mean = fmean(dense.values()) if dense else math.nan
    # Without the replicates that diverged, a level would look better than it is.
    points = [p for p in curve.points if p.pruned and p.n_finite == p.n and p.percent > 0]
    tickets = []
    for point in points:
        if own := scores(point):
            # A level that lacks seeds is compared with the dense networks of the seeds that it has.
            shift = mean - _mean_of(own.keys(), dense) if dense else 0.0
            tickets.append((fmean(own.values()) + shift, point))

    def sparsest(least: float) -> Point | None:
        matching = [point for score, point in tickets if _reaches(score, least)]
        return min(matching, key=lambda point: point.percent, default=None)

    error = stdev(dense.values()) / math.sqrt(len(dense)) if len(dense) > 1 else math.nan
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
