"""The arrays that were submitted for a sweep, and their tasks that are still in Slurm's queue.

<sweep>/jobs/<number>.json               an array: its name and id in Slurm, its tasks' packs
             over-<number>.<task>        the exit status of a task that ended by itself
             requeues-<number>.<task>    how often a task was requeued at the time limit
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lt_sweeps.config.identity import digest
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.checked_read import DamagedFile, read_file, read_json
from lt_sweeps.storage.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Batch:
    """One array of jobs."""

    number: int
    name: str  # in Slurm's queue
    tasks: list[list[str]]  # the names of each task's packs
    device: str
    processes: int
    preload: list[str]  # modules that the worker processes of the tasks need
    waited_for: list[bool]  # per task: whether other jobs wait for it
    canary: bool = False
    code: str = ""  # the folder of the copy of the code that its jobs run
    id: str | None = None  # Slurm's id; None if submitting failed or ended before the id was saved

    def write(self, sweep: SweepFolder) -> None:
        path = sweep.folder / "jobs" / f"{self.number}.json"
        write_whole(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, sweep: SweepFolder, number: int) -> Batch:
        return _read(sweep.folder / "jobs" / f"{number}.json")

    def who(self, task: int) -> str:
        """The name of a task in its heartbeats."""
        return f"{self.number}.{task}"


def batches(sweep: SweepFolder) -> list[Batch]:
    """All arrays that were submitted for a sweep, in the order of submission."""
    return sorted(map(_read, _notes(sweep)), key=lambda batch: batch.number)


def _notes(sweep: SweepFolder) -> Iterator[Path]:
    return (sweep.folder / "jobs").glob("*.json")


def _read(path: Path) -> Batch:
    """Read the file of an array. Raises: ValueError: the file is damaged."""
    try:
        return read_json(path, Batch)
    except DamagedFile as error:
        raise ValueError(f"{error}; delete it, and cancel its jobs with `scancel`") from None


def job_name(sweep: SweepFolder, number: int) -> str:
    """An array's name in the queue: unique to the sweep, even if folders have the same name."""
    return f"lt-{sweep.folder.name}-{digest(str(sweep.folder.resolve()))[:6]}.{number}"


def end(sweep: SweepFolder, number: int, task: int, status: int) -> None:
    """Record that a task has ended by itself, with its exit status."""
    with suppress(OSError):
        write_whole(sweep.folder / "jobs" / f"over-{number}.{task}", f"{status}\n".encode())


def over(sweep: SweepFolder) -> dict[tuple[int, int], int]:
    """The exit status of the tasks that ended by themselves, by array and task."""
    statuses = {}
    for path in (sweep.folder / "jobs").glob("over-*"):
        with suppress(ValueError):  # ignore a damaged file; Slurm's queue will tell
            number, _, task = path.name.removeprefix("over-").partition(".")
            statuses[int(number), int(task)] = int(read_file(path))
    return statuses


def output(sweep: SweepFolder, batch: Batch, task: int) -> Path:
    """The file that Slurm writes the output of a task to."""
    return sweep.folder / "slurm" / f"{batch.id}_{task}_0_log.out"


def has_slurm() -> bool:
    return shutil.which("squeue") is not None


def check_slurm() -> None:
    """Raises: ValueError: this machine lacks a program of Slurm that submitting jobs needs."""
    for program in ("sbatch", "scontrol", "squeue"):
        if shutil.which(program) is None:
            raise ValueError(
                f"hydra/launcher: slurm: no program `{program}` on PATH; submit from the cluster; "
                "hint: leave out hydra/launcher=slurm to run here"
            )


class Queued(NamedTuple):
    """A task in Slurm's queue; `reason` is Slurm's word for why it waits."""

    state: str
    id: str
    reason: str


def queued(sweep: SweepFolder, *, timeout: float = 60) -> dict[tuple[int, int], Queued]:
    """Return the tasks of a sweep that are in Slurm's queue, by array and task number.

    Tasks are found by the name of their array.

    Raises:
        ValueError: Slurm's controller does not answer.
    """
    # If this root was copied, its job files are about the jobs of the original root. Those have
    # other names, because a name depends on the folder's path, so they are not taken for ours.
    numbers = {job_name(sweep, batch.number): batch.number for batch in batches(sweep)}
    if not numbers:
        return {}
    found: dict[tuple[int, int], Queued] = {}
    command = ["squeue", "--noheader", "--array", f"--user={','.join(_users(sweep))}"]
    command += ["--format=%F|%K|%T|%j|%r"]
    for line in _answer(command, timeout).splitlines():
        job, task, state, name, reason = line.split("|", 4)
        if name in numbers and task.isdigit() and state not in _OVER:
            found[numbers[name], int(task)] = Queued(state, f"{job}_{task}", reason)
    return found


def cancel(sweep: SweepFolder) -> int:
    """Cancel the jobs of this sweep and no others; return the number of tasks."""
    tasks = queued(sweep)
    if ids := sorted({task.id.partition("_")[0] for task in tasks.values()}):
        _answer(["scancel", *ids], 60)
    return len(tasks)


def withdraw(sweep: SweepFolder, id: str) -> None:
    """Cancel the array with this id, and mark it as not submitted."""
    with suppress(ValueError):  # Slurm does not answer: the array will run for nothing
        _answer(["scancel", id], 60)
        for batch in batches(sweep):
            if batch.id == id:
                replace(batch, id=None).write(sweep)


def _users(sweep: SweepFolder) -> list[str]:
    """The ids of users who may have jobs of this sweep: this user, and the owners of job files."""
    owners = {path.stat().st_uid for path in _notes(sweep)}
    return sorted(map(str, owners | {os.getuid()}))


# States of jobs that have ended; `squeue` still lists such jobs for a while.
_OVER = {
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"),
    *("DEADLINE", "OUT_OF_MEMORY"),
}


_UNREACHABLE = re.compile(r"contact|connect|socket timed out|timed out after", re.IGNORECASE)


def _answer(command: Sequence[str], timeout: float) -> str:
    """Return the output of a Slurm command.

    A command that fails is tried three times, because the controller may be busy. One that is
    silent for `timeout` seconds is not tried again, because a person waits.
    """
    message = ""
    for _ in range(3):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            message = str(error)
            break
        except OSError as error:
            message = str(error)
            continue
        if done.returncode == 0:
            return done.stdout
        message = " ".join(done.stderr.split())
    silent = "the controller does not answer: " if _UNREACHABLE.search(message) else ""
    raise ValueError(f"slurm: {silent}`{command[0]}` failed, at last with: {message}")


def setting(name: str) -> str | None:
    """The value of a setting of the cluster, such as `MaxArraySize`; None if it is not set."""
    for line in _answer(["scontrol", "show", "config"], 60).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return None
