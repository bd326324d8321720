"""Tickets that `prune-store` has dropped, listed in `<root>/tickets/dropped.jsonl` (no torch).

A ticket that is not stored counts as missing, unless it is listed there and records hold its
results.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lt_sweeps.config.file_version import version
from lt_sweeps.storage.atomic_write import append_whole, json_lines
from lt_sweeps.storage.checked_read import read_lines
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import UnitName
from lt_sweeps.storage.ticket_file import ticket_path


def note_dropped(root: Path, dropped: Mapping[str, Iterable[str]]) -> None:
    """Note the files that are about to be dropped, by stage: their names without the suffix."""
    lines = json_lines([key, sorted(names)] for key, names in dropped.items())
    with locked(root / "tickets" / ".dropped.lock"):
        append_whole(_path(root), lines)


def read_dropped(root: Path) -> Mapping[str, frozenset[str]]:
    """Return the files that were dropped, by stage; they may have been computed again since.

    A damaged line is skipped: the tickets that it listed count as missing and are computed again.
    """
    path = _path(root)
    return _read(path, seen) if (seen := version(path)) is not None else {}


@functools.lru_cache(maxsize=8)
def _read(path: Path, seen: str) -> Mapping[str, frozenset[str]]:
    dropped: dict[str, frozenset[str]] = {}
    for key, names in read_lines(path, tuple[str, list[str]]):
        dropped[key] = dropped.get(key, frozenset()) | frozenset(names)
    return dropped


def dropped_sentence(root: Path, units: Iterable[UnitName]) -> str:
    """Say how many tickets of these units were dropped and are still missing; empty if none."""
    dropped = read_dropped(root)
    if not dropped:
        return ""
    distinct = set(units)
    gone = [
        (key, seed)
        for key, seed in distinct
        if seed in dropped.get(key, ()) and not os.path.lexists(ticket_path(root, key, seed))
    ]
    if not gone:
        return ""
    return (
        f"tickets: prune-store has dropped {len(gone)} of {len(distinct)}; records hold their "
        "results, and what needs their weights computes them again"
    )


def _path(root: Path) -> Path:
    return root / "tickets" / "dropped.jsonl"
