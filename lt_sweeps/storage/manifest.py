"""`Manifest`: the frozen cells, stages and packs of one sweep, as its manifest.json holds them.

A worker reads the manifest of its sweep and nothing else of the configuration, so that editing a
yaml while packs wait changes nothing in them. It is written and read here alone, without torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.identity import digest
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    NewerFormat,
    check_format,
    parse_json,
    read_file,
    typed,
)

FORMAT = "lt_sweeps.manifest/4"

UnitName = tuple[str, str]
"""A unit as a manifest names it: its stage's key and its seed."""


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; none of it changes a result."""

    device: str = "cpu"
    backend: str = "auto"
    deterministic: bool = True  # on a GPU, only kernels that repeat their bytes
    checkpoint_every: float = 60.0
    code_version: str = ""
    profile: str = ""  # "time" or "trace": what is measured, and nothing else changes


@dataclass(frozen=True)
class FrozenStage:
    """A training as a manifest describes it: steps of the recipe, and the trainings before it."""

    level: int
    start: int
    end: int
    kind: str  # stages of one kind take about as long per step
    needs: Sequence[str]  # keys


@dataclass(frozen=True)
class FrozenPack:
    """Units that train together, and all that computing them takes.

    `cells` are the numbers of the cells that it advances, `moments` the snapshots to save by stage,
    `job` is the name of the job that it was submitted in.
    """

    name: str
    level: int
    units: Sequence[UnitName]
    machine: Machine
    cells: Sequence[int]
    moments: Mapping[str, Sequence[int | str]]
    job: str | None = None

    def part(self, units: Sequence[UnitName]) -> FrozenPack:
        """The pack of some of these units."""
        keys = {key for key, _ in units}
        moments = {key: wanted for key, wanted in self.moments.items() if key in keys}
        return replace(self, name=pack_name(self.level, units), units=units, moments=moments)

    def halves(self) -> list[FrozenPack]:
        """Its two halves, by the order of its units."""
        middle = (len(self.units) + 1) // 2
        return [self.part(self.units[:middle]), self.part(self.units[middle:])]


@dataclass(frozen=True)
class FrozenCell:
    """A cell as it was submitted. `levels` are those of the stages that are results, by key.

    `labels` are the options by group; None for a group that the cell's method does not take.
    """

    signature: str
    seed: str
    labels: Mapping[str, str | None]
    config: Config
    stages: Sequence[str]
    levels: Mapping[str, int]

    @property
    def units(self) -> list[UnitName]:
        """All that has to be computed for it."""
        return [(key, self.seed) for key in self.stages]

    @property
    def name(self) -> str:
        """`<signature>/<seed>`, its folder below `runs`."""
        return f"{self.signature}/{self.seed}"


def cells_by_unit(cells: Sequence[FrozenCell]) -> dict[UnitName, list[int]]:
    """The numbers of the cells that each unit advances."""
    numbers: dict[UnitName, list[int]] = {}
    for number, cell in enumerate(cells):
        for unit in cell.units:
            numbers.setdefault(unit, []).append(number)
    return numbers


@dataclass(frozen=True)
class Launcher:
    """How a sweep was started, which is how it is resumed."""

    name: str = "local"
    cwd: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)  # of a cluster's jobs


@dataclass(frozen=True)
class Manifest:
    """A sweep: `content` is the digest of its cells' names, `reports` how experiments are drawn.

    `data` are digests of what the data sets hold, by their functions and arguments. `search` is the
    search whose trials it holds: such a sweep grows by cells; any other has those it began with.
    `words` are the overrides that a person typed last, for a reader of the report.
    """

    name: str
    experiment: str
    content: str
    cells: Sequence[FrozenCell]
    stages: Mapping[str, FrozenStage] = field(default_factory=dict)
    packs: Sequence[FrozenPack] = ()
    launcher: Launcher = Launcher()
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    words: Sequence[str] = field(default_factory=list[str])
    format: str = FORMAT

    def cell(self, number: int) -> Cell:
        """A cell as it was composed."""
        frozen = self.cells[number]
        report = self.reports.get(frozen.labels.get("experiment") or "", {})
        return Cell(frozen.config, frozen.labels, (), report)

    def write(self, path: Path) -> None:
        """Write it with a checksum, as the last of its keys."""
        content = json.dumps(self, default=vars).encode()
        checksum = hashlib.sha256(content).hexdigest()
        write_whole(path, content[:-1] + f', "sha256": "{checksum}"}}'.encode())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises:
        DamagedFile: there is none, it is damaged, or of an earlier format.
        NewerFormat: a later version wrote it.
        """
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise DamagedFile(path, "missing; a sweep's folder holds it") from None
        except DamagedFile as error:
            raise DamagedFile(path, error.reason + _CURE) from None
        return _parsed(path, content)

    def _check(self) -> None:
        """Raises: ValueError: a pack or a stage names what the manifest does not hold."""
        keys = {key for pack in self.packs for key, _ in pack.units}
        keys |= {need for stage in self.stages.values() for need in stage.needs}
        if unknown := sorted(keys - self.stages.keys()):
            raise ValueError(f"no stage {unknown[0]}")
        numbers = {number for pack in self.packs for number in pack.cells}
        if not self.cells or not numbers <= {*range(len(self.cells))}:
            raise ValueError("cells are missing")
        if not all(pack.units for pack in self.packs):
            raise ValueError("a pack has no units")
        if not all(cell.levels.keys() <= {*cell.stages} for cell in self.cells):
            raise ValueError("a level is of no stage")


_CURE = "; the command that started the sweep writes it again"


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, content: bytes) -> Manifest:
    """The manifest in a file's content: a command asks for the same one several times."""
    content, checksum = _without_checksum(content)
    try:
        row = parse_json(content)
        check_format(path, row["format"], FORMAT, by=_written_by(row))
        if checksum is None:
            raise ValueError("it has no checksum")
        if checksum != hashlib.sha256(content).hexdigest():
            raise ValueError("it does not match its checksum")
        manifest: Manifest = typed(Manifest, row)
        manifest._check()
    except NewerFormat:
        raise
    except DamagedFile as error:
        raise DamagedFile(path, error.reason + _CURE) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFile(path, f"damaged: {error}{_CURE}") from None
    return manifest


def _without_checksum(content: bytes) -> tuple[bytes, str | None]:
    """What `Manifest.write` computed a checksum of, and the checksum."""
    if match := re.search(rb', "sha256": "([0-9a-f]{64})"\}\s*$', content):
        return content[: match.start()] + b"}", match[1].decode()
    return content, None


def _written_by(row: Mapping[str, Any]) -> str:
    """The version of the code that froze a manifest, as far as it can be read."""
    try:
        return str(row["packs"][0]["machine"]["code_version"])
    except (LookupError, TypeError):
        return ""


def pack_name(level: int, units: Sequence[UnitName]) -> str:
    """What a pack is called: by its level and its units."""
    return f"level{level}-{digest([list(unit) for unit in units])[:12]}"
