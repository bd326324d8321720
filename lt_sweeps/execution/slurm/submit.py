"""Arrays: jobs as batch files, submitted through submitit in arrays that wait for one another."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from lt_sweeps.execution.slurm.partition_jobs import Job
from lt_sweeps.execution.slurm.resources import SlurmResources
from lt_sweeps.execution.slurm.squeue import Batch, batches, job_name, setting
from lt_sweeps.execution.worker_pool import loaded
from lt_sweeps.plan.planning import Pack, needs
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.sweep_folder import SweepFolder


class Arrays:
    """Submits jobs of one sweep; `code` is the snapshot that they run."""

    def __init__(
        self, sweep: SweepFolder, profile: SlurmResources, device: str, code: Path, *, chdir: str
    ) -> None:
        self.sweep, self.profile, self.device = sweep, profile, device
        self.code, self.chdir = code, chdir
        self.limit = max(1, int(setting("MaxArraySize") or 1001) - 1)
        self.count, self.submitted = 0, 0

    def submit(
        self, jobs: Sequence[Job], tried: Sequence[Pack], elsewhere: Mapping[Unit, str]
    ) -> None:
        """Submit jobs, those that others wait for first.

        Jobs that wait for the same others are one array, cut where Slurm's limit is.

        Args:
            tried: the canary's packs; without them there is none.
            elsewhere: the Slurm id of whichever job of an earlier submission has a unit in hand.

        Raises:
            ValueError: what `sbatch` says. What was submitted before it stays.
        """
        canary = [[pack.name for pack in tried]]
        first = self._array(canary, [], waited_for=[True], canary=True) if tried else []
        waited_for = frozenset().union(*(job.after for job in jobs))
        ids: dict[str, str] = {}
        groups: dict[frozenset[str], list[Job]] = {}
        for job in jobs:
            theirs = {elsewhere[unit] for unit in _needed(job) if unit in elsewhere}
            groups.setdefault(job.after | theirs, []).append(job)
        for after, members in groups.items():
            wait = [ids.get(name, name) for name in sorted(after)] or first
            for begin in range(0, len(members), self.limit):
                chunk = members[begin : begin + self.limit]
                tasks = [[pack.name for pack in job.packs] for job in chunk]
                found = self._array(
                    tasks, wait, waited_for=[job.name in waited_for for job in chunk]
                )
                ids |= {job.name: id for job, id in zip(chunk, found, strict=True)}
                self.submitted += len(chunk)

    def _array(
        self,
        tasks: list[list[str]],
        after: Sequence[str],
        *,
        waited_for: list[bool],
        canary: bool = False,
    ) -> list[str]:
        """Submit one array; returns the Slurm id of each of its tasks.

        It is noted before, so that even a submission that dies is found in the queue, by its name.
        """
        number = max((batch.number for batch in batches(self.sweep)), default=-1) + 1
        name = job_name(self.sweep, number)
        processes = 1 if canary else self.profile.processes
        batch = Batch(number, name, tasks, self.device, processes, loaded(), waited_for, canary)
        batch.write(self.sweep)
        executor = self._executor(batch, after)
        try:
            job = executor._submit_command(self.command(number))
        except FailedJobError as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"slurm: sbatch took {self.submitted} jobs, and of the next it says: {said} "
                "hint: fewer jobs; `resume` submits what is missing"
            ) from None
        replace(batch, id=job.job_id).write(self.sweep)
        self.count += 1
        return [f"{job.job_id}_{task}" for task in range(len(tasks))]

    def _executor(self, batch: Batch, after: Sequence[str]) -> SlurmExecutor:
        folder = self.sweep.folder / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        words = self.profile.parameters(
            job_name=batch.name, tasks=len(batch.tasks), chdir=self.chdir
        )
        if after:
            words["dependency"] = f"afterok:{':'.join(_whole(after, self.sweep))}"
            words["additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
        executor = SlurmExecutor(folder)
        executor.update_parameters(**words)
        executor.parameters["map_count"] = len(batch.tasks)  # as submitit's own arrays do
        return executor

    def command(self, number: int) -> str:
        """What the batch file runs."""
        python = self.profile.python or shlex.quote(sys.executable)
        program = f"{self.profile.container or ''} {python}".strip()
        job_sh, job_py = self.code / "lt_sweeps/execution/slurm/job.sh", self.code / "job.py"
        count = self.sweep.folder / "jobs" / f"requeues-{number}"
        return " ".join(
            [
                f"source {shlex.quote(str(job_sh))} {self.profile.max_requeues}",
                f'{shlex.quote(str(count))}."$SLURM_ARRAY_TASK_ID"',
                f"{program} {shlex.quote(str(job_py))}",
                f'{shlex.quote(str(self.sweep.folder))} {number} "$SLURM_ARRAY_TASK_ID"',
            ]
        )


def _needed(job: Job) -> Iterable[Unit]:
    for pack in job.packs:
        for unit in pack.units:
            yield from (Unit(stage, unit.seed) for stage in needs(unit.stage))


def _whole(ids: Sequence[str], sweep: SweepFolder) -> list[str]:
    """Task ids, with an array's own id in place of its tasks where all of them are named."""
    # This keeps dependencies short: a job may wait for thousands of tasks, which spelled out are
    # `afterok:17_0:17_1:...`, whereas `afterok:17` means every task of array 17. The
    # short form is right only if the list names all tasks of that array, so the number of ids
    # given is compared with the size noted when the array was submitted. Arrays are cut at
    # MaxArraySize (see `Arrays.submit`), so jobs with the same dependencies may lie in several
    # arrays; each is judged by itself. Ids of arrays that are named only in part stay as tasks.
    sizes = {batch.id: len(batch.tasks) for batch in batches(sweep)}
    counts = Counter(id.partition("_")[0] for id in ids)
    whole = {array for array, count in counts.items() if sizes.get(array) == count}
    parts = [id for id in ids if id.partition("_")[0] not in whole]
    return sorted(whole) + parts
