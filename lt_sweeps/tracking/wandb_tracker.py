"""The Weights & Biases tracker: runs with axes, curves, results and artifacts, each row once.

Row i of a run is W&B's step i. When a run is resumed after a kill, the server reports the next
step, so only rows that have not arrived are sent.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from lt_sweeps.tracking import wandb_offline
from lt_sweeps.tracking.mean_runs import KINDS
from lt_sweeps.tracking.tracked_runs import Run, label
from lt_sweeps.tracking.tracker import Arrived, Unreachable, check_installed, check_seconds
from lt_sweeps.tracking.wandb_artifacts import attach

# The x axis that W&B uses for each metric, and for its statistics over seeds.
_AXES = dict.fromkeys(("train/*", "val/*", "search/*"), "step")
_AXES |= {"ticket/*": "sparsity", "layers/*": "level"}
AXES = _AXES | {f"{kind}/{name}": axis for kind in KINDS for name, axis in _AXES.items()}
_PAGE = 100
# With these variables W&B would ignore the names of our runs and mix them with other runs. The
# agent of a W&B sweep sets the first for every command that it starts, so maybe also for ours.
_NOT_OURS = ("WANDB_SWEEP_ID", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")
_SERVICE_ENDS = 5.0  # the least seconds that W&B's service gets to end after an error


@dataclass(frozen=True)
class Wandb:
    """The W&B project that mirrors a sweep; server and API key are in W&B's own settings."""

    mode: Literal["online", "offline"] | None = None  # None: WANDB_MODE, or online
    project: str = "lt-sweeps"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    artifacts: Literal["none", "masks", "tickets"] = "none"
    every: float = 30
    per_minute: float = 60
    timeout: float = 20
    linger: float = 60

    def __post_init__(self) -> None:
        check_seconds(self)
        if not self.project or set(self.project) & set("/\\#?%:"):
            raise ValueError(f"tracker.project: {self.project!r}; W&B allows none of / \\ # ? % :")
        check_installed("wandb", extra="wandb")
        if self.mode is None:
            mode = os.environ.get("WANDB_MODE", "online")
            if mode not in ("online", "offline"):
                raise ValueError(f"WANDB_MODE is {mode}; unset it, or give the key mode=offline")
            object.__setattr__(self, "mode", mode)
        if self.mode == "offline":  # files have no rate limit
            object.__setattr__(self, "per_minute", math.inf)

    @property
    def whole(self) -> bool:
        return self.mode == "offline"

    @contextmanager
    def session(self, root: Path, *, job: str | None = None) -> Iterator[_Session]:
        mode = os.environ.get("WANDB_MODE", "online")
        if self.mode == "online" != mode:
            raise Unreachable(f"WANDB_MODE is {mode}; unset it, or give the key mode=offline")
        for name in _NOT_OURS:
            os.environ.pop(name, None)
        folder = root / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # `wandb sync` looks for staged artifacts next to the runs.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder))
        # By default W&B logs and caches in the home folder, often small on a cluster, maybe full.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / ".cache"))
        os.environ.setdefault("WANDB_SILENT", "true")  # the setting `silent` does not silence login
        # In Python 3.14 W&B's telemetry ends twice at exit, and warns of it.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        with _quiet_log(), wandb_offline.scratch_folder(folder) as scratch:
            session = _Session(self, folder, scratch, job)
            try:
                yield session
            finally:
                session.close()


