"""`sync`: mirror a sweep in its tracker, now or as long as the sweep runs.

The records are the truth. What the tracker has is asked of the tracker, what it lacks is sent, and
sending may stop at any moment: the next time goes on from what arrived.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lt_sweeps.config.errors import CONF, unknown
from lt_sweeps.tracking.mean_runs import aggregates
from lt_sweeps.tracking.mirror_process import Deadline, kept
from lt_sweeps.tracking.tracked_runs import Run, frozen, sources
from lt_sweeps.tracking.tracker import Session, Tracker, Unreachable, tracker

_AGAIN = (1.0, 2.0, 4.0)  # a server may count what it took some seconds later
_LONGEST = 600.0  # seconds between two attempts at a server that does not answer


def sync(sweep: Path, **given: str) -> int:
    """Mirror what a sweep has; returns the exit status, 0 only if the tracker has all of it.

    `given` are keys of the tracker in place of those that the sweep was started with.

    Raises: ValueError: a key or value that the tracker does not take, or an unreadable sweep.
    """
    if given.pop("follow", "false") == "true":
        chosen = _chosen(sweep, given)
        return Mirror(sweep, chosen, Deadline(sys.stdin, chosen.linger)).follow()
    # Who asks for it by hand has a network, whatever the sweep had.
    return Mirror(sweep, _chosen(sweep, given, mode="online"), Deadline()).once()


@dataclass
class Mirror:
    """A sweep, its tracker, and what is known to have arrived."""

    sweep: Path
    tracker: Tracker
    clock: Deadline
    _arrived: dict[str, tuple[int, bool]] = field(default_factory=dict, init=False)
    _sent: list[float] = field(default_factory=list, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    def once(self) -> int:
        """Send everything; returns the exit status."""
        try:
            with self.tracker.session(self._root) as session:
                runs, left = self._to_the_end(session)
        except (Unreachable, OSError) as error:
            self._say(str(error))
            return 1
        print(f"{self.sweep.name}: {len(runs) - len(left)} of {len(runs)} runs mirrored")
        return 1 if left else 0

    def follow(self) -> int:
        """Send what comes until the launcher is gone, and then what is left, if time allows."""
        with suppress(OSError):
            os.nice(10)
        wait = self.tracker.every
        # At least once: a sweep that had little to do may have ended before this process started.
        while True:
            try:
                with self.tracker.session(self._root, job=_job(self.sweep)) as session:
                    self.clock.wait(wait)
                    while not self.clock.ended:
                        self._pass(session)
                        wait = self.tracker.every
                        self.clock.wait(wait)
                    self._to_the_end(session)
            except (Unreachable, OSError, ValueError) as error:
                self._say(str(error))
                wait = min(2 * wait, _LONGEST)
            if self.clock.ended:
                return 0

    def _to_the_end(self, session: Session) -> tuple[list[Run], list[Run]]:
        """Send until the tracker has it all or time is up; returns all runs and those it lacks."""
        runs, left = self._pass(session, last=True)
        for pause in _AGAIN:
            if not left or self.clock.left <= pause:
                break
            self.clock.wait(pause)
            runs, left = self._pass(session, last=True)
        if left:
            self._say(f"{len(left)} of {len(runs)} runs have not arrived")
        return runs, left

    def _pass(self, session: Session, *, last: bool = False) -> tuple[list[Run], list[Run]]:
        """Send what is due, one process at a time; returns all runs and those the tracker lacks."""
        runs = self._runs()
        with suppress(Timeout), FileLock(self._root / ".mirror.lock", blocking=False):
            for run in self._due(session, runs, last):
                self._pace()
                if self.clock.left <= 0:
                    break
                session.send(run)
        return runs, self._due(session, runs, last)

    def _pace(self) -> None:
        """Wait until one more run is within what may be sent in a minute."""
        now = time.monotonic()
        self._sent = [when for when in self._sent if when > now - 60]
        if len(self._sent) >= self.tracker.per_minute:
            self.clock.wait(self._sent[0] + 60 - now)
        self._sent.append(time.monotonic())

    def _runs(self) -> list[Run]:
        found = sources(self.sweep)
        runs = [*(source.run for source in found), *aggregates(found)]
        return [run for run in runs if run.rows]

    def _due(self, session: Session, runs: Sequence[Run], last: bool) -> list[Run]:
        """The runs of which the tracker lacks something that is to be sent now."""
        if unsure := [run for run in runs if self._lacks(run)]:
            self._arrived.update(session.has(unsure))
        now = last or not self.tracker.whole
        return [run for run in runs if self._lacks(run) and (now or run.done)]

    def _lacks(self, run: Run) -> bool:
        rows, closed = self._arrived.get(run.key, (0, False))
        return rows < len(run.rows) or (run.done and not closed)

    @property
    def _root(self) -> Path:
        return self.sweep.resolve().parent.parent

    def _say(self, reason: str) -> None:
        """Each reason once: nobody reads the hundredth."""
        if reason not in self._said:
            self._said.add(reason)
            kept(self.sweep, reason)


def _chosen(sweep: Path, given: Mapping[str, str], **usual: str) -> Tracker:
    """The tracker of the sweep, or W&B where it had none, with keys given anew.

    `usual` are values of keys that are not given, for a tracker that has them.
    """
    config: dict[str, Any] = frozen(sweep)[0]["config"].get("tracker") or {}
    if config.get("_target_") is None:
        config = yaml.safe_load((CONF / "tracker" / "wandb.yaml").read_text())
    for key in given:
        if key == "_target_" or key not in config:
            raise ValueError(unknown("sync", key, set(config) - {"_target_"}, what="keys"))
    config |= {key: value for key, value in usual.items() if key in config}
    chosen = tracker({**config, **{key: yaml.safe_load(value) for key, value in given.items()}})
    assert chosen is not None
    return chosen


def _job(sweep: Path) -> str:
    """A name for the job that is the same when it is requeued or started again on its machine."""
    ids = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
    slurm = [os.environ[name] for name in ids if name in os.environ]
    slurm = slurm or [os.environ[name] for name in ("SLURM_JOB_ID",) if name in os.environ]
    place = ["slurm", *slurm] if slurm else [platform.node()]
    return "-".join([sweep.resolve().name, *place])
