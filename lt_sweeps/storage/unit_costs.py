"""The cost of computing units: a line per unit in `tickets/<stage key>/costs.jsonl` (no torch).

The speeds of kinds of trainings, for estimates, are in `<root>/speeds.json`.

A ticket's bytes must not depend on a clock, so its cost is stored next to it. All seeds of a stage
share one file, which saves one file per unit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.config.file_version import version
from lt_sweeps.storage.atomic_write import append_whole, json_lines
from lt_sweeps.storage.checked_read import DamagedFile, read_json, read_lines
from lt_sweeps.storage.locks import locked

_WAIT = 60.0  # seconds; if another process holds the file for longer, the lines are not stored


@dataclass(frozen=True)
class UnitCost:
    """The cost of a unit: its share of a stack's seconds, and where it was computed."""

    seconds: float | None = None
    device: str | None = None
    stack_size: int | None = None
    backend: str | None = None
    deterministic: bool | None = None  # only kernels that repeat their bytes
    code_version: str | None = None


@dataclass(frozen=True)
class _Line:
    seed: str
    cost: UnitCost


def write_costs(folder: Path, seeds: Sequence[object], cost: UnitCost) -> None:
    """Store the cost of each of these units of a stage, unless it is stored already."""
    path = _path(folder)
    with locked(folder / ".costs.lock", wait=_WAIT) as held:
        new = [seed for seed in map(str, seeds) if read_cost(folder, seed) == UnitCost()]
        if held and new:
            append_whole(path, json_lines({"seed": seed, "cost": vars(cost)} for seed in new))


def read_cost(folder: Path, seed: object) -> UnitCost:
    """Read the cost of a unit; its fields are None if its line is absent or damaged."""
    path = _path(folder)
    seen = version(path)
    return UnitCost() if seen is None else _costs(path, seen).get(str(seed), UnitCost())


@functools.lru_cache(maxsize=512)
def _costs(path: Path, seen: str) -> Mapping[str, UnitCost]:
    """Read the costs in a file, by seed; the first line of a seed counts."""
    costs: dict[str, UnitCost] = {}
    with suppress(OSError):
        for line in read_lines(path, _Line):
            costs.setdefault(line.seed, line.cost)
    return costs


def _path(folder: Path) -> Path:
    return folder / "costs.jsonl"


def known_speeds(root: Path) -> dict[str, float]:
    """Read the speeds that were measured under a root; empty if the file is damaged.

    They are replicate-steps per second and worker, by the kind of training and its device, and
    serve only for estimates.
    """
    try:
        speeds = read_json(root / "speeds.json", dict[str, float])
    except (OSError, DamagedFile):
        return {}
    return speeds if all(rate > 0 for rate in speeds.values()) else {}
