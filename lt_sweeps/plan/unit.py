"""A unit of work, and the machine that it is done on."""

from __future__ import annotations

from dataclasses import dataclass

from lt_sweeps.config.seeds import Seed
from lt_sweeps.plan.stages import Work


@dataclass(frozen=True)
class Unit:
    """A stage for one seed: the smallest thing that is stored."""

    stage: Work
    seed: Seed


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; none of it changes a result."""

    device: str = "cpu"
    backend: str = "auto"
    checkpoint_every: float = 60.0
    code_version: str = ""
