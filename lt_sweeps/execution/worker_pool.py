"""Packs in fresh processes over the devices of one machine, whatever becomes of each process.

What fails is halved and tried again, so a failing unit ends alone, and a stack that does not fit
into memory shrinks until it does. A unit that fails alone is noted with its reason; what stands on
it is not begun, and all else goes on.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.sweep_folder import Heartbeat, PackAtWork, SweepFolder

# How a pack's process ends when nothing is wrong with the pack itself.
STOPPED = 75  # it was asked to stop, and saved itself
AGAIN = 76  # a ticket it stands on is missing, or proved corrupt and was set aside: plan again
STORAGE = 78  # the file system is full, read-only or stale: try again in a while

PATIENCE = 600.0  # seconds for which a file system may be full or stale
_BEAT = 5.0  # seconds between signs of life
_ASKED = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


class Workers:
    """The processes at work on a sweep's packs; `run` sees them through to their end.

    Args:
        packs: frozen packs, those that others stand on first.
        devices: one entry per process at a time.
        who: what this process is called where it says that it is at work; `about` it says more.
        panel: is told of every start, step and end.
        scratch: a folder for two steps of each pack, instead of all of them.
        preload: modules that every process will need.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        packs: Sequence[FrozenPack],
        devices: Sequence[str],
        *,
        who: str,
        panel: Any,
        scratch: Path | None = None,
        preload: Sequence[str] = (),
        host: str,
        job: str | None = None,
    ) -> None:
        self.sweep, self.who, self.panel = sweep, who, panel
        self.host, self.job = host, job
        self.queue = list(packs)
        self.free, self.scratch = list(devices), scratch
        self.preload = ["lt_sweeps.execution.worker_process", *preload]
        self.running: list[_Job] = []
        self.failed: dict[UnitName, str] = {
            unit: failure.reason for unit, failure in sweep.failures().items()
        }
        self.again: set[UnitName] = set()  # to be planned again
        self.context: Any = multiprocessing.get_context("forkserver")
        self._tried: dict[str, int] = {}  # kills by pack
        self._waits: dict[str, tuple[float, float]] = {}  # by pack: next try, and how long by now
        self._beaten = 0.0

    def run(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Work on all packs; returns whether that was seen through, and not stopped."""
        if not self.queue:
            return True
        try:
            while (self.queue or self.running) and not stopped():
                self._start()
                self._beat()
                for job in self._ended():
                    self._end(job)
        except KeyboardInterrupt:
            self.stop()
            raise
        seen_through = not (self.queue or self.running)
        self.stop()
        return seen_through

    def stop(self) -> None:
        """Ask all to stop, and wait: each saves itself, all at the same time."""
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.join()
        self.sweep.rest(self.who)

    def _start(self) -> None:
        for pack in list(self.queue):
            if not self.free:
                return
            if self._waits.get(pack.name, (0.0, 0.0))[0] > time.monotonic():
                continue
            if self._needs(pack) & self._unfinished(but=pack):
                continue
            self.queue.remove(pack)
            if not (left := self._without_failed(pack)):
                continue
            try:
                self.running.append(_Job(self, left, self.free[0]))
            except (EOFError, OSError):  # the server was killed just then; the next is a new one
                self.queue.insert(0, left)
                return
            self.free.pop(0)
            self.panel.start(left)

    def _ended(self) -> list[_Job]:
        if self.running:
            wait([job.receive for job in self.running], timeout=0.5)
        else:
            time.sleep(0.2)  # every pack waits for the file system
        return [job for job in self.running if job.messages(self.panel)]

    def _end(self, job: _Job) -> None:
        self.running.remove(job)
        self.free.append(job.device)
        status, members = job.process.exitcode, job.pack.units
        self.panel.stop(job.pack, done=status == 0)
        if status == 0:
            self._waits.pop(job.pack.name, None)
        elif self._once_more(status, job.pack.name):
            self.queue.insert(0, job.pack)
        elif status == AGAIN:
            self.again |= set(members)
            self._fail(job.pack, members, job.reason())
        elif len(members) > 1:
            print(f"{job.pack.name}: {job.reason()}; halved and tried again", file=sys.stderr)
            self.queue[:0] = self.sweep.halve(job.pack)
        else:
            self._fail(job.pack, members, job.reason())

    def _once_more(self, status: int | None, name: str) -> bool:
        """Whether to try a pack again as it is."""
        # The exit status says whose fault the end was:
        # - STORAGE: the file system's. Try again after a pause, until PATIENCE is used up.
        # - STOPPED: nobody's. The process was asked to stop and saved itself; it continues.
        # - negative: a signal killed it. That may be chance, or the system was out of memory, so
        #   the same pack gets exactly one more try. A second kill is taken for the pack's fault.
        # - None or 255: the server that forked the process was killed, so its real status is
        #   unknown; this is treated as a kill.
        # Any other status is the pack's own failure: `_end` halves it, or notes a lone unit.
        if status == STORAGE:
            return self._may_wait(name)
        killed = status is None or status < 0 or status == 255
        return status == STOPPED or (killed and self._may_try(name))

    def _may_wait(self, name: str) -> bool:
        """Whether there is patience left for the file system; the waits grow to a minute."""
        _, waited = self._waits.get(name, (0.0, 0.0))
        pause = min(60.0, max(2.0, waited))
        self._waits[name] = time.monotonic() + pause, waited + pause
        return waited < PATIENCE

    def _may_try(self, name: str) -> bool:
        """Count a kill of this pack; returns whether it was the first."""
        self._tried[name] = self._tried.get(name, 0) + 1
        return self._tried[name] == 1

    def _fail(self, pack: FrozenPack, members: Sequence[UnitName], reason: str) -> None:
        for unit in members:
            self.failed[unit] = reason
            self.sweep.fail(unit, reason, pack.name)

    def _needs(self, pack: FrozenPack) -> set[UnitName]:
        return {need for unit in pack.units for need in self.sweep.needs(unit)}

    def _unfinished(self, *, but: FrozenPack) -> set[UnitName]:
        others = [*self.queue, *(job.pack for job in self.running)]
        return {unit for pack in others if pack is not but for unit in pack.units}

    def _without_failed(self, pack: FrozenPack) -> FrozenPack | None:
        """The pack without units that failed before, or that stand on one that did."""
        kept = []
        for unit in pack.units:
            broken = sorted(self.sweep.needs(unit) & self.failed.keys())
            if broken:
                level = self.sweep.manifest.stages[broken[0][0]].level
                reason = f"not begun: it needs level {level} of seed {broken[0][1]}"
                self._fail(pack, [unit], reason)
            if unit not in self.failed:
                kept.append(unit)
        if len(kept) == len(pack.units):
            return pack
        return pack.part(kept) if kept else None

    def _beat(self) -> None:
        if time.monotonic() - self._beaten >= _BEAT:
            self._beaten = time.monotonic()
            packs = {j.pack.name: PackAtWork(j.pack.units, j.step) for j in self.running}
            queue = [pack.name for pack in self.queue]
            self.sweep.beat(self.who, Heartbeat(self.host, packs, queue, self.job))


class _Job:
    """One pack in a process of its own."""

    def __init__(self, workers: Workers, pack: FrozenPack, device: str) -> None:
        self.pack, self.device, self._error = pack, device, ""
        sweep, context = workers.sweep, workers.context
        _start_server(context, workers.preload)  # unless it runs
        self.step = sweep.manifest.stages[pack.units[0][0]].start
        self.receive, send = context.Pipe(duplex=False)
        arguments = (sweep.folder, pack, device, workers.scratch, send)
        self.process: BaseProcess = context.Process(target=_body, args=arguments, daemon=True)
        self.process.start()
        send.close()

    def messages(self, panel: Any) -> bool:
        """Pass on what the process says; returns whether it has ended."""
        with suppress(EOFError, ConnectionResetError):
            while self.receive.poll():
                message = self.receive.recv()
                if isinstance(message, int):
                    self.step = message
                    panel.step(self.pack, message)
                else:
                    self._error = message
            return False
        self.process.join()
        return True

    def reason(self) -> str:
        """Why the pack failed."""
        status = self.process.exitcode
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            return f"killed by {name}; the same command continues from its last checkpoint"
        return self._error or f"exit status {status}"


def loaded() -> list[str]:
    """Which libraries of data sets this process has loaded, as its workers will have to."""
    return [name for name in ("sklearn.datasets", "torchvision.datasets") if name in sys.modules]


def _start_server(context: Any, preload: list[str]) -> None:
    """The server that forks workers has imported all they need, so a fresh one takes 20 ms.

    It inherits signals as ignored: Slurm sends them to every process of a job, and the server must
    outlive them.
    """
    context.set_forkserver_preload(preload)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ASKED}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _body(*arguments: Any) -> None:
    from lt_sweeps.execution.worker_process import body  # torch, which this process does without

    body(*arguments)
