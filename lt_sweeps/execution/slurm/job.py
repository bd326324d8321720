"""The program of a Slurm job: it trains its packs as the sweep's frozen manifest describes them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lt_sweeps.execution.exit_codes import STOPPED
from lt_sweeps.execution.slurm.squeue import end
from lt_sweeps.execution.worker_pool import Workers
from lt_sweeps.storage.sweep_folder import SweepFolder, UnitName, units
from lt_sweeps.tracking.mirror_process import mirrored

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `job.py SWEEP BATCH TASK`.

    Returns the exit status: 0 for success, 1 if a unit failed, 75 if the job was told to stop.
    """
    folder, batch, task = sys.argv[1:] if arguments is None else arguments
    stop_signals: list[int] = []
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda number, _: stop_signals.append(number))
    parent, sweep = os.getppid(), SweepFolder(Path(folder))
    submitted = json.loads((sweep.folder / "jobs" / f"{batch}.json").read_text())
    packs, known = sweep.packs(submitted["tasks"][int(task)]), sweep.failures()
    with tempfile.TemporaryDirectory() as scratch:
        workers = Workers(
            sweep,
            packs,
            _devices(submitted["device"], 1 if submitted["canary"] else submitted["processes"]),
            who=f"{batch}.{task}",
            panel=_Lines(),
            preload=submitted["preload"],
            scratch=Path(scratch) if submitted["canary"] else None,
            host=socket.gethostname(),
            job=os.environ.get("SLURM_JOB_ID"),
        )
        config = sweep.manifest["cells"][0]["config"]
        tracker = {} if submitted["canary"] else config.get("tracker", {})
        with mirrored(sweep.folder, tracker, hurried=lambda: bool(stop_signals)):
            # The parent, job.sh, requeues the job. If it has died, save and stop.
            finished = workers.run(lambda: bool(stop_signals) or os.getppid() != parent)
    if not finished:
        return STOPPED
    # Slurm cancels every job that waits for a failed one, with all of its work that does not need
    # the failed unit. So a job that others wait for does not fail for the failures that were known
    # when it started: those of the canary and of earlier jobs. It leaves the failed units out, and
    # the last jobs, which nothing waits for, report them. A failure that is new counts in each job.
    #
    # Example: the criterion `luck` fails in the canary. Job A holds the dense run and level 1 of
    # `luck`, job B level 2 of `luck`, job C the levels of `random`; B and C wait for A. A trains
    # the dense run, skips `luck` and exits with 0, so C can run. B skips level 2 and exits with 1,
    # so Slurm shows FAILED. Had A exited with 1, Slurm would have cancelled C.
    excused = known if submitted["waited_for"][int(task)] else {}
    failed = {unit: reason for unit, reason in workers.failed.items() if unit not in excused}
    status = _result(sweep, packs, failed, canary=submitted["canary"])
    end(sweep, int(batch), int(task), status)
    return status


def _result(
    sweep: SweepFolder,
    packs: Sequence[Mapping[str, Any]],
    failed: Mapping[UnitName, str],
    *,
    canary: bool,
) -> int:
    """Print and note the failures; returns the exit status: 1 if a unit of the job failed.

    All jobs wait for the canary, so it fails only if none of its units trains.
    """
    mine = [unit for pack in packs for unit in units(pack)]
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
    """Note the canary's failures for all seeds, which differ only in their random draws."""
    found = {key: reasons[key, seed] for key, seed in broken}
    for cell in sweep.manifest["cells"]:
        for key in cell["stages"]:
            if key in found:
                sweep.fail((key, cell["seed"]), f"canary: {found[key]}", "canary")


def _devices(device: str, processes: int) -> list[str]:
    """The device of each process: `processes` of them on each GPU, or on the CPU."""
    if device == "cpu":
        return ["cpu"] * processes
    gpus = len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
    return [f"cuda:{number}" for _ in range(processes) for number in range(gpus)]


class _Lines:
    """Prints a line in the job's output for every pack that starts or ends."""

    def start(self, pack: Mapping[str, Any]) -> None:
        _say(f"{pack['name']}: {len(pack['units'])} units")

    def step(self, pack: Mapping[str, Any], step: int) -> None:
        pass

    def stop(self, pack: Mapping[str, Any], *, done: bool) -> None:
        _say(f"{pack['name']}: {'done' if done else 'not done'}")


def _say(line: str) -> None:
    with suppress(OSError):  # the disk is full; the training goes on
        print(line, flush=True)
