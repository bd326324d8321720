"""Beside a sweep: a process of its own mirrors it, and nothing in the sweep waits for that."""

from __future__ import annotations

import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lt_sweeps.tracking.tracker import tracker

_GRACE = 30.0  # seconds past `linger` after which the mirror is taken for stuck


@contextmanager
def beside(
    sweep: Path, config: Mapping[str, Any], *, hurried: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """While this lasts, a process mirrors the sweep's folder in the tracker of `config`.

    It can be late, stuck or dead, and nothing here notices. At the end it has `linger` seconds for
    the last of it; after an interruption, or when `hurried`, nobody waits for it.
    """
    chosen = tracker(config)
    if chosen is None:
        yield
        return
    words = [sys.executable, "-m", "lt_sweeps", "sync", str(sweep), "follow=true"]
    # The code that runs here, wherever it lies.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # In a session of its own: Ctrl-C is the launcher's to answer.
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert process.stdin is not None
    try:
        yield
    except BaseException:
        process.stdin.close()
        raise
    process.stdin.close()
    if hurried():
        return
    try:
        process.wait(chosen.linger + _GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        kept(sweep, "no answer")


def kept(sweep: Path, reason: str) -> None:
    """Say that the tracker lacks something, and that nothing is lost by it."""
    print(
        f"tracker: {reason}; results are kept, and `lt-sweeps sync {sweep}` uploads what is "
        "missing",
        file=sys.stderr,
        flush=True,
    )


class Deadline:
    """How long there is: for ever, or until a launcher lets go of `pipe`, and `linger` seconds."""

    def __init__(self, pipe: IO[str] | None = None, linger: float = math.inf) -> None:
        self._pipe, self._linger, self._end = pipe, linger, math.inf

    @property
    def ended(self) -> bool:
        """Whether the launcher is gone, however it went."""
        self.wait(0)
        return self._end < math.inf

    @property
    def left(self) -> float:
        return self._end - time.monotonic() if self.ended else math.inf

    def wait(self, seconds: float) -> None:
        """Sleep, until the launcher goes or the time that is left after it is over."""
        seconds = max(0.0, min(seconds, self._end - time.monotonic()))
        if self._pipe is None or self._end < math.inf:
            time.sleep(seconds)
        elif select.select([self._pipe], [], [], seconds)[0]:
            self._end = time.monotonic() + self._linger
