"""Mirror a sweep in its tracker: once (`lt-sweeps sync`), or as long as the sweep runs.

The records on disk are the only source, and the mirror stores no state of its own. It asks the
tracker how many rows of each run have arrived, and sends the others. So it can be killed at any
moment: the next mirror asks again and continues from there.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.durations import readable
from lt_sweeps.config.errors import CONF, yaml_value
from lt_sweeps.config.spelling import unknown
from lt_sweeps.config.trust import check_trusted, trusted_modules
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.tracking.mean_runs import runs_over_seeds
from lt_sweeps.tracking.mirror_process import Deadline, say_results_are_kept
from lt_sweeps.tracking.tracked_runs import Run
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.tracking.tracker import Arrived, Session, Tracker, Unreachable, tracker_of

_AGAIN = (1.0, 2.0, 4.0)  # seconds; W&B may report rows only some seconds after it received them
_LONGEST = 600.0  # the most seconds between two attempts, if a server does not answer
_MOST_FAILURES = 3  # in a row, then a pass ends: other runs may fail too, each after a timeout


def sync(sweep: Path, **keys: str) -> int:
    """Mirror a sweep; return the exit status, 0 only if the tracker has all rows of all runs.

    `keys` replace keys of the tracker that the sweep was started with. The key `tracker` chooses
    another tracker of this package, and `trust` names modules outside this package from which the
    tracker may be loaded. With `follow=true` the sweep is mirrored as long as it runs.

    Raises: ValueError: a key is unknown, a value is wrong, or the sweep cannot be read.
    """
    trust = trusted_modules(keys.pop("trust", None))
    if keys.pop("follow", "false") == "true":
        chosen = _chosen(sweep, keys, trust)
        return Mirror(sweep, chosen, Deadline(sys.stdin, chosen.linger)).follow()
    # A person who types `sync` has a network, even if the sweep ran offline.
    return Mirror(sweep, _chosen(sweep, keys, trust, mode="online"), Deadline()).once()


@dataclass(frozen=True)
class _Refusal:
    """The reason why a run could not be sent, and the time `until` which it is not tried again.

    `pause` is the waiting time in seconds; it doubles at each failure.
    """

    reason: str
    pause: float
    until: float


@dataclass
class Mirror:
    """Sends a sweep's runs to its tracker, and remembers which rows have arrived there."""

    sweep: Path
    tracker: Tracker
    clock: Deadline
    _arrived: dict[str, Arrived] = field(default_factory=dict[str, Arrived], init=False)
    _refused: dict[str, _Refusal] = field(default_factory=dict[str, _Refusal], init=False)
    _sent: list[float] = field(default_factory=list[float], init=False)
    _printed: set[str] = field(default_factory=set[str], init=False)

    def once(self) -> int:
        """Send all rows that exist now; return the exit status."""
        try:
            with self.tracker.session(self._root) as session:
                runs, left = self._to_the_end(session)
                files = getattr(session, "files", None)  # only of trackers that write files
        except ValueError:
            raise  # the sweep cannot be read
        except Exception as error:
            self._say(_reason(error))
            return 1
        place = f" in {files}" if files is not None else ""
        print(f"{self.sweep.name}: {len(runs) - len(left)} of {len(runs)} runs mirrored{place}")
        return 1 if left else 0

    def follow(self) -> int:
        """Send rows as they appear until the launcher exits, then the rest within `linger` seconds.

        An error is printed once, ends the session, and doubles the time until the next attempt.
        """
        with suppress(OSError):
            os.nice(10)
        wait = self.tracker.every
        # Run at least once: a short sweep may have ended before this process started.
        while True:
            try:
                with self.tracker.session(self._root, job=_job(self.sweep)) as session:
                    self.clock.wait(wait)
                    while not self.clock.ended:
                        self._say_refused(self._pass(session)[1])
                        wait = self.tracker.every
                        self.clock.wait(wait)
                    self._to_the_end(session)
            except Exception as error:
                self._say(_reason(error))
                wait = min(2 * wait, _LONGEST)
            if self.clock.ended:
                return 0

    def _to_the_end(self, session: Session) -> tuple[list[Run], list[Run]]:
        """Send until all rows have arrived or time is up; return all runs, and incomplete runs."""
        runs, left = self._pass(session, last=True)
        for pause in _AGAIN:
            if self._refused.keys() >= {run.key for run in left} or self.clock.left <= pause:
                break
            self.clock.wait(pause)
            runs, left = self._pass(session, last=True)
        if left and not self._say_refused(left):
            self._say(f"{len(left)} of {len(runs)} runs have not arrived")
        return runs, left

    def _pass(self, session: Session, *, last: bool = False) -> tuple[list[Run], list[Run]]:
        """Send each run that is due; return all runs, and the runs that are still due."""
        runs, failed = self._runs(), 0
        with self._sending_lock(session, runs, last) as alone:
            for run in self._sendable(self._due(session, runs, last), last) if alone else ():
                self._pace(last=last)
                if self.clock.left <= 0 or failed == _MOST_FAILURES:
                    break
                failed = 0 if self._send(session, run) else failed + 1
        return runs, self._due(session, runs, last)

    @contextmanager
    def _sending_lock(self, session: Session, runs: Sequence[Run], last: bool) -> Generator[bool]:
        """Hold a lock that keeps two mirrors of one `root` from sending the same rows.

        Yield whether this mirror has the lock. Without the lock it sends nothing, except that in
        its last pass it waits for the lock, because the other mirror may be of another sweep.

        Raises: Unreachable: the other mirror still has the lock after the wait.
        """
        path, wait = self._root / ".mirror.lock", min(self.clock.left, _LONGEST) if last else 0.0
        with locked(path, wait=0) as alone:
            if alone or wait <= 0 or not self._due(session, runs, last):
                yield alone
                return
        line = (
            f"tracker: another process sends rows of {self._root} (a running sweep or another "
            f"`sync`); waiting up to {readable(wait)} until it is done; Ctrl-C loses nothing"
        )
        print(line, file=sys.stderr, flush=True)
        with locked(path, wait=wait) as alone:
            if not alone:
                raise Unreachable(f"the other process was not done after {readable(wait)}")
            yield True

    def _sendable(self, due: Sequence[Run], last: bool) -> list[Run]:
        """The runs to try now; those that were refused before come last.

        A tracker may refuse a run permanently: W&B does so if a person has deleted the run.
        """
        new = [run for run in due if run.key not in self._refused]
        again = [run for run in due if run.key in self._refused]
        now = time.monotonic()
        return new + [run for run in again if last or self._refused[run.key].until <= now]

    def _send(self, session: Session, run: Run) -> bool:
        """Send a run; return whether the tracker accepted it."""
        try:
            _check_rows(run, self._arrived.get(run.key, Arrived()))
            session.send(run)
        except Exception as error:
            before = self._refused.get(run.key)
            pause = min(2 * before.pause, _LONGEST) if before else self.tracker.every
            self._refused[run.key] = _Refusal(_reason(error), pause, time.monotonic() + pause)
            return False
        self._refused.pop(run.key, None)
        return True

    def _say_refused(self, left: Sequence[Run]) -> bool:
        """Print why the first refused run among `left` was refused; return whether any was."""
        refused = [run.key for run in left if run.key in self._refused]
        if refused:
            self._say(self._refused[refused[0]].reason)
        return bool(refused)

    def _pace(self, *, last: bool) -> None:
        """Wait until another run may be sent: at most `per_minute` sends in any 60 seconds.

        While the sweep runs, only half of this rate is used, because each run is sent repeatedly.
        Otherwise a large sweep would use all of it, and its last rows, for which there are only
        `linger` seconds, would have to wait for up to a minute.
        """
        now, most = time.monotonic(), self.tracker.per_minute
        if not last and not self.tracker.whole:
            most = max(1, most / 2)
        self._sent = [moment for moment in self._sent if moment > now - 60]
        if len(self._sent) >= most:
            self.clock.wait(self._sent[0] + 60 - now)
        self._sent.append(time.monotonic())

    def _runs(self) -> list[Run]:
        cells = tracked_cells(self.sweep)
        runs = [*(cell.run for cell in cells), *runs_over_seeds(cells)]
        return [run for run in runs if run.rows]

    def _due(self, session: Session, runs: Sequence[Run], last: bool) -> list[Run]:
        """The runs to send now; the tracker is asked only about runs that may be incomplete."""
        if incomplete := [run for run in runs if self._lacks(run)]:
            self._arrived.update(session.has(incomplete))
        growing = last or not self.tracker.whole
        return [run for run in runs if self._lacks(run) and (growing or run.done)]

    def _lacks(self, run: Run) -> bool:
        rows, closed, label = self._arrived.get(run.key, Arrived())
        whole = closed and label in (None, run.label)
        return rows < len(run.rows) or (run.done and not whole)

    @property
    def _root(self) -> Path:
        return self.sweep.resolve().parent.parent

    def _say(self, reason: str) -> None:
        """Print a reason, once only: a server that is down all night fails a hundred times."""
        if reason not in self._printed:
            self._printed.add(reason)
            say_results_are_kept(self.sweep, reason)


