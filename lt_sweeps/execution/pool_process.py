"""`PoolProcess`: a process that trains packs; `PackRun`: one pack in it, with its messages."""

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
"""What tells a sweep to stop: Ctrl-C, Slurm, or a closed terminal."""


class PoolProcess:
    """A process that trains packs on a device, and our end of the pipe to it.

    It starts with the stop signals blocked until it has set what they do, so that none is lost.
    """

    def __init__(self, device: str, about: tuple[Any, ...], others: Sequence[PoolProcess]) -> None:
        self.device = device
        context = process_context(device)
        self.pipe, theirs = context.Pipe()
        # A fork has our ends of all pipes. It closes them, so that each breaks when we die.
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
        """Wait for its end; a process without a pack ends when its pipe is closed."""
        self.pipe.close()
        self.process.join()


class PackRun:
    """One pack and the worker that trains it.

    Raises:
        OSError: the worker's process has died before.
    """

    def __init__(self, pack: FrozenPack, worker: PoolProcess, step: int) -> None:
        self.pack, self.worker, self.step = pack, worker, step
        self.status: int | None = None  # of the pack, when it has ended
        self._error = ""
        worker.pipe.send(pack)

    def messages(self, panel: Any) -> bool:
        """Read the messages of the process; returns whether the pack has ended.

        A number is the step that it has reached, a text the reason of its failure, and None says
        that the pack is done and that the process waits for another.
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
        """Why the pack failed."""
        if self.status is not None and self.status < 0:
            name = signal.Signals(-self.status).name
            return f"killed by {name}; the same command continues from its last checkpoint"
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
    # Python would start it where this process was started; `resume` has gone elsewhere since.
    os.chdir(working_folder)
    # Here, because it imports torch, which the pool does without.
    from lt_sweeps.execution.worker_process import serve

    serve(pipe, *rest)
