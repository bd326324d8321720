"""The local launcher: run a sweep's packs in processes on this machine's GPUs or cores."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.spelling import listed
from lt_sweeps.execution.forking import gpu_fault, may_fork, process_context, to_preload
from lt_sweeps.execution.loaded_code import LoadedCode
from lt_sweeps.execution.patience import patiently, say
from lt_sweeps.execution.plan_preview import Estimate, preview, within_budget
from lt_sweeps.execution.progress import ProgressPanel
from lt_sweeps.execution.prune_store import keep_only
from lt_sweeps.execution.run_settings import RunSettings, check_writable
from lt_sweeps.execution.status import Status
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.worker_pool import Workers
from lt_sweeps.plan.cost import Speeds, free_memory, stack_sizes
from lt_sweeps.plan.packing import Pack, packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.reporting.written_report import is_current
from lt_sweeps.storage.manifest import UnitName, cells_by_unit
from lt_sweeps.storage.record import ALL_DIVERGED
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.tracking.mirror_process import mirrored
from lt_sweeps.training.arithmetic import Arithmetic

_LINES = 5  # an error names at most this many lines of the report
_NOT_BEGUN = "not started, because an earlier level that they need failed"


def launch(cells: Sequence[Cell], *, whole: bool = True, words: Sequence[str] = ()) -> int:
    """Run the cells until they are complete and write the report; return the exit status.

    Stored results are not computed again, so the same command continues an interrupted sweep.

    Args:
        whole: whether these are all cells that the person asked for; only then are the lines of
            the report and the typed keys checked.
        words: the overrides that were typed.
    """
    submission = Submission(plan(cells), RunSettings.of(cells, words=words))
    if whole:
        submission.check_asked()
    return run_missing(submission)


def run_missing(submission: Submission) -> int:
    """Run the missing units of a submission; return the exit status."""
    settings, cells, code = submission.settings, submission.plan.cells, LoadedCode.now()
    devices, console = _devices(settings.device, settings.workers), Console()
    here, memory = _about(devices, submission.arithmetics)
    submission.try_out(devices[0])
    todo = _todo(submission, devices, memory)
    estimate = Estimate.of(todo, Speeds.of(settings.root), device=here, at_once=len(devices))
    console.print(preview(submission.plan, todo, estimate, sweep=submission.folder))
    within_budget(estimate, settings.budget)
    check_writable(settings.root)
    if settings.dry_run:
        return 0
    submission.prepare_data(submission.plan.units)
    submission.check_splits([unit for pack in todo for unit in pack.units])
    sweep = submission.freeze(todo)
    with mirrored(sweep.folder, cells[0].cell.config["tracker"]):
        failed, again = _run(sweep, todo, devices, code, console)
        if again:  # corrupt tickets were set aside and count as missing now
            todo = _todo(submission, devices, memory)
            failed, _ = _run(submission.freeze(todo), todo, devices, code, console)
        complete = submission.write_records()
    part = settings.search is not None  # other trials continue this sweep: see `end_search`
    if not part and complete:  # with no complete cell, empty tables would hide the failures
        patiently("report", lambda: _report(sweep.folder, console, anew=bool(todo)))
    return _ended(submission.sweep, failed, complete, len(cells), None if part else settings.keep)


def _ended(
    sweep: SweepFolder, failed: Mapping[UnitName, str], complete: int, cells: int, keep: str | None
) -> int:
    """Print the failures, and drop the tickets that are not kept; return the exit status.

    Args:
        failed: the reason why each unit failed.
        complete: the number of complete cells, of `cells` in all.
        keep: which tickets to keep; None: the sweep goes on with other trials, so drop nothing.
    """
    for line in _reasons(sweep, failed):
        say(f"error: {line}")
    if complete < cells:
        say(f"error: {cells - complete} of {cells} cells unfinished")
    diverged = keep is not None and Status.of(sweep).diverged
    if diverged:
        say(f"error: {ALL_DIVERGED}")
    if failed or complete < cells:
        return 1
    for line in keep_only(sweep, keep) if keep else ():
        say(line)
    return int(diverged)


def end_search(folder: Path, keep: str) -> None:
    """Report the sweep that a search's trials have joined, and drop tickets it does not keep."""
    sweep = SweepFolder(folder)
    if sweep.exists and any(folder.parent.parent.glob("runs/*/*/records.jsonl")):
        patiently("report", lambda: _report(folder, Console(), anew=False))
        for line in keep_only(sweep, keep):
            say(line)


def _todo(submission: Submission, devices: Sequence[str], memory: int) -> list[Pack]:
    """Unfinished packs of an interrupted sweep, and new packs for all other missing units."""
    left, new = submission.unfinished(submission.missing())
    sizes = stack_sizes(new, submission.settings.stack_size, memory=memory)
    return left + packs(new, stack_size=sizes, workers=len(devices))


