"""Offline runs: W&B's own files, each whole or absent, for `wandb sync` to upload.

W&B writes such a file as it goes, and a kill leaves a torn one, which makes `wandb sync` give up on
all others. So each is written aside and moved into place with a note of what is in it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.tracking import wandb_file

_NOTE, _PART = "mirrored.json", ".part-"


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder to write in, removed at the end; so are those of processes that were killed."""
    for left in folder.glob(f"{_PART}*"):
        with suppress(Timeout, OSError), FileLock(left / ".lock", blocking=False):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="part-", dir=folder))
    with FileLock(made / ".lock"):
        # Only with the lock in it does it get the name under which it may be removed.
        place = made.rename(made.with_name(f".{made.name}"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def keep(
    scratch: Path, folder: Path, key: str, rows: range, done: bool, *, patience: float
) -> None:
    """Move the run that was just finished from `scratch` to where people look for it.

    `rows` are those that the file should hold, some seconds after W&B says that it has finished.

    Raises: OSError: it does not.
    """
    (made,) = scratch.glob(f"wandb/offline-run-*-{key}")
    limit = time.monotonic() + patience
    while wandb_file.rows(made / f"run-{key}.wandb") != len(rows):
        if time.monotonic() > limit:
            raise OSError(f"W&B's file of {key} is not whole; is the disk full?")
        time.sleep(0.02)
    note = {"run": key, "rows": rows.stop, "done": done}
    write_whole(made / _NOTE, json.dumps(note).encode())
    # W&B's names have a resolution of one second, and it takes them in their order.
    place, number = folder / made.name, 0
    while place.exists():
        number += 1
        place = folder / f"{made.name}-{number}"
    os.rename(made, place)


def kept(folder: Path) -> dict[str, tuple[int, bool]]:
    """How many rows of each run are in the files here, and whether it is closed."""
    found: dict[str, tuple[int, bool]] = {}
    for path in sorted(folder.glob(f"offline-run-*/{_NOTE}")):
        note = json.loads(path.read_text())
        rows, done = found.get(note["run"], (0, False))
        found[note["run"]] = (max(rows, note["rows"]), done or note["done"])
    return found
