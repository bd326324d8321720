"""Patience with a file system that is full, read-only or stale: wait and try again, for minutes.

A process of a pack ends and is started again from its last checkpoint (`worker_pool`). Everything
else that writes for a sweep (manifest, records, report, images that are decoded) is tried again
where it is, by `patiently`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lt_sweeps.storage.atomic_write import passes

PATIENCE = 600.0  # seconds that are spent waiting for a file system before work stops
_LONGEST = 10.0  # seconds between two tries of something that is tried again quickly
T = TypeVar("T")


class OutOfPatience(ValueError):
    """A file system has been full, read-only or stale for too long."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; waited {PATIENCE / 60:.0f} minutes; make room, and the same command "
            "continues"
        )


def patiently(what: str, action: Callable[[], T]) -> T:
    """Do it, again and again while the file system refuses; `what` names it in messages.

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
            say(f"{reason}; waiting")
        pause = next_pause(waited, longest=_LONGEST)
        time.sleep(pause)
        waited += pause


def next_pause(waited: float, *, longest: float) -> float:
    """Seconds until the next try: 2, then as long as all pauses before it together."""
    return min(longest, max(2.0, waited))


def say(line: str) -> None:
    """Print a line on standard error, which may be a file on the disk that is full."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def drain() -> None:
    """Empty the buffers of what was printed; what a full disk refuses is dropped.

    Python would try again when the process ends, fail again, and end with another exit status than
    the one that was chosen.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