def _run(
    sweep: SweepFolder,
    todo: Sequence[Pack],
    devices: Sequence[str],
    code: LoadedCode,
    console: Console,
) -> tuple[dict[UnitName, str], bool]:
    """Train all packs; return the reason of each failed unit, and whether to plan again."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM saves, like Ctrl-C
    frozen = sweep.packs([pack.name for pack in todo])
    who = f"local-{socket.gethostname()}-{os.getpid()}"
    with ProgressPanel(sweep, frozen, console) as panel:
        workers = Workers(
            sweep, frozen, devices, code=code, who=who, panel=panel, preload=to_preload()
        )
        workers.run()
    return workers.failed, bool(workers.again)


def _report(folder: Path, console: Console, *, anew: bool) -> None:
    """Write the report of a sweep, unless nothing was computed and its report is up to date."""
    if not anew and is_current(folder):
        page = folder / "report" / "index.html"
        line = f"nothing has changed since {page if page.exists() else page.parent} was written"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    console.print("writing the report ...")
    from lt_sweeps.reporting.sweep_report import (
        report,  # imported here: its libraries take seconds to load, and `plan` does without them
    )

    report(folder, console=console, trust=None)  # the sweep's own functions have run already


def _reasons(sweep: SweepFolder, failed: Mapping[UnitName, str]) -> list[str]:
    """One line per reason: the lines of the report, the levels and the seeds that failed."""
    notes, stages = sweep.failures(), sweep.manifest.stages
    lines_of = _lines_of(sweep) if failed else {}
    # Units that were not started are grouped: each of their reasons names another level or seed.
    begun = {unit for unit in failed if sweep.needs(unit).isdisjoint(failed)}
    alike = {unit: why if unit in begun else _NOT_BEGUN for unit, why in failed.items()}
    lines = []
    for reason, members in group_by(failed, alike.__getitem__).items():
        levels = sorted({stages[key].level for key, _ in members})
        seeds = sorted({seed for _, seed in members})
        log = notes[members[0]].log if members[0] in notes else ""
        trace = "" if reason == _NOT_BEGUN or not Path(log).exists() else f" (see {log})"
        called = dict.fromkeys(line for unit in members for line in lines_of.get(unit, ()))
        which = ", ".join([*called][:_LINES]) + (", ..." if len(called) > _LINES else "")
        about = f"level {', '.join(map(str, levels))} of seed {', '.join(seeds)}"
        lines.append(f"{which}: {about}: {reason}{trace}")
    return lines


def _lines_of(sweep: SweepFolder) -> dict[UnitName, list[str]]:
    """The lines of the report that need each unit."""
    from lt_sweeps.analysis.sweep_analysis import line_names

    names, by_unit = line_names(sweep), cells_by_unit(sweep.manifest.cells)
    return {unit: [names[number] for number in numbers] for unit, numbers in by_unit.items()}


def _about(devices: Sequence[str], arithmetics: Collection[Arithmetic] = ()) -> tuple[str, int]:
    """Return the first device's name, and the bytes for each process on the fullest device.

    Raises: ValueError: a device cannot be used, or lacks one of these precisions.
    """
    if devices[0] == "cpu":
        found = [_about_device("cpu", arithmetics)]
    else:
        # Another process looks at the GPUs, because that starts CUDA. CUDA would hold GPU memory
        # until this process ends, and forks of this process could not use CUDA any more.
        asked = partial(_about_device, arithmetics=arithmetics)
        with ProcessPoolExecutor(1, process_context(devices[0])) as other, may_fork():
            try:
                found = list(other.map(asked, dict.fromkeys(devices)))
            except ValueError as error:  # drop the traceback of the other process
                raise ValueError(str(error)) from None
    free = dict(zip(dict.fromkeys(devices), (each for _, each in found), strict=False))
    most, least = max(free, key=free.__getitem__), min(free, key=free.__getitem__)
    if free[least] < free[most] / 2:  # on a shared machine, other people's work may fill a GPU
        say(
            f"{least} has {free[least] / 2**30:.1f} GiB free, and {most} {free[most] / 2**30:.1f}: "
            "all stacks are sized for the former; CUDA_VISIBLE_DEVICES can leave it out"
        )
    return found[0][0], free[least] // max(map(devices.count, devices))


def _about_device(device: str, arithmetics: Collection[Arithmetic]) -> tuple[str, int]:
    if device != "cpu" and (fault := gpu_fault(device)):
        raise ValueError(
            f"device: {device} is here, and this torch ({torch.__version__}) cannot use it: "
            f"{fault}; leave it out (CUDA_VISIBLE_DEVICES), give device=cpu, or install a torch "
            "that fits the GPU and its driver"
        )
    for arithmetic in arithmetics:
        arithmetic.check(torch.device(device))
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    return name, free_memory(device)


def _devices(device: str, workers: int | None) -> tuple[str, ...]:
    """The device of each worker: one worker per GPU or per core, unless `workers` is given."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and gpus:
        return tuple(itertools.islice(itertools.cycle(gpus), workers or len(gpus)))
    if device in gpus:
        return (device,) * (workers or 1)
    if device != "cpu":
        raise ValueError(
            f"device: got {device!r}, which this machine lacks; there are "
            f"{listed(['auto', 'cpu', *gpus])}"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ("cpu",) * (workers or cores or 1)
