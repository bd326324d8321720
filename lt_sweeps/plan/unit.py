"""`Unit`: a stage for one seed, the smallest work that is stored, and the data of units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lt_sweeps.config.identity import digest
from lt_sweeps.config.seeds import Seed
from lt_sweeps.plan.stages import Task, Work, needs
from lt_sweeps.storage.manifest import UnitName


@dataclass(frozen=True)
class Unit:
    """A stage for one seed: the smallest thing that is stored."""

    stage: Work
    seed: Seed

    @property
    def name(self) -> UnitName:
        """The name of the unit in a manifest."""
        return self.stage.key, str(self.seed)

    @property
    def needs(self) -> tuple[Unit, ...]:
        """The units whose stored tickets this unit starts from."""
        return tuple(Unit(stage, self.seed) for stage in needs(self.stage))


def tasks_of(units: Iterable[Unit]) -> list[Task]:
    """The distinct tasks that units train on, in the order of the units."""
    return list(dict.fromkeys(unit.stage.training.task for unit in units))


def data_of(units: Iterable[Unit]) -> dict[str, str]:
    """The digest of each data set's content, by its function and arguments."""
    return {str(task.call): digest(task.identity()) for task in tasks_of(units)}
