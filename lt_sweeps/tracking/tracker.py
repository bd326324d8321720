"""Where a sweep is mirrored: a tracker is told of runs, beside the training and never in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from lt_sweeps.config.call import Call
from lt_sweeps.tracking.tracked_runs import Run


class Unreachable(Exception):
    """The tracker cannot take anything now; what was to be sent stays where it is."""


class Tracker(Protocol):
    """What `tracker/*.yaml` names: a class whose arguments are the yaml's keys."""

    every: float
    """Seconds between two looks at a sweep that runs."""
    per_minute: int
    """How many runs may be sent in a minute."""
    linger: float
    """Seconds that the end of a sweep may wait for the last of it."""
    whole: bool
    """Whether a run is sent once, at its end, and not as it grows."""

    def session(self, root: Path, *, job: str | None = None) -> AbstractContextManager[Session]:
        """Get ready to send; `job` names the job whose machine is to be watched."""
        ...


class Session(Protocol):
    """A tracker at work."""

    def has(self, runs: Sequence[Run]) -> Mapping[str, tuple[int, bool]]:
        """How many rows the tracker has of each run it knows, and whether it is closed.

        Raises: Unreachable.
        """
        ...

    def send(self, run: Run) -> None:
        """Send what the tracker does not have of a run. May be repeated: nothing is doubled.

        Raises: Unreachable.
        """
        ...


def tracker(config: Mapping[str, Any]) -> Tracker | None:
    """The tracker that a config describes, or None where there is none.

    Raises: ValueError: an argument that is unknown or out of range, or a library that is missing.
    """
    if config.get("_target_") is None:
        if rest := sorted(set(config) - {"_target_"}):
            raise ValueError(f"tracker: none takes no {rest}; choose another: tracker=wandb")
        return None
    return Call.of(config, where="tracker")()