def _check_rows(run: Run, arrived: Arrived) -> None:
    """Raises: Unreachable: rows that the tracker may lack cannot be numbered any more."""
    if run.dropped and arrived.rows and not arrived.closed:
        raise Unreachable(
            f"{run.name}: a part of its rows has arrived, and the tickets of others were dropped; "
            "`sync` to another project, experiment or folder sends its results"
        )


def _chosen(sweep: Path, keys: Mapping[str, str], trust: Sequence[str], **defaults: str) -> Tracker:
    """The tracker to use, with its keys replaced by `keys`.

    It is the tracker that `keys` names, otherwise the sweep's own, otherwise W&B. `defaults`
    replace the tracker's values of keys that it has and that `keys` does not contain.
    """
    config: dict[str, Any] = SweepFolder(sweep).manifest.cells[0].config.get("tracker") or {}
    check_trusted(config, where=f"sync: {SweepFolder(sweep).path}", trust=trust)
    name = keys.get("tracker", "wandb" if config.get("_target_") is None else None)
    if name is not None:
        files = (CONF / "tracker").glob("*.yaml")
        ours = {file.stem: file for file in files if file.stem != "none"}
        if name not in ours:
            raise ValueError(unknown("sync: tracker", name, ours, what="trackers"))
        config = yaml.safe_load(ours[name].read_text("utf-8"))
    given = {key: yaml_value(key, value) for key, value in keys.items() if key != "tracker"}
    for key in given:
        if key == "_target_" or key not in config:
            raise ValueError(unknown("sync", key, set(config) - {"_target_"}, what="keys"))
    own = {key: value for key, value in defaults.items() if key in config}
    chosen = tracker_of({**config, **own, **given})
    assert chosen is not None
    return chosen


def _reason(error: Exception) -> str:
    """An error in one line; with its place in the code if a tracker should have caught it."""
    if isinstance(error, (Unreachable, OSError, ValueError)):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def _job(sweep: Path) -> str:
    """A name for this job that stays the same when the job is requeued or started again."""
    task = [os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK")]
    slurm = list(filter(None, task)) or list(filter(None, [os.environ.get("SLURM_JOB_ID")]))
    machine = ["slurm", *slurm] if slurm else [platform.node()]
    return "-".join([sweep.resolve().name, *machine])
