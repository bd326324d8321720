"""`Status`: the progress of a sweep, read from its files, so it works offline and while jobs run.

If Slurm is available, its queue is read too: it shows which jobs ended without recording it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from lt_sweeps.execution.slurm.squeue import Batch, batches, has_slurm, job_name, over, queued
from lt_sweeps.storage.manifest import FrozenCell, UnitName, cells_by_unit
from lt_sweeps.storage.record import all_diverged
from lt_sweeps.storage.run_folder import CellRecords
from lt_sweeps.storage.sweep_folder import Failure, Heartbeat, SweepFolder
from lt_sweeps.storage.unit_costs import known_speeds

DONE, RUNNING, QUEUED, FAILED, MISSING = "done", "running", "queued", "failed", "missing"
STATES = (DONE, RUNNING, QUEUED, FAILED, MISSING)

COMPLETE, BROKEN, AT_WORK = 0, 1, 3
"""Exit statuses: all cells are done; some are missing, or all diverged; work is in progress."""


@dataclass(frozen=True)
class Status:
    """The state of a sweep at one moment."""

    sweep: SweepFolder
    stored: frozenset[UnitName]
    failures: Mapping[UnitName, Failure]
    working: Mapping[str, Heartbeat]
    held: frozenset[
        tuple[int, int]
    ]  # array and task of the jobs that may still be queued or running
    asked_slurm: bool
    records: Sequence[CellRecords]  # by cell
    # How many queued jobs wait for each of Slurm's reasons.
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, sweep: SweepFolder) -> Status:
        submitted = batches(sweep)
        tasks = {(b.number, task) for b in submitted for task in range(len(b.tasks))}
        held, asked, reasons = frozenset(tasks - over(sweep).keys()), False, Counter[str]()
        if submitted and has_slurm():
            with suppress(ValueError):  # Slurm does not answer: use only the files
                found = queued(sweep, timeout=10)
                held, asked = frozenset(found) & tasks, True
                reasons.update(t.reason for t in found.values() if t.state == "PENDING")
        records = sweep.records()
        stored, failures, working = _stored(sweep), sweep.failures(), sweep.running()
        return cls(sweep, stored, failures, working, held, asked, records, reasons)

    @cached_property
    def finished(self) -> frozenset[int]:
        """The numbers of the cells whose records are complete and undamaged."""
        cells = enumerate(self.records)
        return frozenset(number for number, cell in cells if cell.done and not cell.faults)

    @property
    def faults(self) -> list[str]:
        """The faults of the cells' records, a line for each."""
        return [fault for cell in self.records for fault in cell.faults]

    @cached_property
    def states(self) -> dict[UnitName, str]:
        """The state of each unit."""
        running = {
            unit
            for heartbeat in self.working.values()
            for pack in heartbeat.packs.values()
            for unit in pack.units
        }
        waiting = self._waiting()
        # The first state that applies counts: a unit may be stored after it failed, or fail while
        # it is queued. Imported results may have records but no tickets.
        done = {unit for number in self.finished for unit in self.cells[number].units}
        order = {DONE: self.stored | done, RUNNING: running, FAILED: self.failures, QUEUED: waiting}
        return {
            unit: next((state for state, those in order.items() if unit in those), MISSING)
            for unit in dict.fromkeys(unit for cell in self.cells for unit in cell.units)
        }

    @property
    def exit_status(self) -> int:
        if len(self.finished) == len(self.cells):
            return BROKEN if self.diverged else COMPLETE
        states = set(self.states.values())
        return AT_WORK if states & {RUNNING, QUEUED} or self.working else BROKEN

    @property
    def cells(self) -> Sequence[FrozenCell]:
        return self.sweep.manifest.cells

    def grid(self) -> dict[tuple[int, str], list[UnitName]]:
        """The units that cells report, by level and seed; a shared unit once for each cell."""
        found: dict[tuple[int, str], list[UnitName]] = {}
        for cell in self.cells:
            for key, level in cell.levels.items():
                found.setdefault((level, cell.seed), []).append((key, cell.seed))
        return found

    @cached_property
    def diverged(self) -> bool:
        """Whether all cells are done and every replicate has diverged, so there is no result."""
        done = len(self.finished) == len(self.cells)
        return done and all_diverged(cell.records for cell in self.records)

    def collapsed(self) -> dict[int, int]:
        """The number of tickets at each level that predict only one class or have lost a layer."""
        rows = (row for cell in self.records for row in cell.records)
        return Counter(row.level for row in rows if row.collapsed)

    def seconds_left(self) -> float | None:
        """The estimated seconds left, from speeds measured under this root.

        None if a speed is missing, or if nothing is running.
        """
        at_once = sum(len(heartbeat.packs) for heartbeat in self.working.values())
        stages = self.sweep.manifest.stages
        known, left = known_speeds(self.sweep.root), 0.0
        for (key, _), state in self.states.items():
            if state in (RUNNING, QUEUED):
                stage = stages[key]
                rates = [r for name, r in known.items() if name.startswith(f"{stage.kind} ")]
                if not rates:
                    return None
                left += (stage.end - stage.start) / min(rates)
        return left / at_once if at_once else None

    def broken_cells(self) -> dict[UnitName, list[int]]:
        """The units that failed, without those that only need a failed unit; with their cells."""
        failed = self.failures.keys()
        own = {unit for unit in failed if self.sweep.needs(unit).isdisjoint(failed)}
        return {
            unit: numbers
            for unit, numbers in cells_by_unit(self.cells).items()
            if unit in own and self.states[unit] == FAILED
        }

    def lost(self) -> list[tuple[Batch, int]]:
        """Jobs that left Slurm's queue with unfinished work, without recording that they ended.

        If several jobs were given the same work, only the last is reported. A canary is reported
        only if no job after it has started or can start. A batch without an id was refused by
        Slurm, so it has no jobs. A batch with another name belongs to the root that this root was
        copied from.
        """
        packs = {pack.name: pack for pack in self.sweep.manifest.packs}
        ended, seen, lost, went_on = over(self.sweep), set[str](), list[tuple[Batch, int]](), False
        noted = (b for b in batches(self.sweep) if b.name == job_name(self.sweep, b.number))
        accepted = [batch for batch in noted if batch.id is not None]
        for batch in reversed(accepted) if self.asked_slurm else ():
            for task, names in enumerate(batch.tasks):
                at, new = (batch.number, task), [name for name in names if name not in seen]
                if batch.canary:
                    new, went_on = [] if went_on else names, True
                else:
                    seen.update(names)
                    went_on |= at in self.held or at in ended
                known = [packs[name] for name in new if name in packs]
                left = [u for pack in known for u in pack.units if u not in self.stored]
                failed = all(unit in self.failures for unit in left)
                if at not in self.held and at not in ended and left and not failed:
                    lost.append((batch, task))
        return sorted(lost, key=lambda job: (job[0].number, job[1]))

    def _waiting(self) -> set[UnitName]:
        """The units that a queued job or a running process will still compute."""
        packs = {pack.name: pack for pack in self.sweep.manifest.packs}
        named = {batch.number: batch for batch in batches(self.sweep)}
        names = {name for number, task in self.held for name in named[number].tasks[task]}
        names |= {name for each in self.working.values() for name in each.queue}
        return {unit for name in names if name in packs for unit in packs[name].units}


def _stored(sweep: SweepFolder) -> frozenset[UnitName]:
    """The units with a stored ticket and no checkpoint: with a checkpoint, it is not final yet."""
    wanted: dict[str, set[str]] = {}
    for cell in sweep.manifest.cells:
        for key in cell.stages:
            wanted.setdefault(key, set()).add(cell.seed)
    found = set()
    for key, seeds in wanted.items():
        try:
            names = set(os.listdir(sweep.root / "tickets" / key))
        except (FileNotFoundError, NotADirectoryError):
            continue
        partial = {name.partition(".partial-")[0] for name in names if ".partial-" in name}
        found |= {(key, s) for s in seeds if f"{s}.safetensors" in names and s not in partial}
    return frozenset(found)