@dataclass
class _Session:
    """A connection to W&B, which writes in `scratch`; finished files move to `<root>/wandb`."""

    tracker: Wandb
    folder: Path
    scratch: Path
    job: str | None
    _job: Any = field(default=None, init=False)
    _written: dict[str, Arrived] = field(default_factory=dict[str, Arrived], init=False)

    @property
    def files(self) -> str | None:
        """The folder of the offline runs' files and the command that uploads them; None online."""
        if self.tracker.mode != "offline":
            return None
        return f"{self.folder}; `wandb sync {self.folder}/offline-run-*` sends them"

    def has(self, runs: Sequence[Run]) -> dict[str, Arrived]:
        if self.tracker.mode == "offline":
            self._written = wandb_offline.rows_written(self.folder)
            return self._written
        arrived: dict[str, Arrived] = {}
        with self._answers() as wandb:
            api = wandb.Api(overrides=self._place(), timeout=self.tracker.timeout)
            path = f"{self.tracker.entity or api.default_entity}/{self.tracker.project}"
            for first in range(0, len(runs), _PAGE):
                page = {run.key: run for run in runs[first : first + _PAGE]}
                with suppress(ValueError):  # a project does not exist before its first run
                    these = {"name": {"$in": [*page]}}
                    for seen in api.runs(path, these, per_page=_PAGE, lazy=False):
                        whole = set(self._attached(page[seen.id])) <= set(seen.tags)
                        closed, rows = seen.state == "finished" and whole, seen.historyLineCount
                        arrived[seen.id] = Arrived(rows or 0, closed, label(seen.config))
        return arrived

    def send(self, run: Run) -> None:
        with self._answers():
            if self._job is None and self.job is not None:
                self._job = self._begin_job(run.group)
            place = tempfile.mkdtemp(dir=self.scratch)
            mine = self._begin(run, place)
            first = mine.starting_step
            if self.tracker.mode == "offline":
                first = self._written.get(run.key, Arrived()).rows
            rows = range(first, len(run.rows))
            for step in rows:
                mine.log(dict(run.rows[step]), step=step)
            mine.summary.update(dict(run.summary))
            if self._attached(run):
                wait = self.tracker.timeout if self.tracker.mode == "online" else None
                attach(mine, run, self.tracker.artifacts, wait=wait)
            mine.finish()
        if self.tracker.mode == "offline":
            self._keep(Path(place), run.key, rows, run.done, run.label)

    def close(self) -> None:
        """Finish the job's run, if W&B can be reached."""
        if self._job is not None:
            with suppress(Unreachable), self._answers():
                self._job.finish()
            if self.tracker.mode == "offline":
                with suppress(OSError):  # the machine's load is worth no error
                    self._keep(self.scratch, self._job.id, range(0), False, "")

    def _keep(self, place: Path, key: str, rows: range, done: bool, label: str) -> None:
        note = wandb_offline.Note(key, rows.stop, done, label)
        wandb_offline.publish(place, self.folder, note, len(rows), patience=self.tracker.timeout)

    def _begin(self, run: Run, place: str) -> Any:
        mine = self._init(
            run.group,
            # Ending this connection must not mark a run as finished before all levels are done.
            {"x_disable_stats": True, "x_update_finish_state": run.done},
            id=run.key,
            name=run.name,
            job_type=run.kind,
            tags=[*run.tags, *self.tracker.tags, *self._attached(run)],
            config={**run.config, **run.about},
            allow_val_change=True,
            dir=place,
        )
        for axis in ("step", "level", "sparsity", "percent_remaining"):
            mine.define_metric(axis)
        for name, axis in AXES.items():
            mine.define_metric(name, step_metric=axis)
        return mine

    def _begin_job(self, group: str) -> Any:
        """Begin a run with the load of the job's processors and memory, one such run per job."""
        return self._init(
            group,
            {"x_stats_pid": os.getppid(), "x_stats_track_process_tree": True},
            id=self.job,
            name=self.job,
            job_type="job",
            tags=["job", *self.tracker.tags],
            dir=str(self.scratch),
        )

    def _attached(self, run: Run) -> list[str]:
        """The tag that marks a run in W&B as one whose artifacts have all been logged."""
        wanted = self.tracker.artifacts
        return [wanted] if run.done and run.tickets and wanted != "none" else []

    def _place(self) -> dict[str, Any]:
        place = {"project": self.tracker.project, "entity": self.tracker.entity}
        return {name: value for name, value in place.items() if value is not None}

    def _init(self, group: str, settings: Mapping[str, Any], **more: Any) -> Any:
        """Begin a W&B run with the settings that runs of cells and of the job have in common."""
        import wandb

        common = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_save_requirements=False,
            init_timeout=self.tracker.timeout,
            finish_timeout=self.tracker.timeout,
            finish_timeout_raises=True,
            # W&B's log of what it sends is not needed: our records can be sent again.
            x_skip_transaction_log=self.tracker.mode == "online",
            **settings,
        )
        return wandb.init(
            **self._place(),
            mode=self.tracker.mode,
            resume="allow" if self.tracker.mode == "online" else None,
            reinit="create_new",
            group=self.tracker.group or group,
            settings=common,
            **more,
        )

    @contextmanager
    def _answers(self) -> Iterator[Any]:
        """Turn W&B's errors into `Unreachable`; after an error W&B's service is restarted."""
        import wandb

        try:
            if self.tracker.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise Unreachable("no API key; run `wandb login`, or set WANDB_API_KEY")
            yield wandb
        except (wandb.Error, OSError, TimeoutError, RuntimeError, ValueError) as error:
            self._job = None
            # If W&B's service was killed, W&B exits with the service's status.
            with suppress(Exception, SystemExit), _service_ends(self.tracker.timeout):
                wandb.teardown()
            raise Unreachable(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _service_ends(timeout: float) -> Iterator[None]:
    """Kill W&B's service if it does not end in time: some of its retries never stop.

    Rows that it still holds are not lost, because they are sent again from the records.
    """
    timer = threading.Timer(max(timeout, _SERVICE_ENDS), _kill_service)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill_service() -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if process.name() == "wandb-core":
                process.kill()


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Silence errors of W&B's logging: on a full disk each log line would print a traceback."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before
