"""The plan: the stages of all cells, each once, and the units that are not stored yet."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.cell_plan import Planned, planned_cell
from lt_sweeps.plan.plan_notes import notes
from lt_sweeps.plan.stages import Moment, ancestors, trainings
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.dropped_tickets import read_dropped
from lt_sweeps.storage.manifest import UnitName
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store


@dataclass(frozen=True)
class Plan:
    """All cells of a multirun, with the units and snapshots that they need together.

    `asked` is the number of trainings if each cell ran alone, sharing nothing. `moments` has, by a
    training's key, the moments at which the training must save a snapshot.
    """

    cells: tuple[Planned, ...]
    asked: int
    moments: Mapping[str, frozenset[Moment]]
    notes: tuple[str, ...] = ()  # keys that were set and have no effect

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """Each unit of work once, sorted so that a unit comes after the units that it needs."""
        units = dict.fromkeys(unit for cell in self.cells for unit in cell.units)
        return tuple(sorted(units, key=lambda unit: unit.stage.depth))

    @functools.cached_property
    def named(self) -> Mapping[UnitName, Unit]:
        """The units by their names in a manifest."""
        return {unit.name: unit for unit in self.units}

    @functools.cached_property
    def best_reported(self) -> frozenset[str]:
        """The keys of trainings for which a cell reports the best evaluation instead of the end."""
        best = (cell for cell in self.cells if cell.report_at == "best")
        return frozenset(s.key for cell in best for s in cell.trainings if s.key in cell.levels)

    @functools.cached_property
    def wanted(self) -> Mapping[str, frozenset[Moment]]:
        """The `moments`, and `reported` for each training in `best_reported`."""
        return with_reported(self.moments, self.best_reported)

    def missing(self, store: Store, *, thorough: bool = False) -> tuple[Unit, ...]:
        """The units that are not stored, or lack a snapshot that a later stage or a cell needs.

        A cell that reports the best evaluation needs its weights, as the row's network.

        With `thorough`, each stored file is read in full and compared with its stage, not only its
        header. Files that were verified before and have not changed since are skipped.
        """
        tickets = StoredTickets(store, thorough=thorough)
        missing = tuple(unit for unit in self.units if not tickets.holds_unit(unit, self.wanted))
        tickets.verified.save()
        dropped = read_dropped(store.root) if missing else {}
        return self._needed(missing, tickets, dropped) if dropped else missing

    def _needed(
        self, missing: Sequence[Unit], tickets: StoredTickets, dropped: Mapping[str, frozenset[str]]
    ) -> tuple[Unit, ...]:
        """The missing units, except dropped ones whose results are still in the records."""
        spared = {unit for unit in missing if tickets.holds_unit(unit, self.wanted, dropped)}
        for cell in self.cells:
            if not spared.isdisjoint(cell.units) and not _is_done(cell, tickets.store):
                spared.difference_update(cell.units)
        for unit in missing:  # a unit that is computed needs all earlier trainings
            if unit not in spared:
                spared -= {Unit(stage, unit.seed) for stage in trainings(unit.stage)}
        return tuple(unit for unit in missing if unit not in spared)


def with_reported(
    moments: Mapping[str, frozenset[Moment]], reported: Collection[str]
) -> dict[str, frozenset[Moment]]:
    """The moments by stage key, with `reported` added for the stages in `reported`."""
    nothing, added = frozenset[Moment](), frozenset[Moment]({"reported"})
    return {**moments, **{key: moments.get(key, nothing) | added for key in reported}}


def plan(cells: Sequence[Cell]) -> Plan:
    """Plan cells; nothing is computed.

    Raises:
        ValueError: a cell's config is wrong; the first line of the message says where.
    """
    planned = [planned_cell(cell) for cell in cells]
    _check_defaults_of_torch()
    distinct = {(cell.signature, cell.seed): cell for cell in planned}
    moments: dict[str, set[Moment]] = {}
    lasts = {last.key: last for cell in planned for last in cell.lasts}.values()
    for stage in itertools.chain.from_iterable(map(ancestors, lasts)):
        for source, moment in stage.snapshots:
            if source.must_save(moment):
                moments.setdefault(source.key, set()).add(moment)
    return Plan(
        tuple(distinct.values()),
        sum(len(cell.trainings) for cell in planned),
        {key: frozenset(wanted) for key, wanted in moments.items()},
        tuple(dict.fromkeys(notes(planned))),
    )


def _check_defaults_of_torch() -> None:
    """Raises: ValueError: a user-defined module has changed torch's default dtype or device.

    Planning has imported these modules. With other defaults the initial weights of a network would
    differ, and would be stored under the key that all other sweeps share.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32 or device.type != "cpu":
        raise ValueError(
            f"torch: its default dtype is {dtype} and its default device {device.type}, which a "
            "module of yours sets; networks begin as torch.float32 on the cpu, so set neither"
        )


def _is_done(cell: Planned, store: Store) -> bool:
    folder = RunFolder.of(store.root, cell.signature, cell.seed)
    stored = folder.read(stages=[stage.key for stage in cell.trainings])
    return stored.done and not stored.faults
