"""The TensorBoard tracker: an event file for each run, `<sweep>/<panel>/<line>/<run>`.

Row i of a run is event i + 1 of its file; event 0 names the format. So the file itself shows which
rows have arrived. A kill can cut off its last event, which is then removed and written again.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.tracking.tracked_runs import Run, axis, numbers
from lt_sweeps.tracking.tracker import Arrived, check_installed, check_seconds

_FILE = "events.out.tfevents.0.lt-sweeps"
_END = "_hparams_/session_end_info"  # TensorBoard's own name


@dataclass(frozen=True)
class TensorBoard:
    """The folder of event files that mirrors a sweep; `folder` is relative to the root."""

    folder: str | None = None
    every: float = 30
    per_minute: int = 6000
    linger: float = 60
    whole = False

    def __post_init__(self) -> None:
        check_seconds(self)
        check_installed("tensorboard", extra="tensorboard")

    @contextmanager
    def session(self, root: Path, *, job: str | None = None) -> Iterator[_Session]:
        yield _Session(root / (self.folder or "tensorboard"))


@dataclass(frozen=True)
class _Session:
    folder: Path

    @property
    def files(self) -> Path:
        """The argument for `tensorboard --logdir`."""
        return self.folder

    def has(self, runs: Sequence[Run]) -> dict[str, Arrived]:
        found = {run.key: (self._file(run), self._existing_file(run)) for run in runs}
        return {
            # A file at another path was written when the run's line had another name.
            key: _read(present)[0]._replace(label=None if present == file else "")
            for key, (file, present) in found.items()
            if present is not None
        }

    def send(self, run: Run) -> None:
        file, present = self._file(run), self._existing_file(run)
        if present is None:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif present != file:
            file.parent.parent.mkdir(parents=True, exist_ok=True)
            present.parent.rename(file.parent)
        arrived, size = _read(file) if present is not None else (Arrived(), 0)
        events = list(_events(run, arrived.rows, first=size == 0, last=not arrived.closed))
        with file.open("xb" if present is None else "r+b") as stream:
            stream.truncate(size)
            stream.seek(size)
            _write(stream, events)

    def _file(self, run: Run) -> Path:
        """The path at which a run's file belongs; TensorBoard names the run by these folders."""
        sweep, panel, line = (str(run.about[name]) for name in ("sweep", "panel", "line"))
        folders = map(_folder_name, (sweep, panel, line))
        return self.folder.joinpath(*folders, run.key, _FILE)

    def _existing_file(self, run: Run) -> Path | None:
        """The present path of a run's file, maybe under its line's earlier name; None if absent."""
        sweep = self.folder / _folder_name(str(run.about["sweep"]))
        return next(sweep.glob(f"*/*/{run.key}/{_FILE}"), None)


def _folder_name(words: str) -> str:
    return words.replace("/", "_").replace("\0", "").strip(".")[:200] or "-"


def _read(file: Path) -> tuple[Arrived, int]:
    """The rows in a file, and the number of bytes of its complete events."""
    loader = _module("backend.event_processing.event_file_loader").RawEventFileLoader(str(file))
    rows, size, closed = 0, 0, False
    for content in loader.Load():
        event = _module("compat.proto.event_pb2").Event.FromString(content)
        size += len(content) + 16  # two checksums and a length
        is_end = any(value.tag == _END for value in event.summary.value)
        rows += event.HasField("summary") and not is_end
        closed |= is_end
    return Arrived(rows, closed), size


def _events(run: Run, start: int, *, first: bool, last: bool) -> Iterator[Any]:
    Event, Summary = _module("compat.proto.event_pb2").Event, _summary()
    if first:
        yield Event(wall_time=time.time(), file_version="brain.Event:2")
    for row in run.rows[start:]:
        values = [Summary.Value(tag=n, simple_value=v) for n, v in numbers(row).items()]
        yield Event(wall_time=time.time(), step=axis(row), summary=Summary(value=values))
    if run.done and last:
        yield Event(wall_time=time.time(), summary=Summary(value=_final_values(run)))


def _final_values(run: Run) -> list[Any]:
    """The settings and the summary of a finished run, for a row of TensorBoard's HPARAMS table."""
    table, Summary = _module("plugins.hparams.plugin_data_pb2"), _summary()
    start, end = table.SessionStartInfo(), table.SessionEndInfo(status="STATUS_SUCCESS")
    for name, value in {**run.settings, **run.about}.items():
        kind = {bool: "bool_value", int: "number_value", float: "number_value"}.get(type(value))
        setattr(start.hparams[name], kind or "string_value", value if kind else str(value))

    def noted(tag: str, **content: Any) -> Any:
        value = Summary.Value(tag=tag)
        value.metadata.plugin_data.plugin_name = "hparams"
        value.metadata.plugin_data.content = table.HParamsPluginData(**content).SerializeToString()
        return value

    summary = {f"summary/{name}": value for name, value in numbers(run.summary).items()}
    return [
        noted("_hparams_/session_start_info", session_start_info=start),
        *(Summary.Value(tag=name, simple_value=value) for name, value in summary.items()),
        noted(_END, session_end_info=end),
    ]


def _write(stream: Any, events: Sequence[Any]) -> None:
    writer = _module("summary.writer.record_writer").RecordWriter(stream)
    for event in events:
        writer.write(event.SerializeToString())
    writer.flush()


def _summary() -> Any:
    return _module("compat.proto.summary_pb2").Summary


def _module(name: str) -> Any:
    """Import a module of TensorBoard, which may not be installed and has no types."""
    return importlib.import_module(f"tensorboard.{name}")
