"""The program of a Slurm job: train the job's packs as the sweep's frozen manifest says."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from lt_sweeps.analysis.record_audit import audited_cells
from lt_sweeps.execution.loaded_code import ChangedCode, LoadedCode, job_code
from lt_sweeps.execution.patience import OutOfPatience, drain, patiently, say
from lt_sweeps.execution.pool_process import STOP_SIGNALS
from lt_sweeps.execution.prune_store import keep_only
from lt_sweeps.execution.slurm.code_snapshot import only_from, unload_users_modules
from lt_sweeps.execution.slurm.squeue import Batch, end
from lt_sweeps.execution.status import Status
from lt_sweeps.execution.worker_pool import STOPPED, NoGpu, Workers
from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.record import ALL_DIVERGED
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_file import ticket_path
from lt_sweeps.tracking.mirror_process import mirrored


def run_task(arguments: Sequence[str] | None = None) -> int:
    """Run one task of an array: `job.py SWEEP BATCH TASK`.

    Returns the exit status: 0 for success, 1 if a unit failed, 75 if the job was told to stop.
    """
    folder, number, task = sys.argv[1:] if arguments is None else arguments
    stop_signals: list[int] = []
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, lambda number, _: stop_signals.append(number))
    parent, sweep = os.getppid(), SweepFolder(Path(folder))
    batch = Batch.read(sweep, int(number))
    try:
        status = _train(sweep, batch, int(task), lambda: bool(stop_signals), parent)
    except (ChangedCode, OutOfPatience) as error:
        status = _given_up(sweep, batch.tasks[int(task)], str(error))
    except NoGpu as error:  # the node is at fault: no unit has failed, and the job counts as lost
        say(f"error: {error}")
        drain()
        return 1
    if status != STOPPED:
        end(sweep, batch.number, int(task), status)
    drain()
    return status


def _train(
    sweep: SweepFolder, batch: Batch, task: int, stopped: Callable[[], bool], parent: int
) -> int:
    code = _code_of(Path(batch.code))
    packs, known = sweep.packs(batch.tasks[task]), sweep.failures()
    with patiently("scratch", tempfile.TemporaryDirectory) as scratch:
        workers = Workers(
            sweep,
            packs,
            _devices(batch.device, 1 if batch.canary else batch.processes),
            code=code,
            who=batch.who(task),
            panel=_Lines(),
            preload=batch.preload,
            scratch=Path(scratch) if batch.canary else None,
            job=_id_in_slurm(),
        )
        tracker = {} if batch.canary else sweep.manifest.cells[0].config.get("tracker", {})
        with mirrored(sweep.folder, tracker, hurried=stopped):
            # The parent, job.sh, requeues the job. If it has died, save and stop.
            finished = workers.run(lambda: stopped() or os.getppid() != parent)
    return _ended(sweep, batch, task, packs, workers.failed, known) if finished else STOPPED


def _code_of(copy: Path) -> LoadedCode:
    """Let this process import user-defined code from the copy only.

    Raises: ChangedCode: this process runs other code, or the copy was edited.
    """
    # A cluster's `sitecustomize` runs before this program, and may have imported anything.
    unload_users_modules()
    code = job_code(copy)
    only_from(copy)
    return code


def _ended(
    sweep: SweepFolder,
    batch: Batch,
    task: int,
    packs: Sequence[FrozenPack],
    failed: Mapping[UnitName, str],
    known: Collection[UnitName],
) -> int:
    """Print and record the failed units; return the exit status.

    Args:
        known: the units that had failed before the job started.
    """
    # Slurm cancels every job that waits for a failed job (`afterok`), including work that does not
    # need the failed unit. So a job that other jobs wait for does not fail because of failures that
    # were known when it started: those of the canary and of earlier jobs. It skips the failed
    # units. The last jobs, which no job waits for, report them, so a sweep with a failed unit ends
    # with a failed job that `sacct` shows. A new failure makes any job fail.
    #
    # Example: the criterion `luck` fails in the canary. Job A holds the dense run and level 1 of
    # `luck`, job B level 2 of `luck`, job C the levels of `random`; B and C wait for A. A trains
    # the dense run, skips `luck` and exits with 0, so C can run. B skips level 2 and exits with 1,
    # so Slurm shows FAILED. Had A exited with 1, Slurm would have cancelled C.
    excused = known if batch.waited_for[task] else ()
    new = {unit: reason for unit, reason in failed.items() if unit not in excused}
    status = _result(sweep, packs, new, canary=batch.canary)
    if batch.canary or batch.waited_for[task]:
        return status
    now = Status.of(sweep)
    if len(now.finished) == len(now.cells):
        keep = sweep.manifest.cells[0].config.get("keep", "all")
        for line in patiently("store", lambda: keep_only(sweep, keep)):
            say(line)
    if now.diverged:
        say(f"error: {ALL_DIVERGED}")
        return 1
    return status


def _given_up(sweep: SweepFolder, packs: Sequence[str], reason: str) -> int:
    """Print and record why the job cannot continue; return the exit status."""
    say(f"error: {reason}")
    for pack in sweep.packs(packs):
        for key, seed in pack.units:
            if not ticket_path(sweep.root, key, seed).exists():
                sweep.fail((key, seed), reason, pack.name)
    return 1


def _result(
    sweep: SweepFolder, packs: Sequence[FrozenPack], failed: Mapping[UnitName, str], *, canary: bool
) -> int:
    """Print and record the failures; return the exit status: 1 if a unit of the job failed.

    All jobs wait for the canary, so the canary fails only if all of its units fail.
    """
    mine = [unit for pack in packs for unit in pack.units]
    broken = [unit for unit in mine if unit in failed]
    for unit in broken:
        say(f"error: {'/'.join(unit)}: {failed[unit]}")
    if canary:
        _spread(sweep, broken, failed)
        return int(len(broken) == len(mine))
    advanced = {sweep.manifest.cells[number].name for pack in packs for number in pack.cells}
    say(audited_cells(sweep.folder, cells=advanced)[0])
    return int(bool(broken))


def _spread(
    sweep: SweepFolder, broken: Sequence[UnitName], reasons: Mapping[UnitName, str]
) -> None:
    """Record the canary's failures for all seeds: seeds differ only in their random draws."""
    reason_of = {key: reasons[key, seed] for key, seed in broken}
    for cell in sweep.manifest.cells:
        for key in cell.stages:
            if key in reason_of:
                sweep.fail((key, cell.seed), f"canary: {reason_of[key]}", "canary")


def _id_in_slurm() -> str | None:
    """The id of this task. In an array's last task, `SLURM_JOB_ID` is the id of the whole array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _devices(device: str, processes: int) -> list[str]:
    """The device of each worker process: `processes` workers on each GPU, or on the CPU."""
    if device == "cpu":
        return ["cpu"] * processes
    gpus = len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
    return [f"cuda:{number}" for _ in range(processes) for number in range(gpus)]


class _Lines:
    """A panel that prints a line to the job's output when a pack starts or ends."""

    def start(self, pack: FrozenPack) -> None:
        say(f"{pack.name}: {len(pack.units)} units")

    def step(self, pack: FrozenPack, step: int) -> None:
        pass

    def stop(self, pack: FrozenPack, *, done: bool) -> None:
        say(f"{pack.name}: {'done' if done else 'not done'}")
