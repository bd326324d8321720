"""Train a pack: claim its units, resume from their checkpoints, and compute no unit twice."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from filelock import BaseFileLock

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import with_reported
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.ticket_checks import ticket_fault
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.atomic_write import set_aside
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket, stack
from lt_sweeps.training.rehearsal import rehearse
from lt_sweeps.training.training_loop import Interrupted, TrainingLoop

_log = logging.getLogger("lt_sweeps")


def compute(
    units: Sequence[Unit],
    moments: Mapping[str, frozenset[Any]],
    store: Store,
    machine: Machine,
    *,
    reported: Collection[str] = (),
    progress: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
    watch: Callable[[TrainingLoop], None] = lambda loop: None,
) -> None:
    """Train the missing units; wait for units that another process is computing.

    Args:
        moments: the snapshots to save, by stage key.
        reported: keys of the stages whose weights at the best evaluation are stored too, if that
            evaluation is not the last one, because a cell reports the accuracy of those weights.
    """
    moments = with_reported(moments, reported)

    def loop_of(group: Sequence[Unit]) -> TrainingLoop:
        saved = [moments.get(unit.stage.key, frozenset()) for unit in group]
        loop = TrainingLoop(
            group, store, machine, moments=saved, progress=progress, stopped=stopped
        )
        watch(loop)
        return loop

    waiting = list(units)
    while waiting:
        claims = _claim(waiting, store)
        try:
            _clear(claims, moments, store)
            tickets = StoredTickets(store, thorough=False, recall=False)
            mine = [unit for unit in claims if not tickets.holds_unit(unit, moments)]
            if mine:
                _train(mine, moments, store, loop_of)
        finally:
            for claim in claims.values():
                claim.release()
        waiting = [unit for unit in waiting if unit not in claims]
        if waiting and not mine:  # another process is computing them
            progress(waiting[0].stage.start.step)
            if stopped():
                raise Interrupted("stopped while waiting for another process")
            time.sleep(0.2)


def _claim(units: Sequence[Unit], store: Store) -> dict[Unit, BaseFileLock]:
    """Claim the units that no other process computes; claim none if another has the first unit.

    So two processes with the same pack never split it between them.
    """
    claims: dict[Unit, BaseFileLock] = {}
    for unit in units:
        claim = store.claim(unit.stage.key, unit.seed)
        if claim is not None:
            claims[unit] = claim
        elif not claims:
            break
    return claims


def _clear(units: Iterable[Unit], moments: Mapping[str, frozenset[Any]], store: Store) -> None:
    """Remove what a killed process left behind for these units, and set damaged tickets aside."""
    for key, of_stage in group_by(units, lambda unit: unit.stage.key).items():
        store.sweep_up(key, [unit.seed for unit in of_stage])
    for unit in units:
        stage, seed = unit.stage, unit.seed
        for moment in ("end", "best", *moments.get(stage.key, ())):
            path = store.path(stage.key, seed, moment)
            if os.path.lexists(path) and (fault := ticket_fault(stage, seed, moment, store)):
                set_aside(path, fault)


def _train(
    units: Sequence[Unit],
    moments: Mapping[str, frozenset[Any]],
    store: Store,
    loop_of: Callable[[Sequence[Unit]], TrainingLoop],
) -> None:
    """Train units stacked, each group from the latest checkpoint that all of its units have."""
    for group, step in _by_checkpoint(units, moments, store):
        loop = loop_of(group)
        if step is None:
            loop.start(stack([_start(unit, store) for unit in group]))
            rehearse(loop)
        else:
            try:
                loop.restore(step)
            except FileNotFoundError:  # another version of the code wrote the checkpoint
                tickets = StoredTickets(store, thorough=True)
                left = [unit for unit in units if not tickets.holds_unit(unit, moments)]
                _train(left, moments, store, loop_of)
                return
        _log.info("train %d units from step %d: %s", len(group), loop.step, _names(group))
        loop.run(_until(group, moments, store))
        _log.info("computed %s", _names(group))


@dataclass(frozen=True)
class _ReadOnce(Store):
    """A store that reads each ticket once, while one start is computed.

    Pruning, its criterion and the reset need the same tickets.
    """

    of: Store
    _tickets: dict[tuple[str, str, int | str], Ticket] = field(default_factory=dict)

    def read(self, key: str, seed: object, moment: int | str = "end") -> Ticket:
        name = key, str(seed), moment
        if name not in self._tickets:
            self._tickets[name] = self.of.read(key, seed, moment)
        return self._tickets[name]

    def write(self, *about: Any) -> None:
        self.of.write(*about)


def _start(unit: Unit, store: Store) -> Ticket:
    """Compute the ticket that a unit starts from; store and log its notes."""
    start = ticket(unit.stage.start, unit.seed, _ReadOnce(store.root, store))
    for note in start.notes:
        _log.warning("level %d of seed %s: %s", unit.stage.level, unit.seed, note)
    if start.notes:
        store.write_notes(unit.stage.key, unit.seed, start.notes)
    return start


def _names(units: Sequence[Unit]) -> str:
    return " ".join(f"{unit.stage.key}/{unit.seed}" for unit in units)


def _by_checkpoint(
    units: Sequence[Unit], moments: Mapping[str, frozenset[Any]], store: Store
) -> list[tuple[list[Unit], int | None]]:
    """Group units that can continue together, each group with the step of its checkpoint.

    The step is None for a group that starts from the beginning. A checkpoint later than a missing
    snapshot cannot be used, because training would not pass the snapshot's step again.
    """
    usable: dict[Unit, set[int]] = {}
    for unit in units:
        key, seed = unit.stage.key, unit.seed
        wanted = [m for m in moments.get(key, ()) if isinstance(m, int)]
        first = min((m for m in wanted if not store.has(key, seed, m)), default=unit.stage.step)
        usable[unit] = {step for step in store.checkpoints(key, seed) if step <= first}
    if shared := set.intersection(*usable.values()):
        return [(list(units), max(shared))]
    by_step = group_by(usable, lambda unit: max(usable[unit], default=None))
    return [(group, step) for step, group in by_step.items()]


def _until(
    units: Sequence[Unit], moments: Mapping[str, frozenset[Any]], store: Store
) -> int | None:
    """The step to train to: the last missing snapshot; None: to the end of the training."""
    steps: set[int] = set()
    tickets = StoredTickets(store, thorough=False, recall=False)
    for unit in units:
        key, seed = unit.stage.key, unit.seed
        wanted = moments.get(key, frozenset())
        if "reported" in wanted and not tickets.ends_at_best(unit.stage, seed):
            wanted |= {"best"}
        absent = [m for m in ("end", *wanted) if not store.has(key, seed, m)]
        if "end" in absent or "best" in absent:
            return None
        steps |= {moment for moment in absent if isinstance(moment, int)}
    return max(steps, default=None)
