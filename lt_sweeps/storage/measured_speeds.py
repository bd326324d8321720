"""Measured speeds of tickets, as `<root>/tickets/speeds.jsonl` holds them (no torch).

They lie beside the tickets and not in a sweep, because sweeps share tickets. A speed is measured
only when it is asked for, so most tickets have none.
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
    """The seconds that a forward pass of a ticket takes, as a small network and as a dense one.

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
        """How many times as fast as the dense network."""
        return self.dense_seconds / self.seconds


Speeds = Mapping[tuple[str, str], tuple[MeasuredSpeed, ...]]
"""By stage and seed: the last measurement in each form."""


def add_speeds(root: Path, speeds: Iterable[MeasuredSpeed]) -> None:
    """Note measurements behind those that are there."""
    with locked(root / "tickets" / ".speeds.lock"):
        append_whole(speeds_path(root), json_lines(map(asdict, speeds)))


def read_speeds(root: Path) -> Speeds:
    """All measurements, the last of each ticket and form; a line that is damaged counts as none."""
    found: dict[tuple[str, str], dict[str, MeasuredSpeed]] = {}
    for row in read_lines(speeds_path(root), MeasuredSpeed):
        if row.seconds > 0 and row.dense_seconds > 0:
            found.setdefault((row.stage, row.seed), {})[row.form] = row
    return {name: tuple(forms.values()) for name, forms in found.items()}


def speeds_path(root: Path) -> Path:
    return root / "tickets" / "speeds.jsonl"
