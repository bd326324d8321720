"""Locks between processes that leave no file behind, even on a file system without file locks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from lt_sweeps.storage.atomic_write import set_aside

_LEASE = 60.0  # seconds until a dead process's lock expires, without file locks


class _PassingLock(FileLock):
    """A file lock whose file is removed while the lock is still held.

    Another process may have opened the file before. When that process gets the lock, the file that
    it opened has no name any more; `filelock` detects this, and starts again with the file that now
    has the name.
    """

    def _release(self) -> None:
        with suppress(OSError):
            # If a person has removed our file, the file of that name belongs to another holder.
            if os.path.samestat(os.fstat(self._context.lock_file_fd), os.lstat(self.lock_file)):  # pyright: ignore[reportArgumentType]
                os.unlink(self.lock_file)
        super()._release()


def lock(path: Path, *, wait: float = -1) -> BaseFileLock | None:
    """Take the lock of a path; None if another process still has it after `wait` seconds.

    The caller must release the lock, but not with `with`, which would take it a second time. If the
    lock is held in one block only, `locked` is safer. The kernel frees the lock when its process
    dies, however it dies; the server of a network file system frees it when the node dies. On a
    file system without locks, a lease is used instead, which its holder renews: it expires a minute
    after the holder dies.

    Args:
        wait: -1 waits forever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        set_aside(path, "a folder where a lock file belongs")
    try:
        return _acquired(_PassingLock(path, fallback_to_soft=False), wait)
    except NotImplementedError:
        return _acquired(SoftFileLease(path.with_suffix(".lease"), lease_duration=_LEASE), wait)


@contextmanager
def locked(path: Path, *, wait: float = -1) -> Iterator[bool]:
    """Hold the lock of a path within the block; yields False if the lock was not free in time."""
    held = lock(path, wait=wait)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def _acquired(held: BaseFileLock, wait: float) -> BaseFileLock | None:
    try:
        held.acquire(timeout=wait, blocking=wait != 0)
    except Timeout:
        return None
    return held
