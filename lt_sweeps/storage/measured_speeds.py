"""Measured speeds of tickets, stored in `<root>/tickets/speeds.jsonl` (no torch).

They are stored next to the tickets, not in a sweep, because sweeps share tickets. A speed is
measured only on request, so most tickets have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lt_sweeps.storage.atomic_write import append_whole, json_lines
from lt_sweeps.storage.checked_read import read_lines
from lt_sweeps.storage.locks import locked


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeed:
    """The seconds of a ticket's forward pass, as a small network and as a dense one.

    `form` is `compact` or `semi_structured`. Both networks were run in turn, `n` times each, on
    `batch` examples with `threads` threads; the seconds are medians.
    """

    stage: str
    seed: str
    form: str
    dense_seconds: float
    seconds: float
    batch: int
    n: int
    threads: int
    precision: str
    device: str
    machine: str
    torch: str
    date: str

    @property
    def speedup(self) -> float:
        """How many times as fast as the dense network the small one is."""
        return self.dense_seconds / self.seconds


Speeds = Mapping[tuple[str, str], tuple[MeasuredSpeed, ...]]
"""The last measurement in each form, by stage and seed."""


def add_speeds(root: Path, speeds: Iterable[MeasuredSpeed]) -> None:
    """Append measurements to the file."""
    with locked(root / "tickets" / ".speeds.lock"):
        append_whole(speeds_path(root), json_lines(map(asdict, speeds)))


def read_speeds(root: Path) -> Speeds:
    """Read the last measurement of each ticket and form; a damaged line is skipped."""
    latest: dict[tuple[str, str], dict[str, MeasuredSpeed]] = {}
    for row in read_lines(speeds_path(root), MeasuredSpeed):
        if row.seconds > 0 and row.dense_seconds > 0:
            latest.setdefault((row.stage, row.seed), {})[row.form] = row
    return {name: tuple(forms.values()) for name, forms in latest.items()}


def speeds_path(root: Path) -> Path:
    return root / "tickets" / "speeds.jsonl"
