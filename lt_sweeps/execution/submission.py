"""A sweep: the frozen cells and packs of one multirun, and the work on one pack.

Whoever works on a pack reads the manifest and nothing else of the configuration: editing a yaml
while packs wait changes nothing in them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from lt_sweeps import __version__
from lt_sweeps.config.call import digest
from lt_sweeps.execution import records
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.cost import kind
from lt_sweeps.plan.planning import Pack, Plan, Planned, needs, plan
from lt_sweeps.plan.unit import Machine, Unit
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import FORMAT, SweepFolder, units


def freeze(
    made: Plan,
    packs: Sequence[Pack],
    machine: Machine,
    *,
    root: Path,
    name: str | None,
    launcher: Mapping[str, Any] | None = None,
    jobs: Mapping[str, str] | None = None,
) -> SweepFolder:
    """Write the manifest of a sweep. Packs that it has already stay: somebody may be at work.

    Args:
        launcher: how the sweep was started, which is how it is resumed.
        jobs: which job each pack belongs to, by its name.
    """
    folder = find(made, root=root, name=name).folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        sweep = find(made, root=root, name=name)
        before = sweep.manifest["packs"] if sweep.exists else []
        known, cells = {pack["name"] for pack in before}, _cells_of(made)
        new = [
            _frozen(pack, made, machine, cells, job=(jobs or {}).get(pack.name))
            for pack in packs
            if pack.name not in known
        ]
        frozen = _manifest(
            made, [*before, *new], folder.name, launcher or {"name": "local", "cwd": os.getcwd()}
        )
        write_whole(folder / "manifest.json", json.dumps(frozen).encode())
    return SweepFolder(folder)


def _manifest(
    made: Plan, packs: list[dict[str, Any]], name: str, launcher: Mapping[str, Any]
) -> dict[str, Any]:
    stages = {unit.stage.key: unit.stage for unit in made.units}
    return {
        "format": FORMAT,
        "name": name,
        "experiment": made.cells[0].labels["experiment"],
        "content": _content(made),
        "launcher": dict(launcher),
        "reports": {each.labels["experiment"]: dict(each.cell.report) for each in made.cells},
        "cells": [
            {
                "signature": each.signature,
                "seed": str(each.seed),
                "labels": dict(each.labels),
                "stages": [stage.key for stage in each.trainings],
                "levels": dict(each.levels),
                "choices": dict(each.cell.choices),
                "config": each.cell.config,
            }
            for each in made.cells
        ],
        "stages": {
            key: {
                "level": stage.level,
                "start": stage.start.step,
                "end": stage.step,
                "kind": kind(stage),
                "needs": sorted(need.key for need in needs(stage)),
            }
            for key, stage in stages.items()
        },
        "packs": packs,
    }


def find(made: Plan, *, root: Path, name: str | None) -> SweepFolder:
    """The sweep of these cells, by its given name or by what it is.

    Raises:
        ValueError: the given name is another sweep's.
    """
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
        raise ValueError(f"name: {name!r} cannot name a folder; use letters, digits, . - and _")
    content = _content(made)
    found = name or f"{made.cells[0].labels['experiment']}-{content[:8]}".replace("/", "-")
    sweep = SweepFolder(root / "sweeps" / found)
    if sweep.exists and sweep.manifest["content"] != content:
        raise ValueError(f"name: {name!r} is taken by another sweep in {root}; choose another")
    return sweep


def unfinished(sweep: SweepFolder, made: Plan, store: Store) -> list[Pack]:
    """The packs of an interrupted sweep as they were, so that resuming changes no byte."""
    if not sweep.exists:
        return []
    units = {(unit.stage.key, str(unit.seed)): unit for unit in made.units}
    left = {(unit.stage.key, str(unit.seed)) for unit in made.missing(store)}
    packs = []
    for frozen in reversed(sweep.manifest["packs"]):
        members = [(key, seed) for key, seed in frozen["units"]]
        if left.intersection(members):
            left.difference_update(members)
            packs.append(Pack(tuple(units[member] for member in members)))
    return packs[::-1]


def work(
    sweep: SweepFolder,
    pack: Mapping[str, Any],
    *,
    device: str,
    progress: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Compute one frozen pack of a sweep and write the records of the cells that it advances."""
    made, chosen = members(sweep, pack)
    moments = {key: frozenset(wanted) for key, wanted in pack["moments"].items()}
    machine = Machine(**{**pack["machine"], "device": device})
    store = Store(sweep.root)
    compute(chosen, moments, store, machine, progress=progress, stopped=stopped)
    keys = {(unit.stage.key, unit.seed) for unit in chosen}
    for each in made.cells:
        if any((stage.key, each.seed) in keys for stage in each.trainings):
            write_records(each, store)


def members(sweep: SweepFolder, pack: Mapping[str, Any]) -> tuple[Plan, list[Unit]]:
    """The plan of the cells that a frozen pack advances, and its units in their order."""
    made = plan(sweep.cells(pack["cells"]))
    found = {(unit.stage.key, str(unit.seed)): unit for unit in made.units}
    return made, [found[unit] for unit in units(pack)]


def write_records(planned: Planned, store: Store) -> bool:
    """Write a cell's records; two packs that advance one cell take turns."""
    folder = store.root / "runs" / planned.signature
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{planned.seed}.lock"):
        return records.write(planned, store)


def _content(made: Plan) -> str:
    return digest([[each.signature, str(each.seed)] for each in made.cells])


def _cells_of(made: Plan) -> dict[tuple[str, str], list[int]]:
    """Which cells each unit advances, by their numbers."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, each in enumerate(made.cells):
        for stage in each.trainings:
            found.setdefault((stage.key, str(each.seed)), []).append(number)
    return found


def _frozen(
    pack: Pack,
    made: Plan,
    machine: Machine,
    cells: Mapping[tuple[str, str], list[int]],
    *,
    job: str | None,
) -> dict[str, Any]:
    names = [(unit.stage.key, str(unit.seed)) for unit in pack.units]
    return {
        "name": pack.name,
        "job": job,
        "level": pack.units[0].stage.level,
        "units": [list(name) for name in names],
        "machine": asdict(machine),
        "cells": sorted({number for name in names for number in cells[name]}),
        "moments": {
            key: sorted(made.moments.get(key, ()), key=str)
            for key in dict.fromkeys(key for key, _ in names)
        },
    }


def code_version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    tracked = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "--error-unmatch", "submission.py"],
        capture_output=True,
    )
    return f"{__version__}+{found.stdout.strip()}" if tracked.returncode == 0 else __version__
