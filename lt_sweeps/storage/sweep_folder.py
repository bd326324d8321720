"""A sweep's folder: its frozen cells and packs, failures and running processes (without torch).

<root>/sweeps/<name>/manifest.json    cells, stages and packs, frozen
                     logs/<pack>.log  what was computed, and tracebacks
                     failed/<unit>    why a unit could not be computed
                     halved/<pack>    a pack that is computed as its two halves
                     backends/<net>   the backend that was measured to be fastest for a network
                     running/<who>    the packs of a running process, and their steps
                     jobs/<batch>     the jobs that were submitted
                     code.json        the user-defined modules that the cells depend on, with hashes
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.spelling import unknown
from lt_sweeps.storage.atomic_write import set_aside, write_whole
from lt_sweeps.storage.checked_read import DamagedFile, read_json, say_unused, shortened
from lt_sweeps.storage.manifest import FrozenPack, Manifest, UnitName
from lt_sweeps.storage.run_folder import CellRecords, RunFolder

STALE = 120.0  # a process without a heartbeat for this many seconds counts as dead


@dataclass(frozen=True)
class Failure:
    """Why a unit could not be computed, and the log with the traceback."""

    reason: str
    log: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class BackendChoice:
    """The backend chosen for a network's stacks, and the measured seconds of a step by backend."""

    backend: str
    seconds: Mapping[str, float]
    stack_size: int
    device: str


@dataclass(frozen=True)
class PackAtWork:
    """A pack that is being computed, and its current optimizer step."""

    units: Sequence[UnitName]
    step: int


