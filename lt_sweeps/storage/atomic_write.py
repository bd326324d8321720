"""Write files that are whole or absent: a temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

_log = logging.getLogger("lt_sweeps")
# Full, over quota, read-only, stale, I/O error, no locks.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOLCK}


def passes(error: BaseException) -> bool:
    """Whether an error of the file system may be temporary, so that waiting helps."""
    return isinstance(error, OSError) and error.errno in _PASSING


def write_whole(path: Path, content: bytes, *, first_wins: bool = False) -> bool:
    """Write `content` so that a reader sees all of it or none, even if the machine crashes.

    With `first_wins` an existing file is kept. Returns whether `content` was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, because only the owner can read its files, and a lab shares its results.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if first_wins:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # no hard links here; the check is safe, as the caller holds the claim
                if path.exists():
                    return False
                os.replace(temporary, path)
        else:
            if path.is_dir() and not path.is_symlink():
                set_aside(path, "a folder where a file belongs")
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)
    return True


def json_lines(values: Iterable[object]) -> bytes:
    """Return the content of a file with one JSON value per line."""
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def append_whole(path: Path, content: bytes) -> None:
    """Append whole lines to a file; if the process is killed, the last line may be cut short.

    The caller must hold a lock: a network file system does not order the appends of two machines.
    """
    if os.path.lexists(path) and not path.is_file():
        set_aside(path, "no file")
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            content = b"\n" + content  # a line that was cut short stays separate
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        except OSError:  # a full disk: leave the file as it was
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if not size:
        _sync_folder(path.parent)


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file, so that it is not used again, and log a warning."""
    names = (path.with_name(f"{path.name}.corrupt-{number}") for number in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.replace(aside)
        _log.warning("%s: %s; set aside as %s and written again", path, reason, aside.name)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
