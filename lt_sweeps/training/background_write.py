"""`BackgroundWrite`: write to the disk in a thread while the training continues."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class BackgroundWrite:
    """Runs one write at a time; if it fails, the next call of `begin`, `wait` or `check` raises."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, write: Callable[[], object]) -> None:
        """Start a write after the previous one has ended; nothing may change the data meanwhile."""
        self.wait()
        self._thread = Thread(target=self._run, args=(write,))
        self._thread.start()

    def wait(self) -> None:
        """Wait until the current write has ended; raise its error if it failed."""
        self.join()
        self.check()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise the error of a write that has failed, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as failure:  # any failure must stop the training, so all are kept
            self._failure = failure
