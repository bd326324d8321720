"""A sweep's folder: the frozen cells and packs, what failed, and what is at work; without torch.

<root>/sweeps/<name>/manifest.json    cells, stages and packs, frozen
                     logs/<pack>.log  what was computed, and tracebacks
                     failed/<unit>    why a unit could not be computed
                     halved/<pack>    a pack that is worked on as its two halves
                     running/<who>    who is at which step of which pack
                     jobs/<batch>     what was submitted
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lt_sweeps.config.call import digest
from lt_sweeps.config.cells import Cell
from lt_sweeps.storage.atomic_write import write_whole

FORMAT = "lt_sweeps.storage.sweep_folder/2"
STALE = 120.0  # seconds without a heartbeat after which a process counts as dead

UnitName = tuple[str, str]
"""A unit as a manifest names it: its stage's key and its seed."""


@dataclass(frozen=True)
class SweepFolder:
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
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"sweep: {path} cannot be read: {error}") from None
        if manifest.get("format") != FORMAT:
            raise ValueError(f"sweep: {path} is not {FORMAT} but {manifest.get('format')!r}")
        return manifest

    def cells(self, numbers: Sequence[int] | None = None) -> list[Cell]:
        """The frozen cells, all or those of these numbers."""
        frozen, reports = self.manifest["cells"], self.manifest["reports"]
        return [
            Cell(
                frozen[n]["config"],
                frozen[n]["choices"],
                (),
                reports.get(frozen[n]["labels"]["experiment"], {}),
            )
            for n in (range(len(frozen)) if numbers is None else numbers)
        ]

    def packs(self, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """The frozen packs, all or those of these names, as they are worked on: in halves."""
        wanted = None if names is None else set(names)
        chosen = [p for p in self.manifest["packs"] if wanted is None or p["name"] in wanted]
        return [part for pack in chosen for part in self._parts(pack)]

    def halve(self, pack: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The two halves of a pack, which from now on stand for it."""
        write_whole(self.folder / "halved" / pack["name"], b"")
        return halves(pack)

    def _parts(self, pack: dict[str, Any]) -> list[dict[str, Any]]:
        if not (self.folder / "halved" / pack["name"]).exists():
            return [pack]
        return [part for half in halves(pack) for part in self._parts(half)]

    def needs(self, unit: UnitName) -> set[UnitName]:
        """The units whose tickets this one starts from."""
        key, seed = unit
        return {(need, seed) for need in self.manifest["stages"][key]["needs"]}

    def log(self, pack: str) -> Path:
        return self.folder / "logs" / f"{pack}.log"

    def fail(self, unit: UnitName, reason: str, pack: str) -> None:
        """Note why a unit could not be computed; a full disk may forget it."""
        about = {"reason": reason, "log": str(self.log(pack)), "time": time.time()}
        with suppress(OSError):
            write_whole(self._failed(unit), json.dumps(about).encode())

    def failures(self) -> dict[UnitName, dict[str, Any]]:
        """What failed, by unit; a note that cannot be read is as good as none."""
        found = {}
        for path in sorted((self.folder / "failed").glob("*.json")):
            key, _, seed = path.stem.partition("-")
            with suppress(OSError, ValueError):
                found[key, seed] = json.loads(path.read_text())
        return found

    def forgive(self, units: Iterable[UnitName]) -> None:
        """Forget that these failed: they are tried again."""
        for unit in units:
            self._failed(unit).unlink(missing_ok=True)

    def _failed(self, unit: UnitName) -> Path:
        return self.folder / "failed" / f"{unit[0]}-{unit[1]}.json"

    def beat(self, who: str, **about: Any) -> None:
        """Say that `who` is at work: `packs` (by name: units and step), `queue`, `host`."""
        content = {"time": time.time(), **about}
        with suppress(OSError):  # only a sign of life
            write_whole(self.folder / "running" / f"{who}.json", json.dumps(content).encode())

    def rest(self, who: str) -> None:
        """Say that `who` has stopped."""
        with suppress(OSError):
            (self.folder / "running" / f"{who}.json").unlink(missing_ok=True)

    def running(self) -> dict[str, dict[str, Any]]:
        """Who is at work. One that has said nothing for long has died without a word."""
        found = {}
        for path in sorted((self.folder / "running").glob("*.json")):
            with suppress(OSError, ValueError):
                about = json.loads(path.read_text())
                if time.time() - about["time"] < STALE:
                    found[path.stem] = about
        return found


def units(pack: Mapping[str, Any]) -> list[UnitName]:
    """The units of a frozen pack."""
    return [(key, seed) for key, seed in pack["units"]]


def part(pack: Mapping[str, Any], kept: Sequence[UnitName]) -> dict[str, Any]:
    """A frozen pack of some of the units of another."""
    keys = {key for key, _ in kept}
    return {
        **pack,
        "name": name_of(pack["level"], kept),
        "units": [list(unit) for unit in kept],
        "moments": {key: wanted for key, wanted in pack["moments"].items() if key in keys},
    }


def halves(pack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A pack's two halves, by the order of its units."""
    members = units(pack)
    middle = (len(members) + 1) // 2
    return [part(pack, members[:middle]), part(pack, members[middle:])]


def name_of(level: int, members: Sequence[UnitName]) -> str:
    """What a pack is called: by its level and its units."""
    return f"level{level}-{digest([list(unit) for unit in members])[:12]}"
