"""W&B's files of offline runs, each whole or absent, for `wandb sync` to upload.

W&B writes such a file row by row. A kill leaves a torn one, and `wandb sync` then gives up on all
files. So each file is written in a scratch folder, checked, and moved into place with a note that
says how many rows of which run it holds.
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
    """What a run has with a finished file: its first `rows` rows, whether it is closed, its label.

    A file of an earlier version has no label.
    """

    run: str
    rows: int
    done: bool
    label: str = ""


_NOTE, _PART = "mirrored.json", ".part-"
_NOTES = "mirrored.jsonl"  # of all files: `wandb sync --clean` removes those that it has sent


@contextmanager
def scratch_folder(folder: Path) -> Generator[Path, None, None]:
    """A folder to write in, which is removed at the end, as are those of killed processes.

    A killed process cannot remove its folder, but the kernel frees its lock: a scratch folder whose
    lock can be taken belongs to no one.
    """
    for left in folder.glob(f"{_PART}*"):
        with suppress(Timeout, OSError), FileLock(left / ".lock", blocking=False):
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="part-", dir=folder))
    with FileLock(new / ".lock"):
        # Only now, with its lock taken, it gets the name under which others may remove it.
        place = new.rename(new.with_name(f".{new.name}"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def publish(scratch: Path, folder: Path, note: Note, rows: int, *, patience: float) -> None:
    """Move the file of a finished run from `scratch` to `folder`, where `wandb sync` finds it.

    The file must hold `rows` rows. W&B writes some of them after it says that it has finished, so
    there are `patience` seconds for them.

    Raises: OSError: the file is torn, or lacks rows.
    """
    (written,) = scratch.glob(f"wandb/offline-run-*-{note.run}")
    limit = time.monotonic() + patience
    while wandb_file.finished_rows(written / f"run-{note.run}.wandb") != rows:
        if time.monotonic() > limit:
            raise OSError(f"W&B's file of {note.run} is not whole; is the disk full?")
        time.sleep(0.02)
    write_whole(written / _NOTE, json.dumps(vars(note)).encode())
    # `wandb sync` takes files by name, which has the time in seconds: a second file of the same
    # second gets a number, so that it comes after the first.
    place, number = folder / written.name, 0
    while place.exists():
        number += 1
        place = folder / f"{written.name}-{number}"
    os.rename(written, place)
    with locked(folder / ".mirrored.lock"):
        append_whole(folder / _NOTES, json_lines([vars(note)]))


def rows_written(folder: Path) -> dict[str, Arrived]:
    """What the files in `folder` hold of each run, by key, or held before they were removed."""
    arrived: dict[str, Arrived] = {}
    # A process that is killed between the two leaves a file that only its own note tells of.
    notes = [read_json(path, Note) for path in sorted(folder.glob(f"offline-run-*/{_NOTE}"))]
    for note in [*notes, *read_lines(folder / _NOTES, Note)]:
        before = arrived.get(note.run, Arrived())
        rows, closed = max(before.rows, note.rows), before.closed or note.done
        arrived[note.run] = Arrived(rows, closed, note.label)
    return arrived
