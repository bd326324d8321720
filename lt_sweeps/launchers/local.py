"""The local launcher: a sweep's packs in fresh processes over this machine's GPUs or cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lt_sweeps.beside import beside
from lt_sweeps.cells import Cell
from lt_sweeps.cost import Speeds, stack_size
from lt_sweeps.launchers.preview import preview
from lt_sweeps.launchers.progress import Panel
from lt_sweeps.lowerings import LOWERINGS
from lt_sweeps.plan import Pack, Plan, dependencies, packs, plan
from lt_sweeps.resolve import Missing
from lt_sweeps.store import CorruptTicket, Store
from lt_sweeps.sweep import Sweep, code_version, find, freeze, unfinished, work, write_records
from lt_sweeps.trackers import tracker
from lt_sweeps.training import Interrupted, Machine

# How a pack's process ends when nothing is wrong with the pack itself.
_STOPPED = 75  # it was asked to stop, and saved itself
_REPLAN = "a ticket it stands on was corrupt; it is computed again"
_AGAIN = 76  # a ticket it stands on proved corrupt and was set aside: plan again


@dataclass(frozen=True)
class Local:
    """This machine, as a multirun's config asks for it."""

    root: Path
    devices: tuple[str, ...]
    machine: Machine
    stack_size: int | None
    name: str | None

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Local:
        """Raises: ValueError: cells that disagree, or a device that is not here."""
        config = cells[0].config
        keys = ("root", "device", "workers", "stack_size", "lowering", "checkpoint_every", "name")
        for key in (*keys, "tracker"):
            if any(cell.config[key] != config[key] for cell in cells):
                raise ValueError(f"{key}: one value for all cells of a multirun")
        if config["lowering"] not in LOWERINGS:
            raise ValueError(f"lowering: {config['lowering']!r}; it is one of {list(LOWERINGS)}")
        for key in ("root", "data_dir"):
            if not isinstance(config[key], str):
                raise ValueError(f"{key}: {config[key]!r} is no folder")
        if not isinstance(config["dry_run"], bool):
            raise ValueError(f"dry_run: {config['dry_run']!r}; it is true or false")
        every = config["checkpoint_every"]
        if isinstance(every, bool) or not isinstance(every, (int, float)) or every < 0:
            raise ValueError(f"checkpoint_every: {every!r}; give seconds, 0 for every step")
        tracker(config["tracker"])
        return cls(
            Path(config["root"]),
            _devices(config["device"], _count("workers", config["workers"])),
            Machine(
                lowering=config["lowering"],
                checkpoint_every=float(every),
                code_version=code_version(),
            ),
            _count("stack_size", config["stack_size"]),
            config["name"],
        )


def launch(cells: Sequence[Cell]) -> int:
    """Run the cells to their end and report; returns the exit status.

    What is stored already is not computed again, so the same words continue an interrupted sweep.
    """
    local, made = Local.of(cells), plan(cells)
    store, console = Store(local.root), Console()
    sweep = find(made, root=local.root, name=local.name)
    todo = _todo(made, sweep, local)
    speeds = Speeds.of(local.root)
    console.print(preview(made, todo, speeds, devices=local.devices, sweep=sweep.folder))
    if cells[0].config["dry_run"]:
        return 0
    for task in {id(u.stage.training.task): u.stage.training.task for u in made.units}.values():
        task.dataset.prepare()
    sweep = freeze(made, todo, local.machine, root=local.root, name=local.name)
    with beside(sweep.folder, cells[0].config["tracker"]):
        failed = _run(sweep, todo, local, speeds, console)
        if any(reason == _REPLAN for reason in failed.values()):
            todo = _todo(made, sweep, local)
            sweep = freeze(made, todo, local.machine, root=local.root, name=local.name)
            failed = _run(sweep, todo, local, speeds, console)
        complete = sum(write_records(each, store) for each in made.cells)
    if complete or any(sweep.root.glob("runs/*/*/records.jsonl")):
        _report(sweep.folder, console)
    for name, reason in failed.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if complete < len(made.cells):
        left = len(made.cells) - complete
        print(f"error: {left} of {len(made.cells)} cells unfinished", file=sys.stderr)
    return 1 if failed or complete < len(made.cells) else 0


def _todo(made: Plan, sweep: Sweep, local: Local) -> list[Pack]:
    """The packs that an interrupted sweep left, and new ones for whatever else is missing."""
    store = Store(local.root)
    left = unfinished(sweep, made, store)
    covered = {unit for pack in left for unit in pack.units}
    missing = [unit for unit in made.missing(store) if unit not in covered]
    return left + packs(missing, stack_size=_sizes(missing, local), workers=len(local.devices))


def _report(folder: Path, console: Console) -> None:
    from lt_sweeps.report import report  # its libraries take seconds, which `plan` need not wait

    report(folder, console=console)


