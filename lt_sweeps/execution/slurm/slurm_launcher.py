"""The Slurm launcher: freezes a sweep, submits its packs as arrays of jobs, and returns."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from filelock import FileLock
from rich.console import Console

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import canary
from lt_sweeps.execution.plan_preview import Estimate, preview, within_budget
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.execution.slurm import partition_jobs
from lt_sweeps.execution.slurm.code_snapshot import snapshot
from lt_sweeps.execution.slurm.resources import SlurmResources, check_options
from lt_sweeps.execution.slurm.squeue import batches, has_slurm, queued
from lt_sweeps.execution.slurm.submit import Arrays
from lt_sweeps.execution.submission import find, freeze, unfinished, write_records
from lt_sweeps.plan.cost import Speeds, stack_size
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder


def launch(cells: Sequence[Cell], profile: SlurmResources) -> int:
    """Submit whatever is missing of the cells and is not queued; returns the exit status."""
    return _launch(plan(cells), RunSettings.of(cells), profile)


def submit_missing(sweep: SweepFolder, words: Mapping[str, Any]) -> int:
    """Submit exactly what is missing of a frozen sweep, with the profile it had but for `words`."""
    before, cells = sweep.manifest["launcher"], sweep.cells()
    os.chdir(before["cwd"])  # relative paths in the cells start there
    asked = replace(RunSettings.of(cells), root=sweep.root, name=sweep.folder.name, dry_run=False)
    return _launch(plan(cells), asked, SlurmResources.of({**before["profile"], **words}))


def _launch(made: Plan, asked: RunSettings, profile: SlurmResources) -> int:
    if not asked.dry_run and not has_slurm():
        raise ValueError("hydra/launcher: slurm: no `squeue` here; submit from the cluster")
    if asked.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: {asked.device!r}; a job of Slurm takes auto, cpu or cuda")
    asked = replace(asked, root=asked.root.absolute())
    sweep = find(made, root=asked.root, name=asked.name)
    if asked.dry_run:
        _Submission(made, asked, profile, sweep).show()
        return 0
    check_options(profile)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep.folder / ".submit.lock"):  # the same sweep from two shells
        submission = _Submission(made, asked, profile, sweep)
        submission.show()
        within_budget(submission.estimate, asked.budget)
        return submission.submit()


class _Submission:
    """What one call submits of a sweep."""

    def __init__(
        self, made: Plan, asked: RunSettings, profile: SlurmResources, sweep: SweepFolder
    ) -> None:
        self.made, self.asked, self.profile, self.sweep = made, asked, profile, sweep
        self.device = "cpu" if asked.device == "cpu" or not profile.gpu_count else "cuda"
        self.speeds = Speeds.of(asked.root)
        self.queued = queued(sweep) if batches(sweep) else {}
        self.missing, self.waited_for = self._missing()
        self.jobs = self._jobs()
        self.packs = [pack for job in self.jobs for pack in job.packs]
        self.estimate = Estimate.of(
            self.packs,
            self.speeds,
            device=self.device,
            at_once=max(1, min(len(self.jobs), profile.parallel)) * profile.processes,
            share=profile.processes,
        )

    def show(self) -> None:
        note = {"queued": f"{len(self.queued)} jobs already"} if self.queued else {}
        first = ", after a canary" if self.profile.canary and self.jobs else ""
        lines = preview(
            self.made,
            self.packs,
            self.estimate,
            sweep=self.sweep.folder,
            jobs=f"{len(self.jobs)} of {self.profile.gpus} GPUs{first}",
            **note,
        )
        Console().print(lines)

    def submit(self) -> int:
        """Freeze, copy the code, and submit; returns the exit status."""
        store = Store(self.asked.root)
        if not self.jobs:
            done = sum(write_records(each, store) for each in self.made.cells)
            print(
                f"nothing to submit: {done} of {len(self.made.cells)} cells are complete, "
                f"{len(self.queued)} jobs are queued"
            )
            return 0
        for task in {
            id(u.stage.training.task): u.stage.training.task for u in self.missing
        }.values():
            task.dataset.prepare()  # here, where there may be a network
        sweep = freeze(
            self.made,
            self.packs,
            self.asked.machine,
            root=self.asked.root,
            name=self.asked.name,
            launcher={"name": "slurm", "profile": self.profile.record(), "cwd": os.getcwd()},
            jobs={pack.name: job.name for job in self.jobs for pack in job.packs},
        )
        sweep.forgive(sweep.failures())
        code = snapshot(sweep.folder / "code")
        arrays = Arrays(sweep, self.profile, self.device, code, chdir=os.getcwd())
        tried = canary.chosen(self.packs) if self.profile.canary else []
        arrays.submit(self.jobs, tried, self.waited_for)
        print(f"submitted {len(self.jobs)} jobs in {arrays.count} arrays; follow, end, see them by")
        for verb in ("status", "logs", "cancel", "resume", "report"):
            print(f"  python -m lt_sweeps {verb} {sweep.folder}")
        return 0

    def _missing(self) -> tuple[list[Unit], dict[Unit, str]]:
        """The units that nobody has in hand, and the job of those that are queued."""
        absent = self.made.missing(Store(self.asked.root))
        names = {(unit.stage.key, str(unit.seed)): unit for unit in absent}
        held = {batch.number: batch for batch in batches(self.sweep) if not batch.canary}
        frozen = {p["name"]: p for p in self.sweep.manifest["packs"]} if self.queued else {}
        waited_for = {
            names[key, seed]: held_as
            for (number, task), (_, held_as) in self.queued.items()
            if number in held
            for pack in held[number].tasks[task]
            for key, seed in frozen[pack]["units"]
            if (key, seed) in names
        }
        return [unit for unit in absent if unit not in waited_for], waited_for

    def _jobs(self) -> list[partition_jobs.Job]:
        profile, missing = self.profile, set(self.missing)
        before = unfinished(self.sweep, self.made, Store(self.asked.root))
        frozen = {p["name"]: p for p in self.sweep.manifest["packs"]} if before else {}
        left = [
            (pack, frozen[pack.name]["job"] or "0")
            for pack in before
            if missing.intersection(pack.units)
        ]
        covered = {unit for pack, _ in left for unit in pack.units}
        new = [unit for unit in self.missing if unit not in covered]
        names = partition_jobs.share_out(self.made, new, self._count(new), self._seconds)
        return partition_jobs.build(
            names,
            left,
            stack_size=self._sizes(new),
            workers=profile.processes * max(1, profile.gpu_count),
        )

    def _seconds(self, stage: Any) -> float:
        return self.speeds.seconds(stage, 1, self.device)[0]

    def _count(self, new: Sequence[Unit]) -> int | None:
        """How many jobs to cut the work into; None: one for each cell."""
        if not self.profile.pack:
            return None
        if self.profile.hours_per_job is None:
            return self.profile.jobs or 1
        seconds = sum(self._seconds(unit.stage) for unit in new)
        return max(1, math.ceil(seconds / 3600 / self.profile.hours_per_job))

    def _sizes(self, new: Sequence[Unit]) -> dict[str, int]:
        stages = {unit.stage.key: unit.stage for unit in new}
        if not self.profile.pack or self.asked.stack_size is not None:
            return dict.fromkeys(stages, self.asked.stack_size or 1 if self.profile.pack else 1)
        gib = self.profile.memory if self.device == "cpu" else self.profile.gpu_memory
        memory = int(gib * 2**30) // self.profile.processes
        return {key: stack_size(stage, memory=memory) for key, stage in stages.items()}
