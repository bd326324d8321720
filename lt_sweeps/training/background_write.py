"""`BackgroundWrite`: a write to the disk in a thread, while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class BackgroundWrite:
    """One write at a time. Its failure is raised in the training, at the next call from there."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, write: Callable[[], object]) -> None:
        """Start a write when the one before has ended; it must own what it writes."""
        self.wait()
        self._thread = Thread(target=self._run, args=(write,))
        self._thread.start()

    def wait(self) -> None:
        """Wait for the write that was begun, and raise its failure."""
        self.join()
        self.check()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise the failure of a write that has ended."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as failure:  # whatever it is, the training must not go on without it
            self._failure = failure
