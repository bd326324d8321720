"""`Manifest`: the frozen cells, stages and packs of one sweep, as its manifest.json holds them.

Whoever works on a sweep reads its manifest and nothing else of the configuration, so that editing a
yaml while packs wait changes nothing in them. It is written and read here alone, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lt_sweeps.config.call import Config, digest
from lt_sweeps.config.cells import Cell
from lt_sweeps.storage.atomic_write import write_whole

FORMAT = "lt_sweeps.manifest/3"

UnitName = tuple[str, str]
"""A unit as a manifest names it: its stage's key and its seed."""


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; none of it changes a result."""

    device: str = "cpu"
    backend: str = "auto"
    checkpoint_every: float = 60.0
    code_version: str = ""


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
    """A cell as it was submitted. `levels` are those of the stages that are results, by key."""

    signature: str
    seed: str
    labels: Mapping[str, str | None]
    choices: Mapping[str, str]
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


@dataclass(frozen=True)
class Launcher:
    """How a sweep was started, which is how it is resumed."""

    name: str = "local"
    cwd: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)  # of a cluster's jobs


@dataclass(frozen=True)
class Manifest:
    """A sweep: `content` is the digest of its cells' names, `reports` how experiments are drawn.

    `data` are digests of what the data sets hold, by their functions and arguments.
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
    format: str = FORMAT

    def cell(self, number: int) -> Cell:
        """A cell as it was composed."""
        frozen = self.cells[number]
        report = self.reports.get(frozen.labels.get("experiment") or "", {})
        return Cell(frozen.config, dict(frozen.choices), (), report)

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(self, default=vars).encode())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises: ValueError: there is none, it is damaged, or of another format."""
        try:
            content: Any = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"sweep: {path} cannot be read: {error}") from None
        stated = content.get("format") if isinstance(content, dict) else None
        if stated != FORMAT:
            raise ValueError(f"sweep: {path} has format {stated!r}; this version reads {FORMAT}")
        try:
            cells = [FrozenCell(**c | {"config": Config(c["config"])}) for c in content["cells"]]
            stages = {key: FrozenStage(**stage) for key, stage in content["stages"].items()}
            packs = [
                FrozenPack(**pack | {"units": [*map(tuple, pack["units"])], "machine": machine})
                for pack in content["packs"]
                for machine in [Machine(**pack["machine"])]
            ]
            content |= {"cells": cells, "stages": stages, "packs": packs}
            return cls(**content | {"launcher": Launcher(**content["launcher"])})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"sweep: {path} is damaged: {error!r}") from None


def pack_name(level: int, units: Sequence[UnitName]) -> str:
    """What a pack is called: by its level and its units."""
    return f"level{level}-{digest([list(unit) for unit in units])[:12]}"
