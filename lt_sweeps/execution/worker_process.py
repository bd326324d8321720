"""The process of one pack: it computes, saves itself when asked to stop, and says how it ended."""

from __future__ import annotations

import errno
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
from lt_sweeps.execution.materialize import Missing
from lt_sweeps.execution.submission import thawed, work_on
from lt_sweeps.execution.worker_pool import AGAIN, STOPPED, STORAGE
from lt_sweeps.plan.cost import Speeds
from lt_sweeps.storage.manifest import FrozenPack
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.training.training_loop import Interrupted

# What a file system says that may be well again soon: full, over quota, read-only, stale, gone.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOLCK}
_log = logging.getLogger("lt_sweeps")


def body(
    folder: Path, pack: FrozenPack, device: str, scratch: Path | None, send: Connection
) -> None:
    """Compute one pack, or two steps of it in `scratch`; the exit status is one of `endings`."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    # The parent decides, and sends SIGTERM. Slurm signals every process of a job.
    for each in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    device = _visible(device)
    torch.set_num_threads(1)

    def tell(message: int | str) -> None:
        try:
            send.send(message)
        except OSError:  # the parent is gone: save, and leave the unit to its next run
            asked.append(signal.SIGPIPE)

    sweep = SweepFolder(folder)
    with _logged(sweep.log(pack.name)):
        how = {"device": device, "stopped": lambda: bool(asked)}
        if scratch is not None:
            status = _ending(lambda: two_steps(sweep, pack, Store(scratch), **how), tell)
        else:
            status = _ending(lambda: _work(sweep, pack, progress=tell, **how), tell)
        sys.exit(status)


def _work(sweep: SweepFolder, pack: FrozenPack, **how: Any) -> None:
    work_on(sweep, pack, **how)
    _learn(sweep, pack)


def _ending(run: Callable[[], None], tell: Callable[[str], None]) -> int:
    try:
        run()
    except Interrupted as stop:
        _log.info("%s", stop)
        return STOPPED
    except (Missing, CorruptTicket) as error:
        tell(f"{error}; it is computed again")
        _log.info("%s", error)
        return AGAIN
    except OSError as error:
        tell(f"{type(error).__name__}: {error}")
        _log.info("traceback of %s", type(error).__name__, exc_info=True)
        return STORAGE if error.errno in _PASSING else 1
    except Exception as error:
        tell(" ".join(f"{type(error).__name__}: {error}".split()))
        _log.info("traceback of %s", type(error).__name__, exc_info=True)
        return 1
    return 0


def _learn(sweep: SweepFolder, pack: FrozenPack) -> None:
    first = thawed(sweep, pack.part(pack.units[:1]))[1][0]
    cost = Store(sweep.root).cost(first.stage.key, first.seed)
    with suppress(OSError):  # it is only an estimate
        Speeds.of(sweep.root).learn(first.stage, cost)


def _visible(device: str) -> str:
    """Leave this process one GPU; it is then simply `cuda`."""
    if not device.startswith("cuda:"):
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    number = int(device.removeprefix("cuda:"))
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible[0] else str(number)
    return "cuda"


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What is computed goes to the pack's log, warnings to standard error as well."""
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
    logging.raiseExceptions = False  # a disk that is full has no room for what we say of it
    try:
        yield
    finally:
        for handler in handlers:
            handler.close()
