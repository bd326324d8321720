"""`Unit`: the smallest thing that is computed and stored."""

from __future__ import annotations

from dataclasses import dataclass

from lt_sweeps.config.seeds import Seed
from lt_sweeps.plan.stages import Work


@dataclass(frozen=True)
class Unit:
    """A stage for one seed: the smallest thing that is stored."""

    stage: Work
    seed: Seed
