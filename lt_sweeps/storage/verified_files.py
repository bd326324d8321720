"""`VerifiedFiles`: which files of a root were verified, so that unchanged ones are not read again.

`<root>/tickets/verified.jsonl` lists files with the versions that they had when all of each file
was read and found valid. The list saves time, and shows an audit which cells were complete. Code
that uses a ticket or records still compares them with their checksums. If a line of the list is
lost or damaged, its file is read once more. This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lt_sweeps.storage.atomic_write import append_whole, json_lines, write_whole
from lt_sweeps.storage.checked_read import DamagedFile, read_file, read_lines
from lt_sweeps.storage.locks import locked

_WAIT = 60.0  # seconds for the lock of the file


def verified_names(root: Path) -> frozenset[str]:
    """Return the names of all files and complete cells that any version has ever verified."""
    lines = read_lines(_path(root), tuple[str, str, str])
    return frozenset(name for _, name, _ in lines)


class VerifiedFiles:
    """The files of a root that were verified, by name.

    Args:
        by: the name of the checks; files that passed other checks do not count.
        recall: read the list. A pack needs few files, so it only adds those that it verified.
    """

    def __init__(self, root: Path, *, by: str, recall: bool = True) -> None:
        self._path, self._by = _path(root), by
        self._new: dict[str, str] = {}
        all_lines, self._lines = _read(self._path) if recall else ({}, 0)
        self._names = len(all_lines)
        self._known = {name: version for name, (who, version) in all_lines.items() if who == by}

    def has(self, name: str, version: str) -> bool:
        return self._known.get(name) == version

    def note(self, name: str, version: str) -> None:
        self._known[name] = self._new[name] = version

    def save(self) -> None:
        """Add the noted files to the list; if the disk is full or stale, they are forgotten."""
        if not self._new:
            return
        lock = self._path.with_name(".verified.lock")
        with suppress(OSError), locked(lock, wait=_WAIT) as held:
            if held:
                new = {name: (self._by, version) for name, version in self._new.items()}
                if self._lines > 2 * self._names:  # most lines are of earlier versions
                    write_whole(self._path, _bytes({**_read(self._path)[0], **new}))
                else:
                    append_whole(self._path, _bytes(new))
                self._new = {}


def _bytes(versions: Mapping[str, tuple[str, str]]) -> bytes:
    return json_lines([by, name, version] for name, (by, version) in versions.items())


def _read(path: Path) -> tuple[dict[str, tuple[str, str]], int]:
    """Return the last checks and version of each name, and the number of lines."""
    try:
        lines = read_file(path).splitlines()
    except (OSError, DamagedFile):
        return {}, 0
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):  # cut short, or damaged
            by, name, version = json.loads(line)
            found[name] = (by, version)
    return found, len(lines)


def _path(root: Path) -> Path:
    return root / "tickets" / "verified.jsonl"
