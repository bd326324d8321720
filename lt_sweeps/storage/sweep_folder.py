"""A sweep's folder: the frozen cells and packs, what failed, and what is at work; without torch.

<root>/sweeps/<name>/manifest.json    cells, stages and packs, frozen
                     logs/<pack>.log  what was computed, and tracebacks
                     failed/<unit>    why a unit could not be computed
                     halved/<pack>    a pack that is worked on as its two halves
                     backends/<net>   the backend that was measured to be fastest for a network
                     running/<who>    the packs of a process at work, and their steps
                     jobs/<batch>     what was submitted
                     code.json        the user's modules that the cells depend on, with hashes
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
    """The backend of a network's stacks, and the seconds of a step by which it was chosen."""

    backend: str
    seconds: Mapping[str, float]
    stack_size: int
    device: str


@dataclass(frozen=True)
class PackAtWork:
    """A pack that is being computed, and the optimizer step that it is at."""

    units: Sequence[UnitName]
    step: int


@dataclass(frozen=True)
class Heartbeat:
    """A process at work on a sweep: the packs that it computes, by name, and those it will."""

    host: str
    packs: Mapping[str, PackAtWork]
    queue: Sequence[str]
    job: str | None = None  # Slurm's id of the job that it is
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
        """The manifest; None if there is none, or it is damaged, which is said: write it again.

        Raises: NewerFormat: a later version wrote it.
        """
        try:
            return self.manifest if os.path.lexists(self.path) else None
        except DamagedFile as error:
            say_unused(str(error))
            return None

    def cells(self, numbers: Sequence[int] | None = None) -> list[Cell]:
        """The frozen cells, all or those of these numbers."""
        chosen = range(len(self.manifest.cells)) if numbers is None else numbers
        return [self.manifest.cell(number) for number in chosen]

    def records(self) -> list[CellRecords]:
        """What the folder of each cell holds, in the order of the cells.

        Raises: NewerFormat: a later version wrote it.
        """
        return [
            RunFolder.of(self.root, cell.signature, cell.seed).read(stages=cell.stages)
            for cell in self.manifest.cells
        ]

    def packs(self, names: Iterable[str] | None = None) -> list[FrozenPack]:
        """The frozen packs, all or those of these names, as they are worked on: in halves."""
        wanted = None if names is None else set(names)
        chosen = [pack for pack in self.manifest.packs if wanted is None or pack.name in wanted]
        return [part for pack in chosen for part in self._parts(pack)]

    def halve(self, pack: FrozenPack) -> list[FrozenPack]:
        """The two halves of a pack, which from now on stand for it."""
        write_whole(self.folder / "halved" / pack.name, b"")
        return pack.halves()

    def _parts(self, pack: FrozenPack) -> list[FrozenPack]:
        if not (self.folder / "halved" / pack.name).exists():
            return [pack]
        return [part for half in pack.halves() for part in self._parts(half)]

    def backend(self, network: str, names: Collection[str]) -> str | None:
        """The backend, one of `names`, that was chosen for a network; None if there is none yet.

        A damaged file is set aside.
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
        """Note a choice, unless there is one; returns the backend that holds for the sweep."""
        content = json.dumps(vars(choice)).encode()
        write_whole(self._backend(network), content, first_wins=True)
        return self.backend(network, choice.seconds) or choice.backend

    def _backend(self, network: str) -> Path:
        return self.folder / "backends" / f"{network}.json"

    @property
    def code(self) -> dict[str, str]:
        """The hash of each module of the user's that its cells depend on; none where unknown."""
        try:
            return read_json(self.folder / "code.json", dict[str, str])
        except (OSError, DamagedFile):
            return {}

    def edited(self, now: Mapping[str, str]) -> list[str]:
        """The modules that have another hash now than when it was frozen."""
        noted = self.code
        return [name for name, value in now.items() if noted.get(name, value) != value]

    def note_code(self, hashes: Mapping[str, str]) -> None:
        """Note the user's code of its cells, for plans that find it edited."""
        with suppress(OSError):
            content = json.dumps({**self.code, **hashes}, sort_keys=True).encode()
            write_whole(self.folder / "code.json", content)

    def needs(self, unit: UnitName) -> set[UnitName]:
        """The units whose tickets this one starts from."""
        key, seed = unit
        return {(need, seed) for need in self.manifest.stages[key].needs}

    def log(self, pack: str) -> Path:
        return self.folder / "logs" / f"{pack}.log"

    def fail(self, unit: UnitName, reason: str, pack: str) -> None:
        """Note why a unit could not be computed; a full disk may forget it."""
        failure = Failure(reason, str(self.log(pack)))
        with suppress(OSError):
            write_whole(self._failed(unit), json.dumps(vars(failure)).encode())

    def failures(self) -> dict[UnitName, Failure]:
        """What failed, by unit; a note that cannot be read counts as none."""
        failures = {}
        for path in sorted((self.folder / "failed").glob("*.json")):
            key, _, seed = path.stem.partition("-")
            with suppress(OSError, DamagedFile):
                if key in self.manifest.stages:
                    failure = read_json(path, Failure)
                    log = self.log(Path(failure.log).stem)  # here, in a root that was copied too
                    failures[key, seed] = replace(failure, log=str(log))
        return failures

    def forgive(self, units: Iterable[UnitName]) -> None:
        """Forget that these failed: they are tried again."""
        for unit in units:
            self._failed(unit).unlink(missing_ok=True)

    def _failed(self, unit: UnitName) -> Path:
        return self.folder / "failed" / f"{unit[0]}-{unit[1]}.json"

    def beat(self, who: str, heartbeat: Heartbeat) -> None:
        """Say that `who` is at work."""
        content = json.dumps(heartbeat, default=vars).encode()
        with suppress(OSError):  # only a sign of life
            write_whole(self.folder / "running" / f"{who}.json", content)

    def rest(self, who: str) -> None:
        """Say that `who` has stopped."""
        with suppress(OSError):
            (self.folder / "running" / f"{who}.json").unlink(missing_ok=True)

    def running(self) -> dict[str, Heartbeat]:
        """The processes at work. One without a recent heartbeat was killed, and is left out."""
        at_work = {}
        for path in sorted((self.folder / "running").glob("*.json")):
            with suppress(OSError, DamagedFile):
                heartbeat = read_json(path, Heartbeat)
                packs = heartbeat.packs.values()
                known = all(p.units and self._knows(p.units) for p in packs)
                # Later than now: the clock was set back, or the beat is of a machine far ahead.
                if known and abs(time.time() - heartbeat.time) < STALE:
                    at_work[path.stem] = heartbeat
        return at_work

    def _knows(self, units: Iterable[UnitName]) -> bool:
        """Whether the manifest has these; a note of another sweep, or a damaged one, has others."""
        return all(key in self.manifest.stages for key, _ in units)


def is_folder_name(name: object) -> bool:
    """Whether a sweep may be called so: its folder lies in that of all sweeps, and in no other."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name) is not None


def sweep_path(name: str, root: Path, *, where: str) -> Path:
    """A folder by its path, a sweep by its name, or a cell by its signature.

    Raises: ValueError: there is none; `where` opens the line.
    """
    for folder in (Path(name), root / "sweeps" / name, root / "runs" / name):
        if folder.is_dir():
            return _below_its_root(folder)
    names = [folder.name for folder in (root / "sweeps").glob("*")]
    absent = "" if root.is_dir() else ", because there is no such folder; give root=DIR"
    raise ValueError(unknown(where, name, names, what=f"sweeps in {root}") + absent)


def _below_its_root(folder: Path) -> Path:
    """The folder by a path that shows its root, which `.`, `../NAME` and a link do not."""
    paths = (folder, Path(os.path.abspath(folder)), folder.resolve())
    return next((path for path in paths if path.parent.name in ("sweeps", "runs")), folder)
