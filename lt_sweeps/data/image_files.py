"""The files of an image folder: a listing, and one fingerprint of the content of all files."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lt_sweeps.storage.atomic_write import passes, write_whole

_log = logging.getLogger(__name__)

_CLOCK_SECONDS = 2.0  # file systems record times to within 2 seconds or better


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, except those in hidden folders such as `.ipynb_checkpoints`.

    Raises:
        ValueError: a folder below it cannot be read, or is a link, which might lead in a circle.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, error)

    for above, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(path := os.path.join(above, name)):
                raise unreadable(path, "it is a link to a folder; only classes may be such links")
        yield from (Path(above, name) for name in files)


def fingerprint_of(root: Path, files: Sequence[str], known: Path) -> str:
    """Hash the content of all files, which are read again only if one of them has changed.

    A note in the folder `known` keeps the fingerprint under the sizes and times of the files. The
    times include the last change of the inode (ctime), because no program can set it back.

    Raises:
        ValueError: a file cannot be read.
    """
    states = [_state(root / file) for file in files]
    listing = "\n".join(f"{file}\t{state}" for file, state in zip(files, states, strict=True))
    note = known / f"{hashlib.sha256(os.fsencode(listing)).hexdigest()[:24]}.content"
    with suppress(OSError, ValueError):
        fingerprint, check = note.read_text("utf-8").split() if note.is_file() else ("", "")
        if check == _note_check(listing, fingerprint):
            return fingerprint
    _log.info(
        "image_folder: reading %d files of %s once, to know them by content", len(files), root
    )
    began = time.time()
    content = Content()
    for file in files:
        content.add(file, content_of(root / file))
    fingerprint, newest = content.hexdigest(), max(max(state[1:]) for state in states) / 1e9
    # A file that is written again within one tick of the clock keeps its time, so the change would
    # go unnoticed. So the fingerprint is not noted if a file was that new when it was read.
    if began - newest > _CLOCK_SECONDS:
        with suppress(OSError):  # without the note, the files are only read again next time
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, f"{fingerprint} {_note_check(listing, fingerprint)}".encode())
    return fingerprint


def _note_check(listing: str, fingerprint: str) -> str:
    return hashlib.sha256(os.fsencode(f"{listing}\n{fingerprint}")).hexdigest()


class Content:
    """A hash of the names and contents of many files, which are added one after another."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, content: bytes) -> None:
        self._hash.update(os.fsencode(f"{name}\t{hashlib.sha256(content).hexdigest()}\n"))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _state(path: Path) -> tuple[int, int, int]:
    """The size, mtime and ctime of a file."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise unreadable(path, "it is not a file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, reason: object) -> Exception:
    """Return the error to raise for an unreadable file; temporary errors are returned unchanged."""
    if isinstance(reason, OSError) and passes(reason):
        return reason
    text = reason.strerror if isinstance(reason, OSError) else reason
    return ValueError(f"image_folder: cannot read `{path}`: {text}")
