"""Faults that clusters inflict on jobs, nodes and disks, at random, while a sweep runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster import CLUSTER, JOB, Run, slurm
from fixtures.small_disk import SmallDisk

WORDS = [
    *("seed=0,1,2,3,4", "mask_criterion=large_final,magnitude_increase,random"),
    *("schedule.levels=8", "recipe.length=30ep", "checkpoint_every=1", "hydra.launcher.jobs=4"),
    *("hydra.launcher.max_requeues=99", "hydra.launcher.signal_delay=20", *JOB),
]


class Faults:
    """Injects a random fault into a job of a sweep, its node or its disk."""

    def __init__(
        self, run: Run, disk: SmallDisk, draws: random.Random, kinds: Sequence[str] = ()
    ) -> None:
        self.run, self.disk, self.draws, self.kinds = run, disk, draws, kinds or KINDS
        self.counts: Counter[str] = Counter()
        self.limited: list[str] = []

    def inject(self) -> None:
        """Inject one fault, if there is a job to suffer it."""
        jobs = self.run.jobs()
        if not jobs:
            return
        kind = self.draws.choice(self.kinds)
        with suppress(subprocess.CalledProcessError):  # the job was quicker
            if getattr(self, kind)(self.draws.choice(jobs)) is not False:
                self.counts[kind] += 1

    def restore(self) -> None:
        """Restore the time limit of jobs that had it cut, once they wait for their next run."""
        for job in list(self.limited):
            state = slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()
            if state != "RUNNING":
                self.limited.remove(job)
                with suppress(subprocess.CalledProcessError):
                    slurm("scontrol", "update", f"jobid={job}", "timelimit=240")

    def requeue(self, job: str) -> None:
        slurm("scontrol", "requeue", job)

    def cancel(self, job: str) -> None:
        slurm("scancel", job)

    def preempt(self, job: str) -> None:
        node = slurm("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
        asks = ["--partition=prio", f"--nodelist={node}", "--gpus-per-node=4", "--mem=100"]
        slurm("sbatch", *asks, "--output=/dev/null", "--wrap=sleep 2")

    def kill_supervisor(self, job: str) -> bool:
        return self._kill(job, lambda words, parent: _is_job(words) and not _is_job(parent))

    def kill_worker(self, job: str) -> bool:
        return self._kill(job, lambda words, parent: _is_job(words) and _is_job(parent))

    def kill_batch_script(self, job: str) -> bool:
        return self._kill(job, lambda words, _: words[-1:] and words[-1].endswith("slurm_script"))

    def time_limit(self, job: str) -> None:
        slurm("scontrol", "update", f"jobid={job}", "timelimit=1")
        self.limited.append(job)

    def node_away(self, job: str) -> None:
        node = slurm("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
        slurm(str(CLUSTER), "node", node, self.draws.choice(["down", "kill"]))
        time.sleep(self.draws.uniform(0, 4))
        slurm(str(CLUSTER), "node", node, "up")

    def disk_full(self, job: str) -> None:
        self.disk.fill()
        time.sleep(self.draws.uniform(2, 30))
        self.disk.make_room()

    def _kill(self, job: str, meant) -> bool:
        """SIGKILL a process of a job, by its environment, its words and those of its parent."""
        array, task = (part.encode() for part in job.split("_"))
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                about = (folder / "environ").read_bytes().split(b"\0")
                ids = {b"SLURM_ARRAY_JOB_ID=" + array, b"SLURM_ARRAY_TASK_ID=" + task}
                parent = Path("/proc", _parent(folder))
                if ids <= {*about} and meant(_words(folder), _words(parent)):
                    found.append(int(folder.name))
        if found:
            os.kill(self.draws.choice(found), signal.SIGKILL)
        return bool(found)


KINDS = (
    *("requeue", "preempt", "kill_supervisor", "kill_worker", "kill_batch_script", "time_limit"),
    *("node_away", "disk_full"),
)


def disturb(run: Run, faults: Faults, words: Sequence[str], *, count: int, limit: float) -> int:
    """Submit a sweep and inject `count` faults until it is done; return the number of resumes.

    A killed batch script and a cancelled job count as failed, so Slurm cancels the jobs that wait
    for them. Then the sweep is resumed, as a user would. `run.status` is the status at the end.
    """
    end, resumed = time.monotonic() + limit, 0
    run(*run.patient(0.005), *words)
    run.status = 3
    while run.status != 0 and time.monotonic() < end:
        if sum(faults.counts.values()) < count:
            faults.inject()
        else:
            run.be_patient(0)
        faults.restore()
        time.sleep(faults.draws.uniform(1, 6))
        run("status", str(run.sweep), status=None)
        if run.status == 1:
            run("resume", str(run.sweep), status=None)
            resumed += 1
            run.status = 3
    return resumed


def _words(process: Path) -> list[str]:
    return (process / "cmdline").read_bytes().decode().split("\0")[:-1]


def _parent(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[1]


def _is_job(words: list[str]) -> bool:
    """Whether a command line is a job's, or a worker's, which is a fork with the same words."""
    return words[1:2] != [] and words[1].endswith("job.py")
