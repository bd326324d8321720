"""Weights & Biases: runs with axes, curves, results and artifacts, each row once.

Row i of a run is its step i. On resuming, the server says which step comes next, so what is sent
again after a kill is only what did not arrive.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lt_sweeps.tracking import wandb_offline
from lt_sweeps.tracking.artifacts import content
from lt_sweeps.tracking.tracked_runs import Run
from lt_sweeps.tracking.tracker import Unreachable

# What W&B plots against what.
AXES = {
    "train/*": "step",
    "val/*": "step",
    "ticket/*": "sparsity",
    "layers/*": "level",
    "search/*": "step",
    **{f"{kind}/val/*": "step" for kind in ("mean", "ci_low", "ci_high")},
    **{f"{kind}/train/*": "step" for kind in ("mean", "ci_low", "ci_high")},
    **{
        f"{kind}/ticket/*": "sparsity" for kind in ("mean", "sd", "min", "max", "ci_low", "ci_high")
    },
    "mean/layers/*": "level",
}
_PAGE = 100


@dataclass(frozen=True)
class Wandb:
    """The W&B project that a sweep is mirrored in; the server and the key are W&B's own affair."""

    mode: Literal["online", "offline"] = "online"
    project: str = "lt-sweeps"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    artifacts: Literal["none", "masks", "tickets"] = "none"
    every: float = 30
    per_minute: int = 60
    timeout: float = 20
    linger: float = 60

    def __post_init__(self) -> None:
        for name in ("every", "per_minute", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"tracker.{name}: {getattr(self, name)!r}; it is above 0")
        if self.linger < 0:
            raise ValueError(f"tracker.linger: {self.linger!r}; it is 0 or more seconds")
        if not self.project or set(self.project) & set("/\\#?%:"):
            raise ValueError(f"tracker.project: {self.project!r}; W&B takes no / \\ # ? % : in it")
        if importlib.util.find_spec("wandb") is None:
            raise ValueError("tracker: wandb is not installed; hint: pip install lt-sweeps[wandb]")

    @property
    def whole(self) -> bool:
        return self.mode == "offline"

    @contextmanager
    def session(self, root: Path, *, job: str | None = None) -> Iterator[_Session]:
        folder = root / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # Staged artifacts must be where `wandb sync` finds them: beside the runs.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder))
        os.environ.setdefault("WANDB_SILENT", "true")  # `silent` does not reach its login
        with _quiet_log(), wandb_offline.scratch(folder) as scratch:
            session = _Session(self, folder, scratch, job)
            try:
                yield session
            finally:
                session.close()


