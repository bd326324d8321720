"""A pool of processes that trains packs, each in a fresh process, on the devices of one machine.

A pack that fails is halved, and both halves are tried again. So a failing unit ends up alone, and a
stack that does not fit into memory shrinks until it fits. A unit that fails alone is noted with its
reason. The units that need its ticket are not begun; all others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lt_sweeps.config.garbage_collection import collect_as_usual
from lt_sweeps.execution.loaded_code import ChangedCode, LoadedCode
from lt_sweeps.execution.patience import PATIENCE, OutOfPatience, next_pause, patiently, say
from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.sweep_folder import Heartbeat, PackAtWork, SweepFolder

# Exit statuses of a pack's process for endings that are not the fault of the pack.
STOPPED = 75  # told to stop; it has saved a checkpoint
AGAIN = 76  # a ticket that it needs is missing, or was corrupt and set aside: make a new plan
CHANGED = 77  # code or data are not those that the sweep was started with: stop
STORAGE = 78  # the file system is full, read-only or stale: wait and try again

_LONGEST = 60.0  # seconds between two tries of a pack that waits for a file system
_BEAT = 5.0  # seconds between two heartbeats
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


class Workers:
    """The worker processes of a sweep's packs; `run` trains all packs.

    Args:
        packs: frozen packs; a pack comes after the packs that it needs.
        devices: the device of each process that runs at the same time.
        code: the code that every process must run.
        who: the name in this pool's heartbeats; `about` is added to each heartbeat.
        panel: its `start`, `step` and `stop` are called for every pack.
        scratch: if given, each pack trains only two steps, in this folder (the canary).
        preload: modules that every process needs; they are imported once, before the first fork.
    """

    def __init__(
        self,
        sweep: SweepFolder,
        packs: Sequence[FrozenPack],
        devices: Sequence[str],
        *,
        code: LoadedCode,
        who: str,
        panel: Any,
        scratch: Path | None = None,
        preload: Sequence[str] = (),
        host: str,
        job: str | None = None,
    ) -> None:
        self.sweep, self.code, self.who, self.panel = sweep, code, who, panel
        self.host, self.job = host, job
        self.queue = list(packs)
        self.free, self.scratch = list(devices), scratch
        # The first of them makes the others cheaper, and the last notes what has been imported.
        first, last = "lt_sweeps.execution.fork_server", "lt_sweeps.execution.worker_process"
        self.preload = [first, *preload, last]
        self.running: list[_Job] = []
        self.failed: dict[UnitName, str] = {
            unit: failure.reason for unit, failure in sweep.failures().items()
        }
        self.again: set[UnitName] = set()  # need a new plan: a ticket is missing
        self.context: Any = multiprocessing.get_context("forkserver")
        self._tried: dict[str, int] = {}  # by pack: how often it was killed
        self._waits: dict[str, tuple[float, float]] = {}  # by pack: next try, seconds waited
        self._beaten = 0.0  # time of the last heartbeat

    def run(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Train all packs; returns False if `stopped` ended it before the last one.

        Raises:
            ChangedCode: a process found other code or data than the sweep was started with.
            OutOfPatience: the file system has been full or stale for too long.
        """
        if not self.queue:
            return True
        try:
            while (self.queue or self.running) and not stopped():
                self._start()
                self._beat()
                for job in self._ended():
                    self._end(job)
        except (KeyboardInterrupt, ChangedCode, OutOfPatience):
            self.stop()
            raise
        seen_through = not (self.queue or self.running)
        self.stop()
        return seen_through

    def stop(self) -> None:
        """Tell all processes to save and stop, and wait for them."""
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
            if not (startable := self._without_failed(pack)):
                continue
            try:
                self.running.append(_Job(self, startable, self.free[0]))
            except (EOFError, OSError) as error:
                # Where the fork server was killed, the next try starts a new one. Else the disk for
                # temporary files is full, or there are no more processes.
                self.queue.insert(0, startable)
                gone = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))
                if not gone and not self._may_wait(startable.name):
                    raise OutOfPatience(str(error)) from None
                return
            self.free.pop(0)
            self.panel.start(startable)

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
        elif status == CHANGED:
            self.queue.insert(0, job.pack)
            raise ChangedCode(job.reason())
        elif status == STORAGE and not self._may_wait(job.pack.name):
            self.queue.insert(0, job.pack)
            raise OutOfPatience(job.reason())
        elif self._once_more(status, job.pack.name):
            self.queue.insert(0, job.pack)
        elif status == AGAIN:
            self.again |= set(members)
            self._fail(job.pack, members, job.reason())
        elif len(members) > 1:
            say(f"{job.pack.name}: {job.reason()}; halved and tried again")
            self.queue[:0] = patiently("halved", lambda: self.sweep.halve(job.pack))
        else:
            self._fail(job.pack, members, job.reason())

    def _once_more(self, status: int | None, name: str) -> bool:
        """Whether to try a pack again whole, from its last checkpoint, instead of halving it."""
        # A pack is halved when the pack itself may be at fault: its code raised, or its stack does
        # not fit into memory. These endings say nothing against the pack, so it stays whole:
        # - STOPPED: someone stopped this one process, and it has saved a checkpoint.
        # - STORAGE: the disk is full or stale, and a half would fail alike. The pack waits 2 s,
        #   then 2, 4, 8, ... and at most 60 s between tries; after PATIENCE seconds work stops.
        # - Killed: by a person, or by the kernel because memory was short; the two look alike. The
        #   first kill is forgiven. At the second the stack is taken to be too large, and halved.
        #   Example: 8 replicates need more memory than there is. They are killed twice, then train
        #   as 4 + 4. A half has a name of its own, so its first kill is forgiven as well.
        #   Status 255 counts as a kill: the fork server died, so the real status is unknown.
        killed = status is None or status < 0 or status == 255
        return status in (STOPPED, STORAGE) or (killed and self._may_try(name))

    def _may_wait(self, name: str) -> bool:
        """Whether the pack has waited less than PATIENCE; sets the time of its next try."""
        _, waited = self._waits.get(name, (0.0, 0.0))
        pause = next_pause(waited, longest=_LONGEST)
        self._waits[name] = time.monotonic() + pause, waited + pause
        return waited < PATIENCE

    def _may_try(self, name: str) -> bool:
        """Count a kill of the pack; returns whether it was the first."""
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
        """The pack without the units that have failed, or that need a unit that has failed."""
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
    """One pack and the process that trains it."""

    def __init__(self, workers: Workers, pack: FrozenPack, device: str) -> None:
        self.pack, self.device, self._error = pack, device, ""
        sweep, context = workers.sweep, workers.context
        _start_server(context, workers.preload)  # does nothing if it runs already
        self.step = sweep.manifest.stages[pack.units[0][0]].start
        self.receive, send = context.Pipe(duplex=False)
        of_worker = (sweep.folder, pack, device, workers.scratch, workers.code, send)
        arguments = (os.getcwd(), *of_worker)
        self.process: BaseProcess = context.Process(target=_body, args=arguments, daemon=True)
        self.process.start()
        send.close()

    def messages(self, panel: Any) -> bool:
        """Read the messages of the process; returns whether it has ended.

        A number is the step that it has reached, a text is the reason of its failure.
        """
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
    """What this process has imported and its workers need too.

    They are libraries of data sets, and our own modules: imported before the first fork, they are
    the same in all workers, whatever is edited meanwhile. The user's modules are not among them,
    because they may start CUDA, which a forked process cannot use.
    """
    libraries = ("sklearn.datasets", "torchvision.datasets")
    rooms = tuple(f"lt_sweeps.{room}." for room in _ROOMS)
    return [name for name in sys.modules if name in libraries or name.startswith(rooms)]