@dataclass(frozen=True)
class Heartbeat:
    """A running process of a sweep: the packs that it computes, by name, and those in its queue."""

    host: str
    packs: Mapping[str, PackAtWork]
    queue: Sequence[str]
    job: str | None = None  # Slurm's id of its job
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder: `<root>/sweeps/<name>`."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder.parent.parent

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return self.folder / "manifest.json"

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @cached_property
    def manifest(self) -> Manifest:
        """Raises: DamagedFile, NewerFormat: as `Manifest.read`."""
        return Manifest.read(self.path)

    @property
    def usable_manifest(self) -> Manifest | None:
        """The manifest; None if it is absent or damaged (logged), so that it is written again.

        Raises: NewerFormat: a later version wrote the manifest.
        """
        try:
            return self.manifest if os.path.lexists(self.path) else None
        except DamagedFile as error:
            say_unused(str(error))
            return None

    def cells(self, numbers: Sequence[int] | None = None) -> list[Cell]:
        """Return the frozen cells, all or those with these numbers."""
        chosen = range(len(self.manifest.cells)) if numbers is None else numbers
        return [self.manifest.cell(number) for number in chosen]

    def records(self) -> list[CellRecords]:
        """Return the content of each cell's folder, in the order of the cells.

        Raises: NewerFormat: a later version wrote the records.
        """
        return [
            RunFolder.of(self.root, cell.signature, cell.seed).read(stages=cell.stages)
            for cell in self.manifest.cells
        ]

    def packs(self, names: Iterable[str] | None = None) -> list[FrozenPack]:
        """Return the frozen packs, all or those with these names; a halved pack as its halves."""
        wanted = None if names is None else set(names)
        chosen = [pack for pack in self.manifest.packs if wanted is None or pack.name in wanted]
        return [part for pack in chosen for part in self._parts(pack)]

    def halve(self, pack: FrozenPack) -> list[FrozenPack]:
        """Return the two halves of a pack, which replace the pack from now on."""
        write_whole(self.folder / "halved" / pack.name, b"")
        return pack.halves()

    def _parts(self, pack: FrozenPack) -> list[FrozenPack]:
        if not (self.folder / "halved" / pack.name).exists():
            return [pack]
        return [part for half in pack.halves() for part in self._parts(half)]

    def backend(self, network: str, names: Collection[str]) -> str | None:
        """Return the backend, one of `names`, that was chosen for a network; None if none was.

        A damaged file, or one with another backend, is set aside.
        """
        path = self._backend(network)
        try:
            chosen = read_json(path, BackendChoice).backend
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            set_aside(path, error.reason)
            return None
        if chosen not in names:
            set_aside(path, f"no backend {shortened(chosen)} for this network")
            return None
        return chosen

    def choose_backend(self, network: str, choice: BackendChoice) -> str:
        """Store a choice, unless there is one already; return the backend that the sweep uses."""
        content = json.dumps(vars(choice)).encode()
        write_whole(self._backend(network), content, first_wins=True)
        return self.backend(network, choice.seconds) or choice.backend

    def _backend(self, network: str) -> Path:
        return self.folder / "backends" / f"{network}.json"

    @property
    def code(self) -> dict[str, str]:
        """The hash of each user-defined module that its cells depend on; empty if unknown."""
        try:
            return read_json(self.folder / "code.json", dict[str, str])
        except (OSError, DamagedFile):
            return {}

    def edited(self, now: Mapping[str, str]) -> list[str]:
        """Return the modules whose hash has changed since the sweep was frozen."""
        noted = self.code
        return [name for name, value in now.items() if noted.get(name, value) != value]

    def note_code(self, hashes: Mapping[str, str]) -> None:
        """Store the hashes of the cells' user-defined code, so that later plans detect edits."""
        with suppress(OSError):
            content = json.dumps({**self.code, **hashes}, sort_keys=True).encode()
            write_whole(self.folder / "code.json", content)

    def needs(self, unit: UnitName) -> set[UnitName]:
        """Return the units whose tickets this unit starts from."""
        key, seed = unit
        return {(need, seed) for need in self.manifest.stages[key].needs}

    def log(self, pack: str) -> Path:
        return self.folder / "logs" / f"{pack}.log"

    def fail(self, unit: UnitName, reason: str, pack: str) -> None:
        """Note why a unit could not be computed; if the disk is full, the note may be lost."""
        failure = Failure(reason, str(self.log(pack)))
        with suppress(OSError):
            write_whole(self._failed(unit), json.dumps(vars(failure)).encode())

    def failures(self) -> dict[UnitName, Failure]:
        """Return the failures by unit; a note that cannot be read is skipped."""
        failures = {}
        for path in sorted((self.folder / "failed").glob("*.json")):
            key, _, seed = path.stem.partition("-")
            with suppress(OSError, DamagedFile):
                if key in self.manifest.stages:
                    failure = read_json(path, Failure)
                    log = self.log(Path(failure.log).stem)  # in this root, even if it was copied
                    failures[key, seed] = replace(failure, log=str(log))
        return failures

    def forgive(self, units: Iterable[UnitName]) -> None:
        """Forget that these units failed, so that they are tried again."""
        for unit in units:
            self._failed(unit).unlink(missing_ok=True)

    def _failed(self, unit: UnitName) -> Path:
        return self.folder / "failed" / f"{unit[0]}-{unit[1]}.json"

    def beat(self, who: str, heartbeat: Heartbeat) -> None:
        """Note that the process `who` is running."""
        content = json.dumps(heartbeat, default=vars).encode()
        with suppress(OSError):  # only a heartbeat
            write_whole(self.folder / "running" / f"{who}.json", content)

    def rest(self, who: str) -> None:
        """Note that the process `who` has stopped."""
        with suppress(OSError):
            (self.folder / "running" / f"{who}.json").unlink(missing_ok=True)

    def running(self) -> dict[str, Heartbeat]:
        """Return the running processes, without those that were killed: no recent heartbeat."""
        at_work = {}
        for path in sorted((self.folder / "running").glob("*.json")):
            with suppress(OSError, DamagedFile):
                heartbeat = read_json(path, Heartbeat)
                packs = heartbeat.packs.values()
                known = all(p.units and self._knows(p.units) for p in packs)
                # In the future: the clock was set back, or another machine's clock is far ahead.
                if known and abs(time.time() - heartbeat.time) < STALE:
                    at_work[path.stem] = heartbeat
        return at_work

    def _knows(self, units: Iterable[UnitName]) -> bool:
        """Whether the manifest has these units; a damaged or foreign heartbeat has others."""
        return all(key in self.manifest.stages for key, _ in units)


def is_folder_name(name: object) -> bool:
    """Whether a sweep may have this name: its folder must be directly in the folder of sweeps."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name) is not None


def sweep_path(name: str, root: Path, *, where: str) -> Path:
    """Return the folder of a path, of a sweep's name, or of a cell's signature.

    Raises: ValueError: there is no such folder; the message begins with `where`.
    """
    for folder in (Path(name), root / "sweeps" / name, root / "runs" / name):
        if folder.is_dir():
            return _below_its_root(folder)
    names = [folder.name for folder in (root / "sweeps").glob("*")]
    absent = "" if root.is_dir() else ", because there is no such folder; give root=DIR"
    raise ValueError(unknown(where, name, names, what=f"sweeps in {root}") + absent)


def _below_its_root(folder: Path) -> Path:
    """Return the folder by a path that shows its root, which `.`, `../NAME` and a link do not."""
    paths = (folder, Path(os.path.abspath(folder)), folder.resolve())
    return next((path for path in paths if path.parent.name in ("sweeps", "runs")), folder)
