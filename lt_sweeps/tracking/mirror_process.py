"""A process that mirrors a running sweep, so that no training waits for a tracker."""

from __future__ import annotations

import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import lt_sweeps
from lt_sweeps.config.trust import is_ours
from lt_sweeps.tracking.tracker import tracker_of

_GRACE = 30.0  # seconds past `linger` after which the mirror counts as stuck
_PROGRAM = """
import sys
sys.path[:] = {paths!r}
import lt_sweeps
if lt_sweeps.__file__ != {file!r}:
    sys.exit("code: the mirror found " + lt_sweeps.__file__ + "; this sweep runs " + {file!r})
from lt_sweeps.cli.command_line import main
sys.exit(main())
"""


@contextmanager
def mirrored(
    sweep: Path, config: Mapping[str, Any], *, hurried: Callable[[], bool] = lambda: False
) -> Generator[None, None, None]:
    """Inside this context a process mirrors the sweep's folder in the tracker of `config`.

    The process reads records from disk, so it may be late, stuck or dead without harm to the sweep.
    At the end the launcher waits for it, `linger` seconds for the last rows; after an interruption,
    or when `hurried` says that a cluster is about to kill the job, it does not wait.
    """
    try:
        chosen = tracker_of(config)
        process = None if chosen is None else _mirror(sweep, config["_target_"])
    except (ValueError, OSError) as error:  # its library is missing here, or there is no memory
        say_results_are_kept(sweep, str(error))
        chosen = process = None
    if chosen is None or process is None:
        yield
        return
    assert process.stdin is not None
    with process.stdin:
        yield
    if hurried():
        return
    try:
        process.wait(chosen.linger + _GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        say_results_are_kept(sweep, "no answer")


def _mirror(sweep: Path, target: str) -> subprocess.Popen[bytes]:
    """A process that mirrors a sweep in a tracker of this class until its pipe is closed."""
    # The mirror must run this very code, also where it is a job's copy of the code, and `-m` would
    # look into the working folder first. So it imports from where this process does.
    paths = [path or os.getcwd() for path in sys.path]
    program = _PROGRAM.format(paths=paths, file=lt_sweeps.__file__)
    words = [sys.executable, "-c", program, "sync", str(sweep), "follow=true"]
    if not is_ours(target):  # whoever started the sweep has named it
        words.append(f"trust={target.rpartition('.')[0]}")
    # A session of its own, because Ctrl-C goes to the whole group of the terminal: the launcher
    # answers it, and the mirror goes on until the launcher closes the pipe.
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def say_results_are_kept(sweep: Path, reason: str) -> None:
    """Tell a person, in one line, why the tracker is incomplete and which command completes it."""
    print(
        f"tracker: {reason}; results are kept, and `lt-sweeps sync {sweep}` uploads what is "
        "missing",
        file=sys.stderr,
        flush=True,
    )


class Deadline:
    """The time that a mirror has: without end, or `linger` seconds after its launcher exits.

    The launcher holds the other end of `pipe`. The kernel closes that end when the launcher exits,
    also when it is killed, so no message can be missed.
    """

    def __init__(self, pipe: IO[str] | None = None, linger: float = math.inf) -> None:
        self._pipe, self._linger, self._end = pipe, linger, math.inf

    @property
    def ended(self) -> bool:
        """Whether the launcher has exited."""
        self.wait(0)
        return self._end < math.inf

    @property
    def left(self) -> float:
        return self._end - time.monotonic() if self.ended else math.inf

    def wait(self, seconds: float) -> None:
        """Sleep; less long where the launcher exits meanwhile, or no time is left."""
        seconds = max(0.0, min(seconds, self._end - time.monotonic()))
        if self._pipe is None or self._end < math.inf:
            time.sleep(seconds)
        elif select.select([self._pipe], [], [], seconds)[0]:
            self._end = time.monotonic() + self._linger