@dataclass
class _Session:
    """W&B at work: `folder` is `<root>/wandb`, `scratch` what a killed one leaves to be removed."""

    tracker: Wandb
    folder: Path
    scratch: Path
    job: str | None
    _job: Any = field(default=None, init=False)

    def has(self, runs: Sequence[Run]) -> dict[str, tuple[int, bool]]:
        if self.tracker.mode == "offline":
            return wandb_offline.kept(self.folder)
        found: dict[str, tuple[int, bool]] = {}
        with self._answers() as wandb:
            api = wandb.Api(overrides=self._place(), timeout=self.tracker.timeout)
            path = f"{self.tracker.entity or api.default_entity}/{self.tracker.project}"
            for first in range(0, len(runs), _PAGE):
                asked = {run.key: run for run in runs[first : first + _PAGE]}
                with suppress(ValueError):  # the project is not there before its first run
                    for seen in api.runs(path, {"name": {"$in": [*asked]}}, per_page=_PAGE):
                        whole = set(self._attached(asked[seen.id])) <= set(seen.tags)
                        closed = seen.state == "finished" and whole
                        found[seen.id] = (seen.historyLineCount or 0, closed)
        return found

    def send(self, run: Run) -> None:
        with self._answers():
            if self._job is None and self.job is not None:
                self._job = self._begin_job(run.group)
            place = tempfile.mkdtemp(dir=self.scratch)
            mine = self._begin(run, place)
            first = mine.starting_step
            if self.tracker.mode == "offline":
                first = wandb_offline.kept(self.folder).get(run.key, (0, False))[0]
            rows = range(first, len(run.rows))
            for step in rows:
                mine.log(dict(run.rows[step]), step=step)
            mine.summary.update(dict(run.summary))
            for ticket in run.tickets if self.tracker.artifacts != "none" else ():
                self._attach(mine, ticket)
            mine.finish()
        if self.tracker.mode == "offline":
            self._keep(Path(place), run.key, rows, run.done)

    def close(self) -> None:
        """Let go of the job's run, if W&B lets us."""
        if self._job is not None:
            with suppress(Unreachable), self._answers():
                self._job.finish()
            if self.tracker.mode == "offline":
                with suppress(OSError):  # what a machine did is no result
                    self._keep(self.scratch, self._job.id, range(0), False)

    def _keep(self, place: Path, key: str, rows: range, done: bool) -> None:
        wandb_offline.keep(place, self.folder, key, rows, done, patience=self.tracker.timeout)

    def _begin(self, run: Run, place: str) -> Any:
        import wandb

        # A run that goes on is not finished, however often we close our side of it.
        settings = self._settings(x_disable_stats=True, x_update_finish_state=run.done)
        mine = wandb.init(
            **self._place(),
            id=run.key,
            name=run.name,
            group=self.tracker.group or run.group,
            job_type=run.kind,
            tags=[*run.tags, *self.tracker.tags, *self._attached(run)],
            config=dict(run.config),
            allow_val_change=True,
            settings=settings,
            dir=place,
            **self._how,
        )
        for axis in ("step", "level", "sparsity", "percent_remaining"):
            mine.define_metric(axis)
        for name, axis in AXES.items():
            mine.define_metric(name, step_metric=axis)
        return mine

    def _begin_job(self, group: str) -> Any:
        """A run for the machine: what a job's processors and memory did, once for all its runs."""
        import wandb

        settings = self._settings(x_stats_pid=os.getppid(), x_stats_track_process_tree=True)
        return wandb.init(
            **self._place(),
            id=self.job,
            name=self.job,
            group=self.tracker.group or group,
            job_type="job",
            tags=["job", *self.tracker.tags],
            settings=settings,
            dir=str(self.scratch),
            **self._how,
        )

    def _attach(self, mine: Any, ticket: Path) -> None:
        """A ticket or its mask as an artifact, which W&B stores once for all runs that log it."""
        import wandb

        kind = self.tracker.artifacts.removesuffix("s")
        name, path = content(ticket, kind, self.folder / "masks")
        made = wandb.Artifact(f"{kind}-{name}", type=kind)
        made.add_file(str(path), name=path.name, policy="immutable")
        mine.log_artifact(made)

    def _attached(self, run: Run) -> list[str]:
        """The tag that says of a run in W&B that its artifacts are there."""
        wanted = self.tracker.artifacts
        return [wanted] if run.done and run.tickets and wanted != "none" else []

    def _place(self) -> dict[str, Any]:
        place = {"project": self.tracker.project, "entity": self.tracker.entity}
        return {name: value for name, value in place.items() if value is not None}

    @property
    def _how(self) -> dict[str, Any]:
        mode = self.tracker.mode
        return {
            "mode": mode,
            "resume": "allow" if mode == "online" else None,
            "reinit": "create_new",
        }

    def _settings(self, **more: Any) -> Any:
        import wandb

        return wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_save_requirements=False,
            init_timeout=self.tracker.timeout,
            finish_timeout=self.tracker.timeout,
            finish_timeout_raises=True,
            # Our records are the log that W&B would keep for itself.
            x_skip_transaction_log=self.tracker.mode == "online",
            **more,
        )

    @contextmanager
    def _answers(self) -> Iterator[Any]:
        """W&B's errors as ours; after one, its service is started anew."""
        import wandb

        try:
            if self.tracker.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise Unreachable("no API key; run `wandb login`, or set WANDB_API_KEY")
            yield wandb
        except (wandb.Error, OSError, TimeoutError, RuntimeError, ValueError) as error:
            self._job = None
            with suppress(Exception):
                wandb.teardown()
            raise Unreachable(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _quiet_log() -> Iterator[None]:
    """W&B logs what it does to files; on a full disk Python would print a traceback per line."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before
