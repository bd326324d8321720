"""W&B's files of offline runs, each whole or absent, for `wandb sync` to upload.

W&B writes such a file row by row. A kill leaves a torn file, and `wandb sync` then uploads no file
at all. So each file is written in a scratch folder, checked, and moved into place with a note that
names the run and its number of rows.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lt_sweeps.storage.atomic_write import append_whole, json_lines, write_whole
from lt_sweeps.storage.checked_read import read_json, read_lines
from lt_sweeps.storage.locks import locked
from lt_sweeps.tracking import wandb_file
from lt_sweeps.tracking.tracker import Arrived


@dataclass(frozen=True)
class Note:
    """The state of a run after a finished file: its first `rows` rows are written.

    `done` says whether the run is closed. `label` is empty in notes of earlier versions.
    """

    run: str
    rows: int
    done: bool
    label: str = ""


_NOTE, _PART = "mirrored.json", ".part-"
_NOTES = "mirrored.jsonl"  # all notes, because `wandb sync --clean` removes files after sending


@contextmanager
def scratch_folder(folder: Path) -> Generator[Path, None, None]:
    """Make a folder to write in and remove it at the end; also remove folders of killed processes.

    A killed process cannot remove its folder, but the kernel releases its lock. So a scratch folder
    whose lock is free has no owner any more.
    """
    for left in folder.glob(f"{_PART}*"):
        with suppress(Timeout, OSError), FileLock(left / ".lock", blocking=False):
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="part-", dir=folder))
    with FileLock(new / ".lock"):
        # Renamed only now that it is locked: other processes may remove folders with this name.
        place = new.rename(new.with_name(f".{new.name}"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def publish(scratch: Path, folder: Path, note: Note, rows: int, *, patience: float) -> None:
    """Move the file of a finished run from `scratch` to `folder`, where `wandb sync` finds it.

    The file must have `rows` rows. W&B writes some of them after it reports that it has finished,
    so they may arrive within `patience` seconds.

    Raises: OSError: the file is torn or lacks rows after that time.
    """
    (written,) = scratch.glob(f"wandb/offline-run-*-{note.run}")
    limit = time.monotonic() + patience
    while wandb_file.finished_rows(written / f"run-{note.run}.wandb") != rows:
        if time.monotonic() > limit:
            raise OSError(f"W&B's file of {note.run} is not whole; is the disk full?")
        time.sleep(0.02)
    write_whole(written / _NOTE, json.dumps(vars(note)).encode())
    # `wandb sync` uploads files in the order of their names, which contain the time in seconds. A
    # second file of the same second gets a number, so that it is uploaded after the first.
    place, number = folder / written.name, 0
    while place.exists():
        number += 1
        place = folder / f"{written.name}-{number}"
    os.rename(written, place)
    with locked(folder / ".mirrored.lock"):
        append_whole(folder / _NOTES, json_lines([vars(note)]))


def rows_written(folder: Path) -> dict[str, Arrived]:
    """The rows of each run, by key, in the files in `folder`, including files removed since."""
    arrived: dict[str, Arrived] = {}
    # Both kinds of notes are read: if a process is killed in `publish` after moving a file, only
    # the note in that file's folder exists.
    notes = [read_json(path, Note) for path in sorted(folder.glob(f"offline-run-*/{_NOTE}"))]
    for note in [*notes, *read_lines(folder / _NOTES, Note)]:
        before = arrived.get(note.run, Arrived())
        rows, closed = max(before.rows, note.rows), before.closed or note.done
        arrived[note.run] = Arrived(rows, closed, note.label)
    return arrived
