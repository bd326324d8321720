"""Locks between processes that leave no file behind, also on a file system without file locks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from lt_sweeps.storage.atomic_write import set_aside

_LEASE = 60.0  # seconds after which the lock of a dead process expires, without file locks


class _PassingLock(FileLock):
    """A file lock whose file is removed while the lock is still held.

    Another process may have opened the file before. When it gets the lock, the file that it holds
    has no name any more; `filelock` sees that, and begins anew with the file of that name.
    """

    def _release(self) -> None:
        with suppress(OSError):
            # Where a person has removed our file, the file of that name is another holder's.
            if os.path.samestat(os.fstat(self._context.lock_file_fd), os.lstat(self.lock_file)):  # pyright: ignore[reportArgumentType]
                os.unlink(self.lock_file)
        super()._release()


def lock(path: Path, *, wait: float = -1) -> BaseFileLock | None:
    """Take the lock of a path; None if another process still has it after `wait` seconds.

    The caller releases it: `with` on a lock that is taken would take it a second time. Where the
    lock is held in one place only, `locked` is safer.
    The kernel frees the lock when its process dies, however it dies; the server of a network file
    system frees it when the node dies. A file system without locks gets a lease instead, which its
    holder renews: it expires a minute after the holder dies.

    Args:
        wait: -1 waits for ever.
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
    """Hold the lock of a path within the block; False if another process has it for so long."""
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
