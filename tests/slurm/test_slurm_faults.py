"""What a cluster does to a sweep at random changes no byte of it, and has nothing done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cluster import CLUSTER, JOB, SMALL, Run, slurm
from fixtures.small_disk import SmallDisk, mounted

FAULTS = 24
WORDS = [
    *("seed=0,1,2,3,4", "mask_criterion=large_final,magnitude_increase,random"),
    *("schedule.levels=8", "recipe.length=30ep", "checkpoint_every=1", "hydra.launcher.jobs=4"),
    *("hydra.launcher.max_requeues=99", "hydra.launcher.signal_delay=20", *JOB),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", "300m") as disk:
        yield disk


class Faults:
    """Does to a random job of a sweep, or to its node or its disk, what clusters do."""

    def __init__(self, run: Run, disk: SmallDisk, draws: random.Random) -> None:
        self.run, self.disk, self.draws = run, disk, draws
        self.counts: Counter[str] = Counter()
        self.limited: list[str] = []

    def inject(self) -> None:
        """One fault, if a job is there to suffer it."""
        jobs = self.run.jobs()
        if not jobs:
            return
        kind = self.draws.choice(KINDS)
        with suppress(subprocess.CalledProcessError):  # the job was quicker
            if getattr(self, kind)(self.draws.choice(jobs)) is not False:
                self.counts[kind] += 1

    def restore(self) -> None:
        """Give jobs whose time was cut their time back, once they wait for their next run."""
        for job in list(self.limited):
            state = slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()
            if state != "RUNNING":
                self.limited.remove(job)
                with suppress(subprocess.CalledProcessError):
                    slurm("scontrol", "update", f"jobid={job}", "timelimit=240")

    def requeue(self, job: str) -> None:
        slurm("scontrol", "requeue", job)

    def preempt(self, job: str) -> None:
        node = slurm("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
        asks = ["--partition=prio", f"--nodelist={node}", "--gpus-per-node=4", "--mem=100"]
        slurm("sbatch", *asks, "--output=/dev/null", "--wrap=sleep 2")

    def kill_supervisor(self, job: str) -> bool:
        return self._kill(job, lambda words: words[1:2] and words[1].endswith("job.py"))

    def kill_worker(self, job: str) -> bool:
        return self._kill(job, lambda words: "forkserver" in " ".join(words))

    def kill_batch_script(self, job: str) -> bool:
        return self._kill(job, lambda words: words[-1:] and words[-1].endswith("slurm_script"))

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
        """SIGKILL a process of a job, by its environment and its words."""
        array, task = (part.encode() for part in job.split("_"))
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                about = (folder / "environ").read_bytes().split(b"\0")
                if {b"SLURM_ARRAY_JOB_ID=" + array, b"SLURM_ARRAY_TASK_ID=" + task} <= {*about}:
                    words = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
                    if meant(words):
                        found.append(int(folder.name))
        if found:
            os.kill(self.draws.choice(found), signal.SIGKILL)
        return bool(found)


KINDS = (
    *("requeue", "preempt", "kill_supervisor", "kill_worker", "kill_batch_script", "time_limit"),
    *("node_away", "disk_full"),
)


@pytest.mark.slow
def test_a_sweep_with_two_dozen_faults_equals_an_undisturbed_one(disk: SmallDisk, run: Run) -> None:
    began = time.monotonic()
    run(*run.patient(0.005), *WORDS)
    print(f"\nfrom command to prompt: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    assert run.wait(limit=900) == 0, run("status", str(run.sweep), status=None)
    print(f"undisturbed: {time.monotonic() - began:.0f} s")

    disturbed = Run(disk.folder)
    faults = Faults(disturbed, disk, random.Random(0))
    began, resumed = time.monotonic(), 0
    disturbed(*disturbed.patient(0.005), *WORDS)
    status = 3
    while status != 0 and time.monotonic() - began < 1500:
        if sum(faults.counts.values()) < FAULTS:
            faults.inject()
        faults.restore()
        time.sleep(faults.draws.uniform(1, 6))
        disturbed("status", str(disturbed.sweep), status=None)
        status = disturbed.status
        if (
            status == 1
        ):  # a killed batch script is a failed job, and what waited for it is cancelled
            disturbed("resume", str(disturbed.sweep), status=None)
            resumed += 1
    counts = dict(faults.counts)
    print(f"{time.monotonic() - began:.0f} s with {sum(counts.values())} faults: {counts}")
    computed = disturbed.computed()
    twice = [unit for unit, count in computed.items() if count > 1]
    print(f"resumed {resumed} times; {len(computed)} units computed, {len(twice)} of them twice")
    assert status == 0, disturbed("status", str(disturbed.sweep), status=None)
    assert sum(counts.values()) >= 20
    assert not twice
    assert len(computed) == 5 + 5 * 3 * 8
    assert disturbed.results() == run.results()


def test_a_disk_that_is_full_for_more_than_a_minute_is_waited_for(
    disk: SmallDisk, run: Run
) -> None:
    words = [*SMALL, *JOB, "mask_criterion=large_final", "seed=0,1", "hydra.launcher.jobs=1"]
    long = ["recipe.length=100ep", "checkpoint_every=1", "hydra.launcher.canary=false"]
    undisturbed, disturbed = run, Run(disk.folder)
    for each in (undisturbed, disturbed):
        each(*each.patient(0.01), *words, *long)
    while not list(disturbed.root.glob("tickets/*/*.partial-*")):
        time.sleep(0.2)
    disk.fill()
    time.sleep(70)
    disk.make_room()
    assert disturbed.wait() == 0, disturbed("status", str(disturbed.sweep), status=None)
    said = "".join(path.read_text() for path in disturbed.sweep.glob("slurm/*.out"))
    assert "Traceback" not in said and "halved" not in said
    assert set(disturbed.computed().values()) == {1}
    assert undisturbed.wait() == 0
    assert disturbed.results() == undisturbed.results()
