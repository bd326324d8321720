"""Wait and try again, for minutes, while a file system is full, read-only or stale.

The process of a pack ends and is started again from its last checkpoint (`worker_pool`). Every
other action that writes for a sweep (manifest, records, report, decoded images) is repeated in
place by `patiently`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lt_sweeps.storage.atomic_write import passes

PATIENCE = 600.0  # seconds to wait in total for a file system before giving up
_LONGEST = 10.0  # seconds between two tries of `patiently`, at most
T = TypeVar("T")


class OutOfPatience(ValueError):
    """A file system has been full, read-only or stale for too long."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; waited {PATIENCE / 60:.0f} minutes; make room, and the same command "
            "continues"
        )


def patiently(what: str, action: Callable[[], T]) -> T:
    """Repeat `action` until the file system accepts it; `what` names the action in messages.

    Raises:
        OutOfPatience: the file system still refuses after `PATIENCE` seconds.
    """
    waited = 0.0
    while True:
        try:
            return action()
        except OSError as error:
            if not passes(error):
                raise
            reason = f"{what}: {error}"
        if waited >= PATIENCE:
            raise OutOfPatience(reason)
        if not waited:
            minutes = f"{PATIENCE / 60:.0f} minutes"
            say(f"{reason}; waiting for it, up to {minutes}; make room if it is full")
        pause = next_pause(waited, longest=_LONGEST)
        time.sleep(pause)
        waited += pause


def next_pause(waited: float, *, longest: float) -> float:
    """Seconds until the next try: 2, then the sum of all earlier pauses, and `longest` at most."""
    return min(longest, max(2.0, waited))


def say(line: str) -> None:
    """Print a line on standard error, and ignore errors: it may be a file on the full disk."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def drain() -> None:
    """Flush standard output and error; discard output that a full disk refuses.

    Otherwise Python would flush again when the process ends, fail, and change the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
