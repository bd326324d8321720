"""A worker process: it trains packs, saves when told to stop, and exits with a pack's status."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lt_sweeps.execution.canary import two_steps
from lt_sweeps.execution.forking import gpu_fault
from lt_sweeps.execution.frozen_pack import work_on
from lt_sweeps.execution.loaded_code import ChangedCode, LoadedCode, imported
from lt_sweeps.execution.materialize import Missing
from lt_sweeps.execution.patience import drain
from lt_sweeps.execution.pool_process import STOP_SIGNALS
from lt_sweeps.execution.process_state import as_before, forget_users_code
from lt_sweeps.execution.slurm.code_snapshot import users_modules
from lt_sweeps.execution.worker_pool import AGAIN, CHANGED, NO_GPU, STOPPED, STORAGE
from lt_sweeps.plan.cost import Speeds
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.atomic_write import passes
from lt_sweeps.storage.manifest import FrozenPack
from lt_sweeps.storage.pack_profile import profile_path, trace_path
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.training.cuda_graph import give_back_memory
from lt_sweeps.training.training_loop import Interrupted

# The source of this package's modules when they were imported. It must be read now, before a file
# can be edited, because forks of this process keep the modules that are in memory. User-defined
# modules are not included: each fork imports them again.
_IMPORTED = {name: file for name, file in imported().items() if name.startswith("lt_sweeps")}
_log = logging.getLogger("lt_sweeps")


def serve(
    pipe: Connection,
    folder: Path,
    device: str,
    scratch: Path | None,
    code: LoadedCode,
    keep: bool = False,
) -> None:
    """Train the packs received through the pipe; with `scratch`, only two steps of each, in there.

    The process exits with the status of its first pack. With `keep`, it goes on to the next pack if
    the first one succeeded, and exits when the pipe is closed.

    It sends an int for each step reached, a str with the reason if a pack fails, and None when a
    pack is done and the process waits for the next one.
    """
    stop_signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop_signals.append(number))
    # Slurm signals every process of a job. Only the parent decides to stop, and sends SIGTERM.
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    device = _visible(device)
    torch.set_num_threads(1)
    forget_users_code()

    def tell(message: int | str | None) -> None:
        try:
            pipe.send(message)
        except OSError:  # the parent has died: save and stop; the next run continues
            stop_signals.append(signal.SIGPIPE)

    stopped, sweep, status = (lambda: bool(stop_signals)), SweepFolder(folder), 0
    if device != "cpu" and (fault := gpu_fault(device)):
        tell(f"this GPU cannot be used: {fault}")
        status = NO_GPU
    while not status and (pack := _next_pack(pipe)):
        with as_before():
            status = _train(sweep, pack, scratch, code, device, tell, stopped)
        if not keep or users_modules() or not give_back_memory():
            break
        if not status:
            tell(None)
    drain()
    sys.exit(status)


def _next_pack(pipe: Connection) -> FrozenPack | None:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


def _train(
    sweep: SweepFolder,
    pack: FrozenPack,
    scratch: Path | None,
    code: LoadedCode,
    device: str,
    tell: Callable[[int | str | None], None],
    stopped: Callable[[], bool],
) -> int:
    """Train one pack; return its exit status."""
    before = _IMPORTED

    def check() -> None:
        nonlocal before
        before = code.check(before)

    options: dict[str, Any] = {"device": device, "stopped": stopped, "check": check}
    with _logged(sweep.log(pack.name)):
        if scratch is not None:
            return _ending(lambda: two_steps(sweep, pack, Store(scratch), **options), tell)
        return _ending(lambda: _work(sweep, pack, progress=tell, **options), tell)


def _work(sweep: SweepFolder, pack: FrozenPack, **options: Any) -> None:
    work = _profiled if pack.machine.profile else work_on
    first, *_ = work(sweep, pack, **options)
    cost = Store(sweep.root).cost(first.stage.key, first.seed)
    with suppress(OSError):  # speeds only serve estimates
        Speeds.of(sweep.root).learn(first.stage, cost)


def _profiled(sweep: SweepFolder, pack: FrozenPack, *, device: str, **options: Any) -> list[Unit]:
    from lt_sweeps.training.profiling import Profile  # only here: it imports torch's profiler

    log = sweep.log(pack.name)
    profile = Profile(trace_path(log) if pack.machine.profile == "trace" else None)
    units = work_on(sweep, pack, device=device, watch=profile.attach, **options)
    with suppress(OSError):  # the profile is not part of the result
        profile.write(profile_path(log), stack_size=len(pack.units), device=device)
    return units


def _ending(run: Callable[[], None], tell: Callable[[str], None]) -> int:
    """Call `run`; return the exit status, and `tell` the reason if it fails."""
    try:
        run()
    except Interrupted as stop:
        _log.info("%s", stop)
        return STOPPED
    except (Missing, CorruptTicket) as error:
        tell(f"{error}; the same command, or `resume`, computes it again")
        _log.info("%s", error)
        return AGAIN
    except ChangedCode as error:
        tell(str(error))
        _log.info("%s", error)
        return CHANGED
    except Exception as error:
        tell(" ".join(f"{type(error).__name__}: {error}".split()))
        _log.info("traceback of %s", type(error).__name__, exc_info=True)
        return STORAGE if passes(error) else 1
    return 0


def _visible(device: str) -> str:
    """Make only one GPU visible to this process, and return its name there: `cuda`."""
    if not device.startswith("cuda:"):
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers, UUIDs or MIG instances
    number = device.removeprefix("cuda:")
    # If the variable is set, even to nothing, choose only among the GPUs that it lists: the other
    # GPUs of the machine may belong to other people.
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        number if visible is None else visible.split(",")[int(number)]
    )
    return "cuda"


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send log messages to the pack's log file, and warnings to standard error as well."""
    loud = logging.StreamHandler()
    loud.setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [loud]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter(f"%(asctime)s {socket.gethostname()} %(message)s"))
        handlers.append(file)
    for handler in handlers:
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    logging.raiseExceptions = False  # on a full disk, a log message cannot be written
    try:
        yield
    finally:
        for handler in handlers:
            _log.removeHandler(handler)
            with suppress(OSError):  # closing flushes the buffer, which fails on a full disk
                handler.close()