_ROOMS = ("training", "plan", "sparsity", "data", "models", "storage", "config")


def _start_server(context: Any, preload: list[str]) -> None:
    """Start the fork server, which imports all that workers need: a new worker takes 20 ms.

    The server inherits that the stop signals are ignored. Slurm sends them to every process of a
    job, and the server must live until the workers have saved.
    """
    context.set_forkserver_preload(preload)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        with _same_imports():
            forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _same_imports() -> Iterator[None]:
    """Python processes that are started in this context import from where this one does."""
    # The server is started as `python -c`, so it looks into its working folder first and into
    # PYTHONPATH next. Python before 3.12.8 and 3.13.1 does not give it the `sys.path` of its
    # parent. In a job that would be the folder that the sweep was submitted from, with whatever
    # code lies there now, instead of the job's copy. So the server gets our `sys.path` as
    # PYTHONPATH, and starts in the folder of Python's own library, which hides nothing.
    folder, before = os.getcwd(), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or folder for path in sys.path)
    os.chdir(Path(os.__file__).parent)
    try:
        yield
    finally:
        os.chdir(folder)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _body(working_folder: str, *arguments: Any) -> None:
    collect_as_usual()
    # Python would start it where this process was started; `resume` has gone elsewhere since.
    os.chdir(working_folder)
    # Here, because it imports torch, which the pool does without.
    from lt_sweeps.execution.worker_process import body

    body(*arguments)
