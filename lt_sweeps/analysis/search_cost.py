"""The cost of finding a ticket, in epochs: its search as a graph of trainings.

The search does not include the training of the ticket itself, nor trainings that only later rounds
needed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lt_sweeps.analysis.curve import Curve, Point

After = Mapping[str, Collection[str]]
"""The trainings that each training starts from, by stage."""


@dataclass(frozen=True)
class Cost:
    """The epochs that finding a ticket takes; NaN if a training's record has no number of epochs.

    `chain` counts the trainings that the ticket itself descends from. The next three count every
    training that its line needed for tickets up to its level: `sequential` runs one after the
    other, `parallel` has a worker for each training that is ready, and `makespan` has the layout's
    number of `workers`. `hours` is the device time of the trainings in `chain`; a training in a
    stack counts with its share of the stack's time.
    """

    chain: float = math.nan
    sequential: float = math.nan
    parallel: float = math.nan
    makespan: float = math.nan
    hours: float = math.nan


def ticket_cost(curve: Curve, point: Point, *, workers: int | None = None) -> Cost:
    """The cost of finding the ticket of a point, as the mean over the curve's seeds."""
    by_seed = [_seed_cost(curve, point, seed, workers) for seed in curve.seeds]
    columns = zip(*filter(None, by_seed), strict=True)
    return Cost(*(float(np.mean(column)) for column in columns))


def makespan(epochs: Mapping[str, float], after: After, *, workers: int) -> float:
    """The time, in epochs, after which all trainings are done, by list scheduling.

    A free worker starts the first training, in the given order, whose predecessors are done.
    """
    if any(map(math.isnan, epochs.values())):
        return math.nan
    waiting, running, done, now = list(epochs), list[tuple[float, str]](), set[str](), 0.0
    while waiting or running:
        ready = [stage for stage in waiting if done.issuperset(after[stage])]
        for stage in ready[: workers - len(running)]:
            waiting.remove(stage)
            heapq.heappush(running, (now + epochs[stage], stage))
        assert running, "trainings that wait for each other"
        now = running[0][0]
        while running and running[0][0] == now:
            done.add(heapq.heappop(running)[1])
    return now


def _seed_cost(
    curve: Curve, point: Point, seed: str, workers: int | None
) -> tuple[float, ...] | None:
    cells = curve.by_seed[seed]
    rows = {row.stage: row for cell in cells for row in (*cell.search, *cell.rows)}
    after = {stage: row.after for stage, row in rows.items() if row.after is not None}
    ticket = next((row for stage, row in rows.items() if stage in point.stages), None)
    if ticket is None or len(after) < len(rows):  # imported results name no predecessors
        return None
    line = [row.stage for cell in cells for row in cell.rows if row.level <= point.level]
    before = _before(line, after)
    known = {stage: row.epochs for stage, row in rows.items() if row.epochs is not None}
    order = [*(stage for stage in rows if stage in before), *(before - rows.keys())]
    epochs = {stage: known.get(stage, math.nan) for stage in order}
    found_by = _before([ticket.stage], after)
    # `fsum` is exact. A plain sum depends on the order of the set, which differs between processes,
    # and on Python's version: since 3.12, `sum` corrects its rounding.
    chain = math.fsum(epochs[stage] for stage in found_by)
    seconds = {stage: row.seconds for stage, row in rows.items() if row.seconds is not None}
    hours = math.fsum(seconds.get(stage, math.nan) for stage in found_by) / 3600
    return (
        chain if ticket.search_epochs is None else ticket.search_epochs,
        math.fsum(epochs.values()),
        makespan(epochs, after, workers=max(1, len(epochs))),
        math.nan if workers is None else makespan(epochs, after, workers=workers),
        hours,
    )


def _before(stages: Iterable[str], after: After) -> set[str]:
    """All trainings that these stages descend from."""
    ancestors: set[str] = set()
    waiting = [parent for stage in stages for parent in after[stage]]
    while waiting:
        stage = waiting.pop()
        if stage not in ancestors:
            ancestors.add(stage)
            waiting += after.get(stage, ())
    return ancestors
