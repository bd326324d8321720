"""A sweep: the frozen cells and packs of one multirun, and the work on one pack.

Whoever works on a pack reads the manifest and nothing else of the configuration: editing a yaml
while packs wait changes nothing in them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from lt_sweeps import __version__, records
from lt_sweeps.call import digest
from lt_sweeps.cells import Cell
from lt_sweeps.compute import compute
from lt_sweeps.files import write_whole
from lt_sweeps.plan import Pack, Plan, Planned, plan
from lt_sweeps.store import Store
from lt_sweeps.training import Machine

FORMAT = "lt_sweeps.manifest/1"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder: `<root>/sweeps/<name>`."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder.parent.parent

    @property
    def exists(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Raises: ValueError: the folder holds no sweep, or one of another format."""
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"sweep: {path} cannot be read: {error}") from None
        if manifest.get("format") != FORMAT:
            raise ValueError(f"sweep: {path} is no {FORMAT}, but {manifest.get('format')!r}")
        return manifest

    def cells(self, numbers: Sequence[int] | None = None) -> list[Cell]:
        """The frozen cells, all or those of these numbers."""
        frozen = self.manifest["cells"]
        return [
            Cell(frozen[n]["config"], frozen[n]["choices"], ())
            for n in (range(len(frozen)) if numbers is None else numbers)
        ]


def freeze(
    made: Plan, packs: Sequence[Pack], machine: Machine, *, root: Path, name: str | None
) -> Sweep:
    """Write the manifest of a sweep. Packs that it has already stay: somebody may be at work."""
    folder = find(made, root=root, name=name).folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _freeze(made, packs, machine, find(made, root=root, name=name))
    return Sweep(folder)


def _freeze(made: Plan, packs: Sequence[Pack], machine: Machine, sweep: Sweep) -> None:
    before = sweep.manifest["packs"] if sweep.exists else []
    known = {pack["name"] for pack in before}
    cells = [
        {
            "signature": each.signature,
            "seed": str(each.seed),
            "choices": dict(each.cell.choices),
            "labels": dict(each.labels),
            "stages": [[s.key, each.levels.get(s.key, s.level)] for s in each.trainings],
            "config": each.cell.config,
        }
        for each in made.cells
    ]
    frozen = {
        "format": FORMAT,
        "name": sweep.folder.name,
        "experiment": made.cells[0].labels["experiment"],
        "content": _content(made),
        "reports": {each.labels["experiment"]: dict(each.cell.report) for each in made.cells},
        "cells": cells,
        "packs": [
            *before,
            *(_frozen(pack, made, machine) for pack in packs if pack.name not in known),
        ],
    }
    write_whole(sweep.folder / "manifest.json", json.dumps(frozen, indent=1).encode())


def find(made: Plan, *, root: Path, name: str | None) -> Sweep:
    """The sweep of these cells, by its given name or by what it is.

    Raises:
        ValueError: the given name is another sweep's.
    """
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
        raise ValueError(f"name: {name!r} is no folder's name; use letters, digits, . - and _")
    content = _content(made)
    found = name or f"{made.cells[0].labels['experiment']}-{content[:8]}".replace("/", "-")
    sweep = Sweep(root / "sweeps" / found)
    if sweep.exists and sweep.manifest["content"] != content:
        raise ValueError(f"name: {name!r} is taken by another sweep in {root}; choose another")
    return sweep


def unfinished(sweep: Sweep, made: Plan, store: Store) -> list[Pack]:
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
    sweep: Sweep,
    pack: str,
    *,
    device: str,
    progress: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Compute one pack of a sweep and write the records of the cells that it advances."""
    frozen = next(each for each in sweep.manifest["packs"] if each["name"] == pack)
    made = plan(sweep.cells(frozen["cells"]))
    moments = {key: frozenset(wanted) for key, wanted in frozen["moments"].items()}
    units = {(unit.stage.key, str(unit.seed)): unit for unit in made.units}
    machine = Machine(**{**frozen["machine"], "device": device})
    store = Store(sweep.root)
    chosen = [units[key, seed] for key, seed in frozen["units"]]
    compute(chosen, moments, store, machine, progress=progress, stopped=stopped)
    keys = {(unit.stage.key, unit.seed) for unit in chosen}
    for each in made.cells:
        if any((stage.key, each.seed) in keys for stage in each.trainings):
            write_records(each, store)


def write_records(planned: Planned, store: Store) -> bool:
    """Write a cell's records; two packs that advance one cell take turns."""
    folder = store.root / "runs" / planned.signature
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{planned.seed}.lock"):
        return records.write(planned, store)


def _content(made: Plan) -> str:
    return digest([[each.signature, str(each.seed)] for each in made.cells])


def _frozen(pack: Pack, made: Plan, machine: Machine) -> dict[str, Any]:
    keys = {(unit.stage.key, unit.seed) for unit in pack.units}
    return {
        "name": pack.name,
        "units": [[unit.stage.key, str(unit.seed)] for unit in pack.units],
        "machine": asdict(machine),
        "cells": [
            number
            for number, each in enumerate(made.cells)
            if any((stage.key, each.seed) in keys for stage in each.trainings)
        ],
        "moments": {
            unit.stage.key: sorted(made.moments.get(unit.stage.key, ()), key=str)
            for unit in pack.units
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
        ["git", "-C", str(folder), "ls-files", "--error-unmatch", "sweep.py"], capture_output=True
    )
    return f"{__version__}+{found.stdout.strip()}" if tracked.returncode == 0 else __version__
