"""The queue: what of a sweep has been submitted, and what Slurm still holds of it.

<sweep>/jobs/<number>.json    an array of jobs: its name in Slurm, its id, its tasks' packs
"""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lt_sweeps.config.call import digest
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Batch:
    """One array of jobs."""

    number: int
    name: str  # in Slurm's queue
    tasks: list[list[str]]  # the packs of each
    device: str
    processes: int
    preload: list[str]  # modules that the tasks' processes will need
    waited_for: list[bool]  # whether other jobs wait for each
    canary: bool = False
    id: str | None = None  # Slurm's; None if whoever submitted it died before it could be noted

    def write(self, sweep: SweepFolder) -> None:
        path = sweep.folder / "jobs" / f"{self.number}.json"
        write_whole(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, sweep: SweepFolder, number: int) -> Batch:
        return cls(**json.loads((sweep.folder / "jobs" / f"{number}.json").read_text()))

    def who(self, task: int) -> str:
        """What a task is called where it says that it is at work."""
        return f"{self.number}.{task}"


def batches(sweep: SweepFolder) -> list[Batch]:
    """All that was submitted of a sweep, the first first."""
    found = [json.loads(path.read_text()) for path in (sweep.folder / "jobs").glob("*.json")]
    return sorted((Batch(**each) for each in found), key=lambda batch: batch.number)


def job_name(sweep: SweepFolder, number: int) -> str:
    """An array's name in the queue: no other sweep's, whatever folder that lies in."""
    return f"lt-{sweep.folder.name}-{digest(str(sweep.folder.resolve()))[:6]}.{number}"


def end(sweep: SweepFolder, number: int, task: int, status: int) -> None:
    """Note that a task has ended by itself."""
    with suppress(OSError):
        write_whole(sweep.folder / "jobs" / f"over-{number}.{task}", f"{status}\n".encode())


def over(sweep: SweepFolder) -> dict[tuple[int, int], int]:
    """The tasks that ended by themselves, and with which status."""
    found = {}
    for path in (sweep.folder / "jobs").glob("over-*"):
        number, _, task = path.name.removeprefix("over-").partition(".")
        found[int(number), int(task)] = int(path.read_text())
    return found


def output(sweep: SweepFolder, batch: Batch, task: int) -> Path:
    """Where Slurm writes what a task says."""
    return sweep.folder / "slurm" / f"{batch.id}_{task}_0_log.out"


def has_slurm() -> bool:
    return shutil.which("squeue") is not None


def queued(sweep: SweepFolder, *, timeout: float = 60) -> dict[tuple[int, int], tuple[str, str]]:
    """The tasks that Slurm holds, by array and task: their state and id. Found by their name.

    Raises:
        ValueError: the controller does not answer.
    """
    return {
        (number, task): (state, f"{job}_{task}")
        for number, task, state, job in _held(sweep, timeout)
    }


def cancel(sweep: SweepFolder) -> int:
    """Cancel exactly this sweep's jobs; returns how many tasks there were."""
    held = list(_held(sweep, 60))
    if ids := sorted({job for *_, job in held}):
        _answer(["scancel", *ids], 60)
    return len(held)


def _held(sweep: SweepFolder, timeout: float) -> Iterator[tuple[int, int, str, str]]:
    names = {batch.name: batch for batch in batches(sweep)}
    if not names:
        return
    words = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}"]
    for line in _answer([*words, "--format=%F %K %T %j"], timeout).splitlines():
        job, task, state, name = line.split(maxsplit=3)
        if name in names and task.isdigit() and state not in _OVER:
            yield names[name].number, int(task), state, job


# States of jobs that are shown for a while after their end.
_OVER = {
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"),
    *("DEADLINE", "OUT_OF_MEMORY"),
}


def _answer(words: Sequence[str], timeout: float) -> str:
    """What Slurm says. It may be busy or starting again: a few tries."""
    said = ""
    for _ in range(3):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split())
    raise ValueError(f"slurm: `{words[0]}` does not answer: {said}")


def setting(name: str) -> str | None:
    """One of the cluster's settings."""
    for line in _answer(["scontrol", "show", "config"], 60).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return None
