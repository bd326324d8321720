"""Explain why a ticket that records name is missing: lost, or dropped on purpose (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lt_sweeps.storage.checked_read import DamagedFile, NewerFormat
from lt_sweeps.storage.dropped_tickets import read_dropped
from lt_sweeps.storage.manifest import UnitName
from lt_sweeps.storage.sweep_folder import SweepFolder

DROPPED = "prune-store or keep= has dropped it"
"""The beginning of the reason for a ticket that was dropped on purpose."""


def why_absent(root: Path, cells: Mapping[UnitName, str]) -> dict[UnitName, str]:
    """Say why tickets are missing, and which command computes them again.

    Args:
        cells: for each missing ticket, the name of a cell whose records name it. `<seed>@best`
            stands for the weights of the best evaluation.

    A ticket is left out if no sweep under the root has trained its cell: it was imported.
    """
    dropped, sweeps = read_dropped(root), _sweeps(root) if cells else {}
    reasons = {}
    for (key, seed), cell in cells.items():
        if cell not in sweeps:
            continue
        sweep = sweeps[cell]
        command = f"`lt-sweeps resume {sweep.folder.name} root={root}`"
        if dropped.get(key, frozenset()).isdisjoint((seed, seed.partition("@")[0])):
            reasons[key, seed] = f"lost, though {cell} records it; {command} computes it again"
            continue
        if sweep.manifest.cells[0].config.get("keep", "all") != "all":  # dropped again
            command = f"the command of sweep {sweep.folder.name} with keep=all"
        first = f"remove {root / 'runs' / cell}, then {command} computes it again"
        reasons[key, seed] = f"{DROPPED}; {first}"
    return reasons


def why_file_absent(path: Path) -> str:
    """Say why the file of a ticket is missing; empty if no record names the ticket."""
    root, key, (seed, _, moment) = path.parents[2], path.parent.name, path.stem.partition("@")
    if moment not in ("", "best") and path.with_name(f"{seed}.safetensors").exists():
        return ""  # a snapshot, which records do not name
    for records in sorted(root.glob(f"runs/*/{seed}/records.jsonl")):
        if key in records.read_text(errors="replace"):
            cell = f"{records.parent.parent.name}/{seed}"
            return why_absent(root, {(key, seed): cell}).get((key, seed), "")
    return ""


def _sweeps(root: Path) -> dict[str, SweepFolder]:
    """Return cell name -> the sweep that trained the cell; a damaged manifest is left out."""
    sweeps = {}
    for path in sorted((root / "sweeps").glob("*/manifest.json")):
        sweep = SweepFolder(path.parent)
        try:
            if sweep.manifest.experiment != "imported":
                sweeps |= {cell.name: sweep for cell in sweep.manifest.cells}
        except (OSError, DamagedFile, NewerFormat):
            continue
    return sweeps