def _run(
    sweep: Sweep, todo: Sequence[Pack], local: Local, speeds: Speeds, console: Console
) -> dict[str, str]:
    """Work on all packs, as many at once as there are devices; returns what failed, and why."""
    if not todo:
        return {}
    context = multiprocessing.get_context("forkserver")
    # Workers are forked from a server that has imported all this, so a fresh one takes 20 ms.
    data = [name for name in ("sklearn.datasets", "torchvision.datasets") if name in sys.modules]
    context.set_forkserver_preload(["lt_sweeps.sweep", "lt_sweeps.cli", *data])
    needs, queue = dependencies(todo), list(todo)
    free, running, failed = list(local.devices), [], {}
    done: set[str] = set()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a signal saves
    with Panel(todo, console) as panel:
        try:
            while queue or running:
                for pack in [p for p in queue if needs[p.name] <= done][: len(free)]:
                    queue.remove(pack)
                    running.append(_Job(context, sweep, pack, free.pop(0)))
                    panel.start(pack)
                for job in _wait(running, panel):
                    running.remove(job)
                    free.append(job.device)
                    panel.stop(job.pack)
                    reason = job.reason()
                    if reason is None:
                        done.add(job.pack.name)
                        first = job.pack.units[0]
                        cost = Store(sweep.root).cost(first.stage.key, first.seed)
                        speeds.learn(first.stage, cost)
                    else:
                        failed[job.pack.name] = reason
                        queue = _without(queue, job.pack, needs, failed)
        except KeyboardInterrupt:
            for job in running:
                job.process.terminate()  # each saves itself, all at the same time
            for job in running:
                job.process.join()
            raise
    return failed


class _Job:
    """One pack in a process of its own."""

    def __init__(self, context: Any, sweep: Sweep, pack: Pack, device: str) -> None:
        self.pack, self.device, self._error = pack, device, ""
        self.receive, send = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=_work, args=(sweep.folder, pack.name, device, send), daemon=True
        )
        self.process.start()
        send.close()

    def messages(self, panel: Panel) -> bool:
        """Pass on what the process says; returns whether it has ended."""
        with suppress(EOFError, ConnectionResetError):
            while self.receive.poll():
                message = self.receive.recv()
                if isinstance(message, int):
                    panel.step(self.pack, message)
                else:
                    self._error = message
            return False
        self.process.join()
        return True

    def reason(self) -> str | None:
        """Why the pack failed, or None."""
        status = self.process.exitcode
        if status == 0:
            return None
        if status == _STOPPED:
            return "stopped; its checkpoint is saved, and the same words continue"
        if status == _AGAIN:
            return _REPLAN
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            return f"killed by {name}; the same words continue from its last checkpoint"
        return self._error or f"exit status {status}"


def _wait(running: Sequence[_Job], panel: Panel) -> list[_Job]:
    wait([job.receive for job in running], timeout=0.5)
    return [job for job in running if job.messages(panel)]


def _without(
    queue: Sequence[Pack], pack: Pack, needs: dict[str, set[str]], failed: dict[str, str]
) -> list[Pack]:
    """The queue without what stands on a failed pack, directly or not."""
    gone = {pack.name}
    while more := {p.name for p in queue if needs[p.name] & gone} - gone:
        gone |= more
    for each in queue:
        if each.name in gone:
            failed[each.name] = f"not begun: it needs {pack.name}"
    return [each for each in queue if each.name not in gone]


def _work(folder: Path, pack: str, device: str, send: Connection) -> None:
    """The body of a pack's process."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends SIGTERM
    if device.startswith("cuda:"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = int(device.removeprefix("cuda:"))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible[0] else str(number)
        device = "cuda"
    torch.set_num_threads(1)

    def tell(step: int) -> None:
        try:
            send.send(step)
        except BrokenPipeError:  # the parent is gone: save, and leave the unit to its next run
            asked.append(signal.SIGPIPE)

    try:
        work(Sweep(folder), pack, device=device, progress=tell, stopped=lambda: bool(asked))
    except Interrupted:
        sys.exit(_STOPPED)
    except (Missing, CorruptTicket):
        sys.exit(_AGAIN)
    except Exception as error:
        log = folder / "logs" / f"{pack}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        with suppress(BrokenPipeError):
            send.send(f"{type(error).__name__}: {error} (traceback in {log})")
        sys.exit(1)


def _devices(device: str, workers: int | None) -> tuple[str, ...]:
    """One entry per worker: a GPU each, or a core."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and gpus:
        return tuple(itertools.islice(itertools.cycle(gpus), workers or len(gpus)))
    if device in gpus:
        return (device,) * (workers or 1)
    if device != "cpu":
        raise ValueError(f"device: {device!r} is not here; there are {['auto', 'cpu', *gpus]}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ("cpu",) * (workers or cores or 1)


def _sizes(missing: Sequence[Any], local: Local) -> dict[str, int]:
    stages = {unit.stage.key: unit.stage for unit in missing}
    if local.stack_size is not None:
        return dict.fromkeys(stages, local.stack_size)
    device = local.devices[0]
    workers = local.devices.count(device)
    return {k: stack_size(stage, device=device, workers=workers) for k, stage in stages.items()}


def _count(key: str, value: Any) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}: {value!r}; give `auto` or a whole number from 1 up")
    return value
