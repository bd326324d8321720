"""A separate process that mirrors a running sweep, so that no training waits for a tracker."""

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
    """Run a process that mirrors the sweep's folder in the tracker of `config` during the context.

    The process reads records from disk, so if it is late, stuck or dead, the sweep is not affected.
    At the end the launcher gives it `linger` seconds to send the last rows. The launcher does not
    wait after an interruption, or if `hurried()` says that the cluster is about to kill the job.
    """
    try:
        chosen = tracker_of(config)
        process = None if chosen is None else _mirror(sweep, config["_target_"])
    except (ValueError, OSError) as error:  # a missing library, or no memory
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
    """Start a process that mirrors a sweep in a tracker of this class until its pipe is closed."""
    # The mirror must run the same code as this process, which may be a job's copy of the code. With
    # `-m` Python would look in the working folder first, so `sys.path` is passed instead.
    paths = [path or os.getcwd() for path in sys.path]
    program = _PROGRAM.format(paths=paths, file=lt_sweeps.__file__)
    words = [sys.executable, "-c", program, "sync", str(sweep), "follow=true"]
    if not is_ours(target):  # the sweep was started with it
        words.append(f"trust={target.rpartition('.')[0]}")
    # A separate session, because Ctrl-C goes to every process of the terminal's process group: the
    # launcher handles it, and the mirror continues until the launcher closes the pipe.
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def say_results_are_kept(sweep: Path, reason: str) -> None:
    """Print in one line why the tracker is incomplete, and the command that completes it."""
    print(
        f"tracker: {reason}; results are kept, and `lt-sweeps sync {sweep}` uploads what is "
        "missing",
        file=sys.stderr,
        flush=True,
    )


class Deadline:
    """The time that a mirror has: unlimited, then `linger` seconds after its launcher exits.

    The launcher holds the other end of `pipe`. The kernel closes that end when the launcher exits,
    even if it is killed, so the mirror always notices. Without a pipe the time is unlimited.
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
        """Sleep for `seconds`, or less if the launcher exits meanwhile or the time is up."""
        seconds = max(0.0, min(seconds, self._end - time.monotonic()))
        if self._pipe is None or self._end < math.inf:
            time.sleep(seconds)
        elif select.select([self._pipe], [], [], seconds)[0]:
            self._end = time.monotonic() + self._linger
