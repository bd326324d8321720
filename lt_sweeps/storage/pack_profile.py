"""`PackProfile`: where the time of a pack went, stored in a file next to the pack's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.storage.checked_read import DamagedFile, read_json

PARTS = (
    *("start-up", "data", "forward", "backward", "optimizer", "masks"),
    *("evaluation", "storage", "waiting", "rest", "trace"),
)
"""`waiting` is for the disk, `rest` the remaining time of steps, `trace` the time to trace them."""


@dataclass(frozen=True)
class PackProfile:
    """Seconds by part, which add up to the time of the pack."""

    seconds: Mapping[str, float]
    steps: int
    stack_size: int
    device: str


def profile_path(log: Path) -> Path:
    """Return the path of a pack's profile, next to its log."""
    return log.with_suffix(".profile.json")


def trace_path(log: Path) -> Path:
    return log.with_suffix(".trace.json")


def read_profiles(logs: Path) -> Iterator[PackProfile]:
    """Yield the profiles in a folder of logs; a damaged one is left out."""
    for path in sorted(logs.glob("*.profile.json")):
        with suppress(OSError, DamagedFile):
            yield read_json(path, PackProfile)
