"""What a tracker is: the protocol that `mirror` speaks, and the tracker that a config describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lt_sweeps.config.call import Call
from lt_sweeps.tracking.tracked_runs import Run


class Unreachable(Exception):
    """The tracker cannot be reached now; the records stay on disk, to be sent later."""


class Arrived(NamedTuple):
    """What a tracker has of a run: its first `rows` rows, and whether the run is closed there."""

    rows: int = 0
    closed: bool = False


class Tracker(Protocol):
    """What `tracker/*.yaml` names: a class whose arguments are the yaml's keys."""

    every: float
    """Seconds between two looks at a running sweep."""
    per_minute: int
    """How many runs may be sent in a minute."""
    linger: float
    """Seconds for which a finished sweep waits until its last rows have been sent."""
    whole: bool
    """Whether a run is sent once, when it is done, instead of row by row while it grows."""

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

        Raises: Unreachable.
        """
        ...


def tracker_of(config: Mapping[str, Any]) -> Tracker | None:
    """The tracker that a config describes; None for `tracker=none`.

    Raises: ValueError: an unknown argument, a value out of range, or a missing library.
    """
    if config.get("_target_") is None:
        if rest := sorted(set(config) - {"_target_"}):
            raise ValueError(f"tracker=none: unknown keys {rest}; it has none, tracker=wandb has")
        return None
    return Call.of(config, where="tracker")()
