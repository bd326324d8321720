"""A pool of processes that trains packs on the devices of one machine.

On a CPU each pack gets a process of its own. It is a fork of the pool's process, so libraries are
imported once, and what is in memory (the images) is shared. On a GPU a process is kept for the next
pack, because it takes seconds to start CUDA and to copy the images to the GPU. A process is kept
only if its pack succeeded and ran no user-defined code, so that no pack can affect a later one.

A pack that fails is halved, and both halves are tried again. So a failing unit ends up alone, and a
stack that does not fit into memory shrinks until it fits. If a pack of one unit fails, the failure
is recorded with its reason. Units that need the failed unit's ticket are not started; all other
units continue.
"""

from __future__ import annotations

import importlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lt_sweeps.execution.loaded_code import ChangedCode, LoadedCode
from lt_sweeps.execution.patience import PATIENCE, OutOfPatience, next_pause, patiently, say
from lt_sweeps.execution.pool_process import PackRun, PoolProcess
from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.sweep_folder import Heartbeat, PackAtWork, SweepFolder

# Exit statuses of a pack's process when it ended for a reason other than the pack itself.
STOPPED = 75  # told to stop; it has saved a checkpoint
AGAIN = 76  # a ticket that it needs is missing, or was corrupt and set aside: make a new plan
CHANGED = 77  # code or data changed since the sweep was started: stop
STORAGE = 78  # the file system is full, read-only or stale: wait and try again
NO_GPU = 79  # this GPU cannot be used; another GPU may work

_LONGEST = 60.0  # seconds between two tries of a pack that waits for a file system
_BEAT = 5.0  # seconds between two heartbeats


class NoGpu(ValueError):
    """No GPU of this machine can be used. The packs are not at fault and may train elsewhere."""


