"""`PoolProcess`: a process that trains packs. `PackRun`: one pack in it, with its messages."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from lt_sweeps.config.garbage_collection import collect_as_usual
from lt_sweeps.execution.forking import may_fork, process_context
from lt_sweeps.storage.manifest import FrozenPack

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
"""The signals that tell a sweep to stop: from Ctrl-C, from Slurm, or from a closed terminal."""


class PoolProcess:
    """A process that trains packs on a device, and our end of the pipe to it.

    The process starts with stop signals blocked, until it has installed its handlers, so that no
    signal is lost.

    Args:
        about: the arguments of `worker_process.serve` after the pipe.
        others: all other processes of the pool, whose pipes a fork has to close.
    """

    def __init__(self, device: str, about: tuple[Any, ...], others: Sequence[PoolProcess]) -> None:
        self.device = device
        context = process_context(device)
        self.pipe, theirs = context.Pipe()
        # A fork inherits our ends of all pipes. It closes them, so that pipes break when we die.
        forked = context.get_start_method() == "fork"
        ours = [self.pipe, *(other.pipe for other in others)] if forked else []
        arguments = (os.getcwd(), theirs, ours, *about)
        self.process: BaseProcess = context.Process(target=_body, args=arguments, daemon=True)
        try:
            with _blocked(*STOP_SIGNALS), may_fork():
                self.process.start()
        finally:
            theirs.close()

    def close(self) -> None:
        """Wait until the process ends. A process without a pack ends when its pipe is closed."""
        self.pipe.close()
        self.process.join()


class PackRun:
    """One pack and the worker that trains it.

    Raises:
        OSError: the worker's process is already dead.
    """

    def __init__(self, pack: FrozenPack, worker: PoolProcess, step: int) -> None:
        self.pack, self.worker, self.step = pack, worker, step
        self.status: int | None = None  # the exit status of the pack; None while it is running
        self._error = ""
        worker.pipe.send(pack)

    def messages(self, panel: Any) -> bool:
        """Read the messages of the process; return whether the pack has ended.

        An int is the step that the pack has reached, a str is the reason of its failure, and None
        means that the pack is done and the process waits for another pack.
        """
        with suppress(EOFError, ConnectionResetError):
            while self.worker.pipe.poll():
                message = self.worker.pipe.recv()
                if message is None:
                    self.status = 0
                    return True
                if isinstance(message, int):
                    self.step = message
                    panel.step(self.pack, message)
                else:
                    self._error = message
            return False
        self.worker.process.join()
        self.status = self.worker.process.exitcode
        return True

    def reason(self) -> str:
        """The reason why the pack failed, in words."""
        if self.status is not None and self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return self._error or f"exit status {self.status}"


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _body(working_folder: str, pipe: Connection, others: Sequence[Connection], *rest: Any) -> None:
    collect_as_usual()
    for other in others:
        other.close()
    # A spawned process starts in the folder where its parent was started, but `resume` has changed
    # the folder since.
    os.chdir(working_folder)
    # Imported here, because it imports torch, which the pool itself does not need.
    from lt_sweeps.execution.worker_process import serve

    serve(pipe, *rest)
