"""What a tracker is: the protocol that `mirror` speaks, and the tracker that a config describes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import listed

if TYPE_CHECKING:  # a plan names its tracker, and does without the libraries of statistics
    from lt_sweeps.tracking.tracked_runs import Run


class Unreachable(Exception):
    """The tracker cannot be reached now; the records stay on disk, to be sent later."""


class Arrived(NamedTuple):
    """What a tracker has of a run: its first `rows` rows, and whether the run is closed there.

    `label` is the run's label there, if the tracker keeps one: a closed run with another label than
    it has now is sent again, without rows.
    """

    rows: int = 0
    closed: bool = False
    label: str | None = None


class Tracker(Protocol):
    """What `tracker/*.yaml` names: a class whose arguments are the yaml's keys."""

    @property
    def every(self) -> float:
        """Seconds between two looks at a running sweep."""
        ...

    @property
    def per_minute(self) -> float:
        """How many runs may be sent in a minute; infinity where no server counts them."""
        ...

    @property
    def linger(self) -> float:
        """Seconds for which a finished sweep waits until its last rows have been sent."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a run is sent once, when it is done, instead of row by row while it grows."""
        ...

    def session(self, root: Path, *, job: str | None = None) -> AbstractContextManager[Session]:
        """Connect; `job` names a run in which the tracker may log the machine's load."""
        ...


class Session(Protocol):
    """A connection to a tracker."""

    def has(self, runs: Sequence[Run]) -> Mapping[str, Arrived]:
        """What the tracker has of each of these runs, by key; unknown runs are left out.

        Raises: Unreachable.
        """
        ...

    def send(self, run: Run) -> None:
        """Send the rows of a run that the tracker lacks. Repeating a call doubles nothing.

        Raises: Unreachable: it did not take this run; others are tried in the same session.
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
                f"tracker=none: unknown keys {listed(rest)}; it has none, other trackers have"
            )
        return None
    tracker = Call.of(config, where="tracker")()
    parts = ("every", "per_minute", "linger", "whole", "session")
    if absent := [part for part in parts if not hasattr(tracker, part)]:
        raise ValueError(
            f"tracker: `{config['_target_']}` lacks {', '.join(absent)}; "
            f"`{__name__}.Tracker` says what a tracker has"
        )
    return tracker


def check_installed(*packages: str, extra: str) -> None:
    """Raises: ValueError: one of the packages is missing; the message brings them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"tracker: {package} is not installed; hint: pip install 'lt-sweeps[{extra}]'"
            )


def check_seconds(tracker: Tracker) -> None:
    """Raises: ValueError: a number of the tracker is out of range."""
    for name in ("every", "per_minute", "timeout"):  # of which not every tracker has the last
        if getattr(tracker, name, 1) <= 0:
            raise ValueError(f"tracker.{name}: {getattr(tracker, name)!r}; give a number above 0")
    if tracker.linger < 0:
        raise ValueError(f"tracker.linger: {tracker.linger!r}; give 0 or more seconds")
