"""The protocol of a tracker, which `mirror` uses, and the tracker that a config describes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import listed

if TYPE_CHECKING:  # a plan needs its tracker, but not the statistics libraries
    from lt_sweeps.tracking.tracked_runs import Run


class Unreachable(Exception):
    """The tracker cannot be reached now; records stay on disk and can be sent later."""


class Arrived(NamedTuple):
    """The part of a run that a tracker has: its first `rows` rows, and whether it is closed.

    `label` is the run's label in the tracker, None if the tracker keeps no labels. A closed run
    whose label has changed since is sent again, without rows.
    """

    rows: int = 0
    closed: bool = False
    label: str | None = None


class Tracker(Protocol):
    """The protocol of classes named in `tracker/*.yaml`; their arguments are the yaml's keys."""

    @property
    def every(self) -> float:
        """Seconds between two passes over a running sweep."""
        ...

    @property
    def per_minute(self) -> float:
        """The number of runs that may be sent per minute; infinity if there is no rate limit."""
        ...

    @property
    def linger(self) -> float:
        """The most seconds for which a finished sweep waits for its last rows to be sent."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a run is sent once, when it is done, instead of row by row while it grows."""
        ...

    def session(self, root: Path, *, job: str | None = None) -> AbstractContextManager[Session]:
        """Connect; `job` is the name of a run in which the tracker may log the machine's load."""
        ...


class Session(Protocol):
    """A connection to a tracker."""

    def has(self, runs: Sequence[Run]) -> Mapping[str, Arrived]:
        """The part of each run that the tracker has, by key; runs unknown to it are left out.

        Raises: Unreachable: the tracker cannot be reached.
        """
        ...

    def send(self, run: Run) -> None:
        """Send the rows of a run that the tracker lacks; a repeated call duplicates no row.

        Raises: Unreachable: the tracker did not accept this run; others are tried in the same
            session.
        """
        ...


def tracker_of(config: Mapping[str, Any]) -> Tracker | None:
    """The tracker that a config describes; None for `tracker=none`.

    Raises: ValueError: an unknown argument, a value out of range, a missing library, or a class
        that lacks a part of `Tracker`.
    """
    if config.get("_target_") is None:
        if rest := sorted(set(config) - {"_target_"}):
            raise ValueError(
                f"tracker=none: got {listed(rest)}; `none` has no keys; choose another tracker"
            )
        return None
    tracker = Call.of(config, where="tracker")()
    parts = ("every", "per_minute", "linger", "whole", "session")
    if absent := [part for part in parts if not hasattr(tracker, part)]:
        raise ValueError(
            f"tracker: `{config['_target_']}` lacks {', '.join(absent)}; "
            f"`{__name__}.Tracker` lists what a tracker must have"
        )
    return tracker


def check_installed(*packages: str, extra: str) -> None:
    """Raises: ValueError: a package is missing; the message says how to install it."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"tracker: {package} is not installed; hint: pip install 'lt-sweeps[{extra}]'"
            )


def check_seconds(tracker: Tracker) -> None:
    """Raises: ValueError: a number of the tracker is out of range."""
    for name in ("every", "per_minute", "timeout"):  # not every tracker has a timeout
        if getattr(tracker, name, 1) <= 0:
            raise ValueError(f"tracker.{name}: {getattr(tracker, name)!r}; give a number above 0")
    if tracker.linger < 0:
        raise ValueError(f"tracker.linger: {tracker.linger!r}; give 0 or more seconds")
