"""The Slurm launcher: freeze a sweep, submit its packs as job arrays, and return."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.trust import own_modules
from lt_sweeps.execution import canary
from lt_sweeps.execution.patience import patiently
from lt_sweeps.execution.plan_preview import Estimate, preview, within_budget
from lt_sweeps.execution.run_settings import RunSettings, check_writable
from lt_sweeps.execution.slurm import partition_jobs
from lt_sweeps.execution.slurm.code_snapshot import copy_code
from lt_sweeps.execution.slurm.resources import SlurmResources, check_options
from lt_sweeps.execution.slurm.squeue import batches, check_slurm, queued
from lt_sweeps.execution.slurm.submit import Arrays
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.cost import Speeds, stack_sizes
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import FrozenPack, Launcher
from lt_sweeps.tracking.mirror_process import mirrored

_DIVISION = ("jobs", "hours_per_job", "pack")  # the keys that divide cells into jobs


def submit_cells(cells: Sequence[Cell], profile: SlurmResources, *, words: Sequence[str]) -> int:
    """Submit the units of the cells that are missing and not queued; return the exit status."""
    made, settings = plan(cells), RunSettings.of(cells, words=words)
    settings = replace(settings, root=settings.root.absolute())  # jobs may start elsewhere
    submission = Submission(made, settings)
    submission.check_asked()
    return submit_missing(submission, profile)


def submit_missing(submission: Submission, profile: SlurmResources) -> int:
    """Submit the units of a submission that are missing and not queued; return the exit status."""
    settings = submission.settings
    check_writable(settings.root)
    if not settings.dry_run:
        check_slurm()
    if settings.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: {settings.device!r}; a job of Slurm takes auto, cpu or cuda")
    if settings.dry_run:
        _affordable_jobs(submission, profile)
        return 0
    check_options(profile)
    with locked(submission.folder / ".submit.lock"):  # two shells may submit the same sweep
        return _affordable_jobs(submission, profile).submit()


def _affordable_jobs(submission: Submission, profile: SlurmResources) -> _Jobs:
    """Show the jobs of a submission, and refuse them if they take more than its budget."""
    jobs = _Jobs(submission, profile)
    jobs.show()
    within_budget(jobs.estimate, submission.settings.budget)
    return jobs


class _Jobs:
    """The jobs that train the units of a submission that are missing and not queued."""

    def __init__(self, submission: Submission, profile: SlurmResources) -> None:
        self.submission, self.profile = submission, profile
        self.settings, self.sweep = submission.settings, submission.sweep
        self.device = "cpu" if self.settings.device == "cpu" or not profile.gpu_count else "cuda"
        # The number of packs that a job trains at the same time, each in a process of one thread.
        self.workers = profile.processes * (profile.gpu_count if self.device == "cuda" else 1)
        if self.device == "cpu":  # the GPU of a job cannot be checked from here
            for arithmetic in submission.arithmetics:
                arithmetic.check(torch.device("cpu"))
        submission.try_out(self.device)
        self.speeds = Speeds.of(self.settings.root)
        self.queued = queued(self.sweep) if batches(self.sweep) else {}
        self.missing, self.waited_for = self._missing()
        self.jobs = self._jobs()
        self.packs = [pack for job in self.jobs for pack in job.packs]
        self.estimate = Estimate.of(
            self.packs,
            self.speeds,
            device=self.device,
            at_once=max(
                1, min(len(self.packs), min(len(self.jobs), profile.parallel) * self.workers)
            ),
            share=profile.processes,
        )

    def show(self) -> None:
        note = {"queued": f"{len(self.queued)} jobs already"} if self.queued else {}
        each = f", each of {self.profile.words}" if self.jobs else ""
        first = ", after a canary" if self.profile.canary and self.jobs else ""
        lines = preview(
            self.submission.plan,
            self.packs,
            self.estimate,
            sweep=self.sweep.folder,
            jobs=f"{len(self.jobs)}{each}{first}",
            **note,
            **(self._mismatch() if self.jobs else {}),
        )
        Console().print(lines)

    def _mismatch(self) -> dict[str, str]:
        """Rows of the plan that warn about too few CPUs, or about CPUs and GPUs left unused."""
        cpus, said = self.profile.cpus, dict[str, str]()
        packs = f"{self.workers} pack{'s' if self.workers > 1 else ''} at once with a thread each"
        if self.workers > cpus:
            said["CPUs"] = f"too few: a job trains {packs} and requests {cpus}; they take turns"
        elif self.device == "cpu" and self.workers < cpus:
            said["CPUs"] = f"too many: a job trains {packs} and requests {cpus}; see processes"
        if self.device == "cpu" and self.profile.gpu_count:
            said["GPUs"] = f"unused: device=cpu, and a job requests {self.profile.gpus}; see gpus"
        return said

    def submit(self) -> int:
        """Freeze the sweep, copy the code, and submit the jobs; return the exit status."""
        if not self.jobs and self.sweep.usable_manifest is not None:
            return self._record()
        self.submission.prepare_data(self.missing)
        self.submission.check_splits(self.missing)
        sweep = self.submission.freeze(
            self.packs,
            Launcher("slurm", os.getcwd(), asdict(self.profile)),
            {pack.name: job.name for job in self.jobs for pack in job.packs},
        )
        if not self.jobs:
            return self._record()
        self.submission.write_records(self._known())
        code = patiently("code", lambda: copy_code(sweep.folder / "code"))
        arrays = Arrays(sweep, self.profile, self.device, code, chdir=os.getcwd())
        tried = canary.chosen(self.packs) if self.profile.canary else []
        arrays.submit(self.jobs, tried, self.waited_for)
        print(f"submitted {len(self.jobs)} jobs in {arrays.count} arrays; what you can do next:")
        for command in self._next_commands(sweep.folder):
            print(f"  python -m lt_sweeps {command}")
        return 0

    def _next_commands(self, folder: Path) -> list[str]:
        """The commands to type next. `resume` needs `trust=` to run user-defined modules."""
        own = own_modules([dict(cell.cell.config) for cell in self.submission.plan.cells])
        trust = f" trust={','.join(own)}" if own else ""
        return [
            *(f"status {folder}", f"logs {folder} 0", f"cancel {folder}"),
            *(f"resume {folder}{trust}", f"report {folder}"),
        ]

    def _record(self) -> int:
        """Record and mirror the stored results if no job is needed; return the exit status."""
        cells, sweep = self.submission.plan.cells, self.submission.sweep
        with mirrored(sweep.folder, cells[0].cell.config["tracker"]):
            done = self.submission.write_records(self._known())
        print(
            f"nothing to submit: {done} of {len(cells)} cells are complete, "
            f"{len(self.queued)} jobs are queued; to draw them: "
            f"python -m lt_sweeps report {sweep.folder}"
        )
        return 0

    def _known(self) -> list[Planned]:
        """The cells whose trainings are all stored already, so that no job will record them."""
        absent = {*self.missing, *self.waited_for}
        return [cell for cell in self.submission.plan.cells if absent.isdisjoint(cell.units)]

    def _missing(self) -> tuple[list[Unit], dict[Unit, str]]:
        """Return the missing units that no job will train, and the job of those that are queued."""
        absent = self.submission.missing()
        names = {unit.name: unit for unit in absent}
        held = {batch.number: batch for batch in batches(self.sweep) if not batch.canary}
        frozen = self._frozen() if self.queued else {}
        waited_for = {
            names[unit]: queued_task.id
            for (number, task), queued_task in self.queued.items()
            if number in held
            for pack in held[number].tasks[task]
            if pack in frozen  # a manifest that was damaged and written again may lack the pack
            for unit in frozen[pack].units
            if unit in names
        }
        return [unit for unit in absent if unit not in waited_for], waited_for

    def _frozen(self) -> dict[str, FrozenPack]:
        before = self.sweep.usable_manifest
        return {} if before is None else {pack.name: pack for pack in before.packs}

    def _jobs(self) -> list[partition_jobs.Job]:
        left, new = self.submission.unfinished(self.missing)
        return partition_jobs.build(
            self._shared_out(new),
            self._with_jobs(left),
            stack_size=self._sizes(new),
            workers=self.workers,
        )

    def _shared_out(self, units: Sequence[Unit]) -> dict[Unit, str]:
        """The name of each unit's job."""
        count = self._count(units)
        return partition_jobs.share_out(self.submission.plan, units, count, self._seconds)

    def _with_jobs(self, left: Sequence[Pack]) -> list[tuple[Pack, str]]:
        """Assign a job to each unfinished pack: its earlier job, if no `_DIVISION` key changed."""
        if not left:
            return []
        before = self.sweep.manifest.launcher.profile
        if all(before.get(key) == getattr(self.profile, key) for key in _DIVISION):
            frozen = self._frozen()
            return [(pack, frozen[pack.name].job or "0") for pack in left]
        names = self._shared_out([unit for pack in left for unit in pack.units])
        return [(pack, names[pack.units[0]]) for pack in left]

    def _seconds(self, stage: Any) -> float:
        return self.speeds.seconds(stage, 1, self.device)[0]

    def _count(self, new: Sequence[Unit]) -> int | None:
        """The number of jobs to divide the work into; None: one job for each cell."""
        if not self.profile.pack:
            return None
        if self.profile.hours_per_job is None:
            return self.profile.jobs or 1
        seconds = sum(self._seconds(unit.stage) for unit in new)
        return max(1, math.ceil(seconds / 3600 / self.profile.hours_per_job))

    def _sizes(self, new: Sequence[Unit]) -> dict[str, int]:
        given = self.settings.stack_size if self.profile.pack else 1
        gib = self.profile.memory if self.device == "cpu" else self.profile.gpu_memory
        return stack_sizes(new, given, memory=int(gib * 2**30) // self.profile.processes)
