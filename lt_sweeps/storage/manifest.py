"""`Manifest`: the frozen cells, stages and packs of one sweep, stored in its manifest.json.

A worker reads no configuration except the manifest of its sweep, so editing a yaml while packs wait
does not change them. Only this module writes and reads manifests; it does not import torch.
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
    """Where and how to compute; these settings do not change a result."""

    device: str = "cpu"
    backend: str = "auto"
    deterministic: bool = True  # on a GPU, only kernels that repeat their bytes
    checkpoint_every: float = 60.0
    code_version: str = ""
    profile: str = ""  # "time" or "trace": what to measure; results do not change


@dataclass(frozen=True)
class FrozenStage:
    """A training in a manifest: the steps of its recipe, and the trainings that it needs."""

    level: int
    start: int
    end: int
    kind: str  # stages of one kind take about as long per step
    needs: Sequence[str]  # keys of stages


@dataclass(frozen=True)
class FrozenPack:
    """Units that train together, and everything that is needed to compute them.

    `cells` are the numbers of the cells that need these units, `moments` the snapshots to save by
    stage, `job` is the name of the job in which the pack was submitted.
    """

    name: str
    level: int
    units: Sequence[UnitName]
    machine: Machine
    cells: Sequence[int]
    moments: Mapping[str, Sequence[int | str]]
    job: str | None = None

    def part(self, units: Sequence[UnitName]) -> FrozenPack:
        """Return a pack of only these units."""
        keys = {key for key, _ in units}
        moments = {key: wanted for key, wanted in self.moments.items() if key in keys}
        return replace(self, name=pack_name(self.level, units), units=units, moments=moments)

    def halves(self) -> list[FrozenPack]:
        """Return the two halves of the pack, in the order of its units."""
        middle = (len(self.units) + 1) // 2
        return [self.part(self.units[:middle]), self.part(self.units[middle:])]


@dataclass(frozen=True)
class FrozenCell:
    """A cell as it was submitted.

    `levels` has the level of each stage that is a result, by key. `labels` has the option of each
    group; None for a group that the cell's method does not take.
    """

    signature: str
    seed: str
    labels: Mapping[str, str | None]
    config: Config
    stages: Sequence[str]
    levels: Mapping[str, int]

    @property
    def units(self) -> list[UnitName]:
        """All units that must be computed for the cell."""
        return [(key, self.seed) for key in self.stages]

    @property
    def name(self) -> str:
        """`<signature>/<seed>`, the cell's folder in `runs`."""
        return f"{self.signature}/{self.seed}"


def cells_by_unit(cells: Sequence[FrozenCell]) -> dict[UnitName, list[int]]:
    """Return the numbers of the cells that need each unit."""
    numbers: dict[UnitName, list[int]] = {}
    for number, cell in enumerate(cells):
        for unit in cell.units:
            numbers.setdefault(unit, []).append(number)
    return numbers


@dataclass(frozen=True)
class Launcher:
    """How a sweep was started; it is resumed in the same way."""

    name: str = "local"
    cwd: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)  # settings of a cluster's jobs


@dataclass(frozen=True)
class Manifest:
    """A sweep: its cells, the work that they need, and how to report them.

    `content` is the digest of the cells' names. `reports` has the report keys of each experiment.
    `data` has digests of the content of data sets, by their functions and arguments. `search` is
    the search whose trials the sweep holds: such a sweep gets more cells over time, any other sweep
    never does. `words` are the overrides that were typed last, for a reader of the report.
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
        """Return a cell as it was composed."""
        frozen = self.cells[number]
        report = self.reports.get(frozen.labels.get("experiment") or "", {})
        return Cell(frozen.config, frozen.labels, (), report)

    def write(self, path: Path) -> None:
        """Write the manifest, with a checksum as its last key."""
        content = json.dumps(self, default=vars).encode()
        checksum = hashlib.sha256(content).hexdigest()
        write_whole(path, content[:-1] + f', "sha256": "{checksum}"}}'.encode())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises:
        DamagedFile: the file is missing, damaged, or of an earlier format.
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
        """Raises: ValueError: a pack or a stage names something that the manifest does not hold."""
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
            raise ValueError("a level belongs to no stage of its cell")


_CURE = "; the command that started the sweep writes it again"


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, content: bytes) -> Manifest:
    """Parse a manifest; the last one is cached, because a command reads it several times."""
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
    """Return the content that `Manifest.write` computed a checksum of, and the checksum."""
    if match := re.search(rb', "sha256": "([0-9a-f]{64})"\}\s*$', content):
        return content[: match.start()] + b"}", match[1].decode()
    return content, None


def _written_by(row: Mapping[str, Any]) -> str:
    """Return the version of the code that froze a manifest, if it can be read."""
    try:
        return str(row["packs"][0]["machine"]["code_version"])
    except (LookupError, TypeError):
        return ""


def pack_name(level: int, units: Sequence[UnitName]) -> str:
    """Return the name of a pack, which depends on its level and its units."""
    return f"level{level}-{digest([list(unit) for unit in units])[:12]}"
