"""`PackProfile`: where the time of a pack went, as the file beside its log says."""

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
"""`waiting` is for the disk, `rest` what is left of the steps, `trace` what tracing them takes."""


@dataclass(frozen=True)
class PackProfile:
    """Seconds by part, which add up to the time of the pack."""

    seconds: Mapping[str, float]
    steps: int
    stack_size: int
    device: str


def profile_path(log: Path) -> Path:
    """Where the profile of a pack lies, beside its log."""
    return log.with_suffix(".profile.json")


def trace_path(log: Path) -> Path:
    return log.with_suffix(".trace.json")


def read_profiles(logs: Path) -> Iterator[PackProfile]:
    """The profiles in a folder of logs; one that is damaged is left out."""
    for path in sorted(logs.glob("*.profile.json")):
        with suppress(OSError, DamagedFile):
            yield read_json(path, PackProfile)
