"""A sweep: the frozen cells and packs of one multirun, and the work on one pack.

Whoever works on a pack reads the manifest and nothing else of the configuration: editing a yaml
while packs wait changes nothing in them.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from lt_sweeps import __version__, records
from lt_sweeps.call import digest
from lt_sweeps.cells import Cell
from lt_sweeps.files import write_whole
from lt_sweeps.plan import Pack, Plan, Planned, plan, stored
from lt_sweeps.resolve import ticket
from lt_sweeps.store import Store
from lt_sweeps.ticket import stack
from lt_sweeps.training import Interrupted, Loop, Machine, Unit

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
            "config": each.cell.config,
        }
        for each in made.cells
    ]
    frozen = {
        "format": FORMAT,
        "name": sweep.folder.name,
        "experiment": made.cells[0].labels["experiment"],
        "content": _content(made),
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


def compute(
    units: Sequence[Unit],
    moments: Mapping[str, frozenset[Any]],
    store: Store,
    machine: Machine,
    *,
    progress: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Train what is missing of `units`, waiting for whatever another process has in hand."""
    waiting = list(units)
    while waiting:
        claims = _claim(waiting, store)
        try:
            mine = [unit for unit in claims if not stored(unit, moments, store)]
            if mine:
                _train(mine, moments, store, machine, progress, stopped)
        finally:
            for claim in claims.values():
                claim.release()
        waiting = [unit for unit in waiting if unit not in claims]
        if waiting and not mine:  # another process is at them
            progress(waiting[0].stage.start.step)
            if stopped():
                raise Interrupted("stopped while waiting for another process")
            time.sleep(0.2)


def _claim(units: Sequence[Unit], store: Store) -> dict[Unit, FileLock]:
    """The units that no other process has in hand; none if the first is in one's.

    Two processes at the same pack so never share it out between them.
    """
    claims: dict[Unit, FileLock] = {}
    for unit in units:
        claim = store.claim(unit.stage.key, unit.seed)
        if claim is not None:
            claims[unit] = claim
            store.sweep_up(unit.stage.key, unit.seed)
        elif not claims:
            break
    return claims


def _train(
    units: Sequence[Unit],
    moments: Mapping[str, frozenset[Any]],
    store: Store,
    machine: Machine,
    progress: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """Train units stacked, each group from the latest checkpoint that all of it has."""
    for group, step in _by_checkpoint(units, moments, store):
        wanted = [moments.get(unit.stage.key, frozenset()) for unit in group]
        loop = Loop(group, store, machine, moments=wanted, progress=progress, stopped=stopped)
        if step is None:
            loop.start(stack([ticket(unit.stage.start, unit.seed, store) for unit in group]))
        else:
            loop.restore(step)
        loop.run(_until(group, wanted, store))


def _by_checkpoint(
    units: Sequence[Unit], moments: Mapping[str, frozenset[Any]], store: Store
) -> list[tuple[list[Unit], int | None]]:
    """Units that can go on together, and the step of the checkpoint that they go on from.

    A checkpoint past a snapshot that is missing is of no use.
    """
    found: dict[Unit, set[int]] = {}
    for unit in units:
        key, seed = unit.stage.key, unit.seed
        wanted = [m for m in moments.get(key, ()) if isinstance(m, int)]
        first = min((m for m in wanted if not store.has(key, seed, m)), default=unit.stage.step)
        found[unit] = {step for step in store.checkpoints(key, seed) if step <= first}
    if shared := set.intersection(*found.values()):
        return [(list(units), max(shared))]
    groups: dict[int | None, list[Unit]] = {}
    for unit, steps in found.items():
        groups.setdefault(max(steps, default=None), []).append(unit)
    return [(group, step) for step, group in groups.items()]


def _until(units: Sequence[Unit], wanted: Sequence[frozenset[Any]], store: Store) -> int | None:
    """The step after which nothing is missing: the end, unless only early snapshots are."""
    steps: set[int] = set()
    for unit, moments in zip(units, wanted, strict=True):
        absent = [m for m in ("end", *moments) if not store.has(unit.stage.key, unit.seed, m)]
        if "end" in absent or "best" in absent:
            return None
        steps |= {moment for moment in absent if isinstance(moment, int)}
    return max(steps, default=None)


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