class Workers:
    """The worker processes that train a sweep's packs; `run` trains all packs.

    Args:
        packs: frozen packs, each after the packs that it needs.
        devices: one device per worker process; all of them run at the same time.
        code: the code that every process must run.
        who: the name of this pool in its heartbeats.
        job: the Slurm id of the job that this pool runs in.
        panel: its `start`, `step` and `stop` are called for every pack.
        scratch: if given, each pack trains only two steps, in this folder (the canary).
        preload: modules that every process needs; they are imported once, before the first fork.
        keep: whether to reuse a process for the next pack; None: only on a GPU.
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
        keep: bool | None = None,
        job: str | None = None,
    ) -> None:
        self.sweep, self.code, self.who, self.panel = sweep, code, who, panel
        self.job, self.queue = job, list(packs)
        self.free, self.scratch, self.keep = list(devices), scratch, keep
        # worker_process comes last: when it is imported, it records which modules are loaded.
        self.preload = [*preload, "lt_sweeps.execution.worker_process"]
        self.running: list[PackRun] = []
        self.idle: list[PoolProcess] = []  # kept processes without a pack
        self.failed: dict[UnitName, str] = {
            unit: failure.reason for unit, failure in sweep.failures().items()
        }
        self.again: set[UnitName] = set()  # units that need a new plan, because a ticket is missing
        self._kills = Counter[str]()  # by pack
        self._waits: dict[str, tuple[float, float]] = {}  # by pack: next try, seconds waited
        self._beaten = 0.0  # time of the last heartbeat

    def run(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Train all packs; return False if `stopped` ended the run before all packs were done.

        Raises:
            ChangedCode: a process found that code or data changed since the sweep was started.
            OutOfPatience: the file system has been full or stale for too long.
            NoGpu: none of the devices can be used any more.
        """
        if not self.queue:
            return True
        for module in self.preload:
            importlib.import_module(module)
        try:
            while (self.queue or self.running) and not stopped():
                self._start()
                self._beat()
                for job in self._ended():
                    self._end(job)
        except (KeyboardInterrupt, ChangedCode, OutOfPatience, NoGpu) as reason:
            if isinstance(reason, KeyboardInterrupt) and self.running:
                say("stopping: each process saves a checkpoint; Ctrl-C again ends them at once")
            self.stop()
            raise
        seen_through = not (self.queue or self.running)
        self.stop()
        return seen_through

    def stop(self) -> None:
        """Tell all processes to save and stop, and wait for them. A second Ctrl-C kills them."""
        at_work = [job.worker for job in self.running]
        for worker in at_work:
            worker.process.terminate()  # it saves
        try:
            with _ignored(signal.SIGTERM):  # Slurm may send several, and each means: save
                for worker in (*self.idle, *at_work):
                    worker.close()
        except KeyboardInterrupt:
            for worker in at_work:  # a hung process would never release its units
                worker.process.kill()
                worker.close()
            raise
        finally:
            self.idle.clear()
            self.sweep.rest(self.who)

    def _start(self) -> None:
        if not self.free:
            return
        packs = [*self.queue, *(job.pack for job in self.running)]
        unfinished = Counter(unit for pack in packs for unit in pack.units)
        for pack in list(self.queue):
            if not self.free:
                return
            if self._waits.get(pack.name, (0.0, 0.0))[0] > time.monotonic():
                continue
            own = {*pack.units}
            needs = {need for unit in pack.units for need in self.sweep.needs(unit)}
            if any(unfinished[need] > (need in own) for need in needs):
                continue  # another pack has yet to compute a ticket that this pack needs
            self.queue.remove(pack)
            startable = self._without_failed(pack)
            unfinished.subtract(own.difference(startable.units if startable else ()))
            if startable is None:
                continue
            try:
                job = self._begin(startable, self.free[0])
            except OSError as error:  # no more processes, or no memory for one
                self.queue.insert(0, startable)
                if not self._may_wait(startable.name):
                    raise OutOfPatience(str(error)) from None
                return
            self.running.append(job)
            self.free.pop(0)
            self.panel.start(startable)

    def _begin(self, pack: FrozenPack, device: str) -> PackRun:
        """Give a pack to a process that was kept on the device, or to a new process."""
        step = self.sweep.manifest.stages[pack.units[0][0]].start
        for worker in [kept for kept in self.idle if kept.device == device]:
            self.idle.remove(worker)
            with suppress(OSError):  # the kept process was killed meanwhile
                return PackRun(pack, worker, step)
            worker.close()
        keep = device != "cpu" if self.keep is None else self.keep
        about = self.sweep.folder, device, self.scratch, self.code, keep
        others = [*self.idle, *(job.worker for job in self.running)]
        return PackRun(pack, PoolProcess(device, about, others), step)

    def _ended(self) -> list[PackRun]:
        if self.running:
            wait([job.worker.pipe for job in self.running], timeout=0.5)
        else:
            time.sleep(0.2)  # every pack waits for the file system
        return [job for job in self.running if job.messages(self.panel)]

    def _end(self, job: PackRun) -> None:
        self.running.remove(job)
        self.free.append(job.worker.device)
        if job.status == 0 and job.worker.process.exitcode is None:
            self.idle.append(job.worker)
        status, members = job.status, job.pack.units
        self.panel.stop(job.pack, done=status == 0)
        if status == 0:
            self._waits.pop(job.pack.name, None)
        elif status in (CHANGED, NO_GPU) or self._once_more(status, job.pack.name):
            self.queue.insert(0, job.pack)
            self._check_retry(job)
        elif status == AGAIN:
            self.again |= set(members)
            self._fail(job.pack, members, job.reason())
        elif len(members) > 1:
            say(
                f"{job.pack.name}: {job.reason()}; its {len(members)} trainings are tried again in "
                "two halves; you need not act: the end of the run names each one that fails alone"
            )
            self.queue[:0] = patiently("splitting a pack", lambda: self.sweep.halve(job.pack))
        else:
            killed = status is not None and status < 0
            hint = "; the same command continues from its last checkpoint" if killed else ""
            self._fail(job.pack, members, job.reason() + hint)

    def _check_retry(self, job: PackRun) -> None:
        """Raise an error if no process here can try the pack again; drop a GPU that is broken."""
        if job.status == CHANGED:
            raise ChangedCode(job.reason())
        if job.status == STORAGE and not self._may_wait(job.pack.name):
            raise OutOfPatience(job.reason())
        if job.status != NO_GPU:
            return
        if not self.running and len(self.free) == 1:
            raise NoGpu(
                f"{socket.gethostname()}: {job.reason()}; no other GPU is left, so the run stops; "
                "nothing is lost: `resume` continues on a machine whose GPU works"
            )
        # A broken GPU fails at once, so it would be offered every pack before a working GPU is.
        say(
            f"{job.worker.device}: {job.reason()}; the run continues on the other devices, and you "
            "need not act"
        )
        self.free.remove(job.worker.device)

    def _once_more(self, status: int | None, name: str) -> bool:
        """Whether to try a pack again whole, from its last checkpoint, instead of halving it."""
        # A pack is halved if the pack itself may be at fault: its code raised an exception, or its
        # stack does not fit into memory. In these cases the pack is not at fault and stays whole:
        # - STOPPED: someone stopped this one process, and it has saved a checkpoint.
        # - STORAGE: the disk is full or stale, so a half would fail too. The pack waits 2 s, then
        #   2, 4, 8, ... and at most 60 s between tries; after PATIENCE seconds the pool stops.
        # - Killed: by a person, or by the kernel because memory was short; the exit status is the
        #   same. The first kill is forgiven. After the second the stack is assumed to be too large
        #   and is halved. Example: 8 replicates need more memory than the machine has. They are
        #   killed twice, then train as 4 + 4. A half has its own name, so its first kill is
        #   forgiven too.
        if status is not None and status < 0:
            self._kills[name] += 1
            return self._kills[name] == 1
        return status in (STOPPED, STORAGE)

    def _may_wait(self, name: str) -> bool:
        """Whether the pack has waited less than PATIENCE; also schedule its next try."""
        _, waited = self._waits.get(name, (0.0, 0.0))
        pause = next_pause(waited, longest=_LONGEST)
        self._waits[name] = time.monotonic() + pause, waited + pause
        return waited < PATIENCE

    def _fail(self, pack: FrozenPack, members: Sequence[UnitName], reason: str) -> None:
        for unit in members:
            self.failed[unit] = reason
            self.sweep.fail(unit, reason, pack.name)

    def _without_failed(self, pack: FrozenPack) -> FrozenPack | None:
        """Return the pack without units that failed or need a failed unit; None if none remain."""
        kept = []
        for unit in pack.units:
            broken = sorted(self.sweep.needs(unit) & self.failed.keys())
            if broken:
                level = self.sweep.manifest.stages[broken[0][0]].level
                reason = f"not started: it needs level {level} of seed {broken[0][1]}, which failed"
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
            self.sweep.beat(self.who, Heartbeat(socket.gethostname(), packs, queue, self.job))


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal in all threads; blocking it would affect only the current thread."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
