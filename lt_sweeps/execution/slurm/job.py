"""The body of a Slurm job: its packs of a sweep, from the frozen manifest alone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lt_sweeps.execution.slurm.squeue import Batch, end
from lt_sweeps.execution.worker_pool import STOPPED, Workers
from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.tracking.mirror_process import mirrored

_ASKING = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


def run_task(arguments: Sequence[str] | None = None) -> int:
    """Run one task of an array: `job.py SWEEP BATCH TASK`.

    Returns the exit status: 0, 1 where something failed, or 75 where the job was stopped.
    """
    folder, number, task = sys.argv[1:] if arguments is None else arguments
    signals: list[int] = []
    for each in _ASKING:
        signal.signal(each, lambda number, _: signals.append(number))
    parent, sweep = os.getppid(), SweepFolder(Path(folder))
    batch = Batch.read(sweep, int(number))
    packs, known = sweep.packs(batch.tasks[int(task)]), sweep.failures()
    with tempfile.TemporaryDirectory() as scratch:
        workers = Workers(
            sweep,
            packs,
            _devices(batch.device, 1 if batch.canary else batch.processes),
            who=batch.who(int(task)),
            panel=_Lines(),
            preload=batch.preload,
            scratch=Path(scratch) if batch.canary else None,
            host=socket.gethostname(),
            job=os.environ.get("SLURM_JOB_ID"),
        )
        tracker = {} if batch.canary else sweep.manifest.cells[0].config.get("tracker", {})
        with mirrored(sweep.folder, tracker, hurried=lambda: bool(signals)):
            # The parent is `job.sh`, which requeues this job. Without it nobody would: then save
            # and stop, and leave the rest to the next job.
            seen_through = workers.run(lambda: bool(signals) or os.getppid() != parent)
    if not seen_through:
        return STOPPED
    # Jobs wait for one another with `afterok`: Slurm cancels every job that waits for a job which
    # failed. A unit that had failed before this job began (in the canary, or in an earlier job)
    # must not have that effect, because the waiting jobs also hold units that do not need it. So
    # a job that others wait for does not count such failures in its exit status; only failures
    # that are new in this job count. A job that nobody waits for counts all failures, old and
    # new, so a sweep with a failed unit still ends with a failed job that `sacct` shows.
    excused = known if batch.waited_for[int(task)] else {}
    failed = {unit: why for unit, why in workers.failed.items() if unit not in excused}
    status = _result(sweep, packs, failed, canary=batch.canary)
    end(sweep, batch.number, int(task), status)
    return status


def _result(
    sweep: SweepFolder,
    packs: Sequence[FrozenPack],
    failed: Mapping[UnitName, str],
    *,
    canary: bool,
) -> int:
    """The exit status, by which Slurm judges the job: 1 where something failed.

    A canary fails only if every one of its units failed; otherwise the jobs behind it start.
    """
    mine = [unit for pack in packs for unit in pack.units]
    broken = [unit for unit in mine if unit in failed]
    for unit in broken:
        _say(f"error: {'/'.join(unit)}: {failed[unit]}")
    if canary:
        _spread(sweep, broken, failed)
        return int(len(broken) == len(mine))
    return int(bool(broken))


def _spread(
    sweep: SweepFolder, broken: Sequence[UnitName], reasons: Mapping[UnitName, str]
) -> None:
    """Note a failure of the canary for every seed: seeds differ only in their random draws."""
    found = {key: reasons[key, seed] for key, seed in broken}
    for cell in sweep.manifest.cells:
        for key in cell.stages:
            if key in found:
                sweep.fail((key, cell.seed), f"canary: {found[key]}", "canary")


def _devices(device: str, processes: int) -> list[str]:
    """An entry per process: `processes` on each GPU of the job, or on its cores."""
    if device == "cpu":
        return ["cpu"] * processes
    gpus = len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
    return [f"cuda:{number}" for _ in range(processes) for number in range(gpus)]


class _Lines:
    """A line in the job's output for every pack that starts or ends."""

    def start(self, pack: FrozenPack) -> None:
        _say(f"{pack.name}: {len(pack.units)} units")

    def step(self, pack: FrozenPack, step: int) -> None:
        pass

    def stop(self, pack: FrozenPack, *, done: bool) -> None:
        _say(f"{pack.name}: {'done' if done else 'not done'}")


def _say(line: str) -> None:
    with suppress(OSError):  # no room for it; the work goes on
        print(line, flush=True)
