"""The version of a file, which changes whenever the file is written, replaced or copied.

So what was once read of a file need not be read again. The time of a file's last change (`ctime`)
is part of its version, because no program can set it back. This module does not import torch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from pathlib import Path

_TICK, _COARSE_TICK = 0.05, 2.0  # seconds; no shorter than a tick of a file system's clock


def version(path: str | Path) -> str | None:
    """Return a text that changes if a file is written, replaced or copied; None without a file."""
    try:
        return version_of(os.stat(path))
    except OSError:
        return None


def version_of(at: os.stat_result) -> str:
    return f"{at.st_ino}-{at.st_size}-{at.st_mtime_ns}-{at.st_ctime_ns}"


def is_settled(version: str) -> bool:
    """Whether a change of a file now would change its version.

    The clock of most file systems ticks every few milliseconds, of some only every second or two: a
    file that was just written could change again within the same tick.
    """
    changed = int(version.rpartition("-")[2])
    tick = _TICK if changed % 1_000_000 else _COARSE_TICK
    return time.time_ns() - changed > tick * 1e9


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, which may be larger than memory."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()


def known_sha256(path: Path) -> str:
    """Return the sha256 of a file, which is not read again unless its version has changed.

    Raises:
        OSError: the file cannot be read.
    """
    path = path.absolute()
    seen = version_of(path.stat())
    return _known_sha256(path, seen) if is_settled(seen) else file_sha256(path)


@functools.lru_cache(maxsize=1024)
def _known_sha256(path: Path, seen: str) -> str:
    return file_sha256(path)
