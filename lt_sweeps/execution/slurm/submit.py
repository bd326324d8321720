"""Submit jobs to Slurm through submitit, as job arrays that depend on one another."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from lt_sweeps.execution.forking import to_preload
from lt_sweeps.execution.patience import patiently
from lt_sweeps.execution.slurm.partition_jobs import Job
from lt_sweeps.execution.slurm.resources import SlurmResources
from lt_sweeps.execution.slurm.squeue import Batch, batches, job_name, setting, withdraw
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.sweep_folder import SweepFolder


class Arrays:
    """The job arrays of one sweep; `submit` submits them.

    Args:
        device: `cpu` or `cuda`.
        code: the folder of the copy of the code that the jobs run.
        chdir: the folder that the jobs start in.
    """

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
        """Submit jobs, each after the jobs that it waits for.

        In Slurm a dependency applies to a whole array, so jobs that wait for the same jobs form one
        array. If an array has more tasks than Slurm allows, it is split into several.

        Args:
            tried: the canary's packs; empty for no canary.
            elsewhere: units that a queued job of an earlier submission will train, with the Slurm
                id of that job.

        Raises:
            ValueError: `sbatch` refuses an array. Arrays that were accepted before stay submitted.
        """
        canary = [[pack.name for pack in tried]]
        first = self._array(canary, [], waited_for=[True], canary=True) if tried else []
        try:
            self._submit_after(first, jobs, elsewhere)
        except ValueError:
            if first and not self.submitted:  # or each try would leave a canary in the queue
                withdraw(self.sweep, first[0].partition("_")[0])
            raise

    def _submit_after(
        self, first: Sequence[str], jobs: Sequence[Job], elsewhere: Mapping[Unit, str]
    ) -> None:
        """Submit jobs; those that wait for no other job wait for `first`, the canary."""
        waited_for = frozenset().union(*(job.after for job in jobs))
        ids: dict[str, str] = {}
        groups: dict[frozenset[str], list[Job]] = {}
        for job in jobs:
            needed = {need for pack in job.packs for unit in pack.units for need in unit.needs}
            earlier = {elsewhere[unit] for unit in needed if unit in elsewhere}
            groups.setdefault(job.after | earlier, []).append(job)
        for after, members in groups.items():
            # `after` has names of jobs, and Slurm ids from `elsewhere`. Jobs without dependencies
            # wait for the canary; the other jobs wait for it indirectly.
            wait = [ids.get(name, name) for name in sorted(after)] or first
            for begin in range(0, len(members), self.limit):
                chunk = members[begin : begin + self.limit]
                tasks = [[pack.name for pack in job.packs] for job in chunk]
                task_ids = self._array(
                    tasks, wait, waited_for=[job.name in waited_for for job in chunk]
                )
                ids |= {job.name: id for job, id in zip(chunk, task_ids, strict=True)}
                self.submitted += len(chunk)

    def _array(
        self,
        tasks: list[list[str]],
        after: Sequence[str],
        *,
        waited_for: list[bool],
        canary: bool = False,
    ) -> list[str]:
        """Submit one array; return the Slurm id of each of its tasks.

        The array's file is written before it is submitted: if this process dies in between, the
        array can still be found in the queue by its name.
        """
        number = max((batch.number for batch in batches(self.sweep)), default=-1) + 1
        batch = Batch(
            number=number,
            name=job_name(self.sweep, number),
            tasks=tasks,
            device=self.device,
            processes=1 if canary else self.profile.processes,
            preload=to_preload(),
            waited_for=waited_for,
            canary=canary,
            code=str(self.code),
        )
        patiently("jobs", lambda: batch.write(self.sweep))
        executor = self._executor(batch, after)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints sbatch's answer too
                job = executor._submit_command(self.command(number))
        except FailedJobError as error:
            raise ValueError(_refusal(str(error), self.submitted)) from None
        submitted = replace(batch, id=job.job_id)
        patiently("jobs", lambda: submitted.write(self.sweep))
        self.count += 1
        return [f"{job.job_id}_{task}" for task in range(len(tasks))]

    def _executor(self, batch: Batch, after: Sequence[str]) -> SlurmExecutor:
        folder = self.sweep.folder / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        parameters = self.profile.parameters(
            job_name=batch.name, tasks=len(batch.tasks), chdir=self.chdir
        )
        if after:
            parameters["dependency"] = f"afterok:{':'.join(_whole(after, self.sweep))}"
            parameters["additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
        parameters["setup"] = [self._sourced(batch.number), *parameters.get("setup", ())]
        executor = SlurmExecutor(folder)
        executor.update_parameters(**parameters)
        executor.parameters["map_count"] = len(batch.tasks)  # submitit sets this for its own arrays
        return executor

    def command(self, number: int) -> str:
        """The command line in the batch file that runs a task."""
        python = self.profile.python or shlex.quote(sys.executable)
        program = f"{self.profile.container or ''} {python}".strip()
        job_py, sweep = shlex.quote(str(self.code / "job.py")), shlex.quote(str(self.sweep.folder))
        return f'lt_main {program} {job_py} {sweep} {number} "$SLURM_ARRAY_TASK_ID"'

    def _sourced(self, number: int) -> str:
        """The line of the batch file that sources job.sh.

        It is the first line, because a signal may arrive while the setup lines run.
        """
        job_sh = shlex.quote(str(self.code / "lt_sweeps/execution/slurm/job.sh"))
        count = shlex.quote(str(self.sweep.folder / "jobs" / f"requeues-{number}"))
        # Leave 30 s of the delay for Slurm's requeue, but at least 20 s for saving a checkpoint.
        patience = max(20, self.profile.signal_delay - 30)
        words = f'{self.profile.max_requeues} {count}."$SLURM_ARRAY_TASK_ID" {patience}'
        return f"source {job_sh} {words}"


def _refusal(answer: str, submitted: int) -> str:
    """The answer of sbatch in one line, with a hint on how to continue."""
    said = "; ".join(line.removeprefix("sbatch: error: ") for line in answer.splitlines())
    fewer = "ask for fewer jobs, or wait; " if re.search(r"\blimit", answer, re.IGNORECASE) else ""
    return (
        f"slurm: sbatch refused {'the jobs' if not submitted else f'all but {submitted} jobs'}: "
        f"{said}; hint: {fewer}`resume SWEEP KEY=VALUE` submits what is missing with another value "
        "of a key of hydra.launcher"
    )


def _whole(ids: Sequence[str], sweep: SweepFolder) -> list[str]:
    """Shorten the task ids of a dependency: if all tasks of an array occur, give the array's id."""
    # Slurm calls task 3 of array 70 `70_3`, and all tasks of array 70 together `70`. A job can
    # wait for many tasks: a job that stacks 1,000 cells, whose dense runs are queued in a job each,
    # would list 70_0:70_1:...:70_999, which is 7 kB in its batch file. The id of the array says the
    # same in one word. The array's id is used only if all of its tasks occur, because afterok:70
    # waits for every task of the array, and the failure of a task that is not needed would cancel
    # the job.
    #
    # Example: array 70 has tasks 0, 1 and 2, array 71 has tasks 0 and 1. Then 70_0, 70_1, 70_2,
    # 71_1 becomes 70, 71_1. Task 71_1 keeps its own id, because the job does not wait for 71_0.
    sizes = {batch.id: len(batch.tasks) for batch in batches(sweep)}
    counts = Counter(id.partition("_")[0] for id in ids)
    whole = {array for array, count in counts.items() if sizes.get(array) == count}
    parts = [id for id in ids if id.partition("_")[0] not in whole]
    return sorted(whole) + parts
