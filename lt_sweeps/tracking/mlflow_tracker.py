"""The MLflow tracker: an MLflow run for each `Run`, with parameters, tags and metrics.

MLflow stores two points of a metric once if they have the same value, step and time. So row i of a
run has a time that depends only on i, and a row that was sent before a kill can be sent again. A
tag that is written after the rows holds their number.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lt_sweeps.tracking.tracked_runs import Run, axis, label, numbers
from lt_sweeps.tracking.tracker import Arrived, Unreachable, check_installed, check_seconds

_KEY, _ROWS = "lt_sweeps.run", "lt_sweeps.rows"
_METRICS, _SETTINGS, _LETTERS = 1000, 100, 5000  # MLflow's limits per request
_PAGE = 1000


@dataclass(frozen=True)
class MLflow:
    """The MLflow database or server that mirrors a sweep."""

    uri: str | None = None
    experiment: str | None = None
    every: float = 30
    per_minute: int = 600
    timeout: float = 20
    linger: float = 60
    whole = False

    def __post_init__(self) -> None:
        check_seconds(self)
        check_installed("mlflow", "sqlalchemy", "alembic", extra="mlflow")

    @contextmanager
    def session(self, root: Path, *, job: str | None = None) -> Iterator[_Session]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(self.timeout))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        uri = self.uri or f"sqlite:///{(root / 'mlflow.db').resolve()}"
        with _answers():
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):  # the import sets their levels
                logging.getLogger(name).setLevel(logging.ERROR)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        yield _Session(client, self.experiment, uri)


@dataclass(frozen=True)
class _Session:
    client: Any
    experiment: str | None
    uri: str

    @property
    def files(self) -> str:
        """The argument for `mlflow ui --backend-store-uri`, without a server's credentials."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.uri)

    def has(self, runs: Sequence[Run]) -> dict[str, Arrived]:
        with _answers():
            wanted, known = {run.key for run in runs}, self._known(runs)
            return {key: _arrived(run) for key, run in known.items() if key in wanted}

    def send(self, run: Run) -> None:
        from mlflow.entities import Metric, Param, RunTag

        with _answers():
            there = self._known([run]).get(run.key) or self._begin(run)
            key, began = there.info.run_id, there.info.start_time
            rows = _arrived(there).rows
            if rows == 0:
                settings = [Param(n, str(v)[:_LETTERS]) for n, v in run.settings.items()]
                for batch in _batches(settings, _SETTINGS):
                    self.client.log_batch(key, params=batch)
            points = [
                [Metric(n, v, began + number, axis(row)) for n, v in numbers(row).items()]
                for number, row in enumerate(run.rows)
            ]
            end = began + len(points)
            if run.done:
                summary = numbers(run.summary).items()
                points.append([Metric(f"summary/{n}", v, end, 0) for n, v in summary])
            for batch in _batches([*chain.from_iterable(points[rows:])], _METRICS):
                self.client.log_batch(key, metrics=batch)
            about = {**run.about, "kind": run.kind, "tags": ",".join(run.tags)}
            tags = {n: str(v)[:_LETTERS] for n, v in about.items()} | {_ROWS: str(len(run.rows))}
            self.client.log_batch(key, tags=[RunTag(n, v) for n, v in tags.items()])
            if run.done:
                self.client.set_terminated(key, "FINISHED", end)

    def _known(self, runs: Sequence[Run]) -> dict[str, Any]:
        """MLflow's runs in the experiments of these runs, by our key."""
        names = {self.experiment or run.group for run in runs}
        found = filter(None, map(self.client.get_experiment_by_name, sorted(names)))
        where = [each.experiment_id for each in found if each.lifecycle_stage == "active"]
        which = f"tags.`{_KEY}` = '{runs[0].key}'" if len(runs) == 1 else ""
        known, token = {}, None
        while where:
            page = self.client.search_runs(where, which, max_results=_PAGE, page_token=token)
            known |= {run.data.tags.get(_KEY, ""): run for run in page}
            if not (token := page.token):
                break
        return known

    def _begin(self, run: Run) -> Any:
        name = self.experiment or run.group
        experiment = self.client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self.client.create_experiment(name)
        return self.client.create_run(where, tags={_KEY: run.key}, run_name=run.name)


def _arrived(run: Any) -> Arrived:
    tags = run.data.tags
    return Arrived(int(tags.get(_ROWS, 0)), run.info.status == "FINISHED", label(tags))


def _batches(entries: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(entries), most):
        yield entries[at : at + most]


@contextmanager
def _answers() -> Iterator[None]:
    """Turn MLflow's errors, and those of its database, into `Unreachable`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Unreachable(" ".join(str(error).split())[:300]) from error
