"""`Submission`: what one command asks for, how much of it is done, and its frozen form.

Both launchers go the same way: they make a submission, ask it for the packs to run, freeze them in
the sweep's manifest, run or submit them, and write the records. A worker reads the manifest and
nothing else of the configuration (`work_on`).
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from lt_sweeps.config.call import Config, digest
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.config.seeds import Seed
from lt_sweeps.config.user_code import code_named
from lt_sweeps.data.split_overlap import shared_examples
from lt_sweeps.execution.asked_metrics import check_layouts, check_metrics
from lt_sweeps.execution.loaded_code import ChangedCode
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.measured_backend import with_backend
from lt_sweeps.execution.own_code_trial import try_out
from lt_sweeps.execution.patience import patiently, say
from lt_sweeps.execution.records import is_recorded, record_cell
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.cost import kind
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Init, Work, needs
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.ticket_checks import ticket_fault
from lt_sweeps.plan.unit import Unit, data_of, tasks_of
from lt_sweeps.storage.atomic_write import set_aside
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import (
    FrozenCell,
    FrozenPack,
    FrozenStage,
    Launcher,
    Manifest,
    UnitName,
)
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder, is_folder_name
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.training_loop import TrainingLoop

_log = logging.getLogger("lt_sweeps")
_LONGEST_NAME = 200  # of a folder: file systems take 255 bytes


class Submission:
    """The cells of one command, under one root.

    Raises:
        ChangedCode: code or data now lead to other results than when this sweep was started.
        ValueError: a cell is wrong, or the sweep's name is taken by other cells.
    """

    def __init__(self, plan: Plan, settings: RunSettings) -> None:
        check_metrics(plan.cells)
        self.plan, self.settings, self.store = plan, settings, Store(settings.root)
        self.content = _content((cell.signature, str(cell.seed)) for cell in self.plan.cells)
        self.experiment = self.plan.cells[0].labels["experiment"] or ""
        name = settings.name
        if name is not None and not (is_folder_name(name) and len(name.encode()) <= _LONGEST_NAME):
            raise ValueError(
                f"name: {str(name)[:80]!r} cannot name a folder; use letters, digits, . - and _, "
                f"{_LONGEST_NAME} bytes at most"
            )
        folder = name or settings.search or f"{self.experiment}-{self.content[:8]}"
        self.folder = settings.root / "sweeps" / folder.replace("/", "-")
        before = self.sweep.usable_manifest
        if before is not None and not self._goes_on_with(before):
            if _asked(c.config for c in before.cells) == _asked(c.cell.config for c in plan.cells):
                _check_units(self.sweep, plan, [u for cell in before.cells for u in cell.units])
            raise ValueError(f"name: {folder!r} is taken by {self._owner(before)}; choose another")

    @property
    def _reports(self) -> dict[str, Mapping[str, Any]]:
        """The keys under `report:` of each experiment."""
        return {c.labels["experiment"] or "": c.cell.report for c in self.plan.cells}

    def _owner(self, before: Manifest) -> str:
        """The sweep that has the name: its overrides, and why these cells are not its cells."""
        there = {cell.name for cell in before.cells}
        new = sum(f"{cell.signature}/{cell.seed}" not in there for cell in self.plan.cells)
        others = f"{new} of these {len(self.plan.cells)} cells are not in it"
        of = f", of `{shlex.join(before.words)}`" if before.words else ""
        why = others if new else "it has more cells"
        return f"another sweep in {self.settings.root}{of}: {why}"

    def _goes_on_with(self, before: Manifest) -> bool:
        """Whether its cells are those of a sweep, or trials of the same search."""
        if self.settings.search is not None:
            return before.search == self.settings.search
        return before.content == self.content

    @property
    def sweep(self) -> SweepFolder:
        """Its folder, read anew: others may freeze packs of the same sweep."""
        return SweepFolder(self.folder)

    @cached_property
    def units(self) -> dict[UnitName, Unit]:
        return {name_of(unit): unit for unit in self.plan.units}

    def missing(self) -> tuple[Unit, ...]:
        """The units to compute: those that are not stored, or whose ticket is not what it says.

        A plan looks at the head of each ticket, and a command that computes at all of it.
        """
        return self.plan.missing(self.store, thorough=not self.settings.dry_run)

    def unfinished(self, missing: Iterable[Unit]) -> list[Pack]:
        """The packs of an interrupted sweep as they were, so that resuming changes no byte."""
        before = self.sweep.usable_manifest
        if before is None:
            return []
        left = {name_of(unit) for unit in missing}
        packs = []
        for frozen in reversed(before.packs):
            if not self.units.keys() >= {*frozen.units}:  # with those of other trials of a search
                continue
            if left.intersection(frozen.units):
                left.difference_update(frozen.units)
                packs.append(Pack(tuple(self.units[name] for name in frozen.units)))
        return packs[::-1]

    def check_layouts(self) -> None:
        """Raises: ValueError: a report would name a key or a line that none of the cells has."""
        if self.settings.search is None:  # else lines of earlier and later trials may be meant
            check_layouts([_frozen_cell(cell) for cell in self.plan.cells], self._reports)

    @property
    def arithmetics(self) -> list[Arithmetic]:
        """One for each precision of its cells, in their order."""
        each = (Arithmetic(unit.stage.training.precision) for unit in self.plan.units)
        return list(dict.fromkeys(each))

    def check_precision(self, device: str) -> None:
        """Raises: ValueError: a cell asks for a precision that the device does not have."""
        for arithmetic in self.arithmetics:
            arithmetic.check(torch.device(device))

    def try_out(self) -> None:
        """Raises: ValueError: what the cells bring of their own fails on two examples."""
        try_out(self.plan, self.settings.root)

    def prepare_data(self, units: Sequence[Unit]) -> None:
        """Download what these units train on, here, where there may be a network."""
        for task in tasks_of(units):
            patiently("data", task.prepare)

    def check_splits(self, units: Sequence[Unit]) -> None:
        """Say which images the splits of the data share that these units train on.

        Raises:
            ValueError: so many that a split was taken from another one.
        """
        for task in tasks_of(units):
            for shared in shared_examples(task.dataset.load()):
                if shared.is_a_mistake:
                    raise ValueError(
                        f"dataset: {task.call}: {shared}; a score on images that were trained on, "
                        "or chosen by, says nothing"
                    )
                _log.warning("dataset: %s: %s", task.call, shared)

    def freeze(
        self,
        packs: Sequence[Pack],
        launcher: Launcher | None = None,
        jobs: Mapping[str, str] | None = None,
    ) -> SweepFolder:
        """Write the manifest, and forget earlier failures: what failed is tried again.

        Packs that are in the manifest stay as they are, but for their job: a process may be at
        work on them.

        Args:
            launcher: how the sweep was started; None: in this folder, on this machine.
            jobs: which job each pack belongs to, by its name.
        """
        return patiently("manifest", lambda: self._freeze(packs, launcher, jobs or {}))

    def _freeze(
        self, packs: Sequence[Pack], launcher: Launcher | None, jobs: Mapping[str, str]
    ) -> SweepFolder:
        with locked(self.folder / ".lock"):
            before = self.sweep.usable_manifest
            if before is None and os.path.lexists(self.sweep.path):
                set_aside(self.sweep.path, "damaged")
            launcher = launcher or Launcher(cwd=os.getcwd())
            self._manifest(before, packs, launcher, jobs).write(self.sweep.path)
        sweep = self.sweep
        sweep.note_code(code_named(*(cell.cell.config for cell in self.plan.cells)))
        sweep.forgive(self.units.keys() & sweep.failures().keys())
        return sweep

    def _manifest(
        self,
        before: Manifest | None,
        packs: Sequence[Pack],
        launcher: Launcher,
        jobs: Mapping[str, str],
    ) -> Manifest:
        """The manifest with these packs behind those of the one before."""
        cells = self._with_earlier_trials(before)
        numbers = _cells_by_unit(cells)
        frozen = before.packs if before else ()
        frozen = [replace(pack, job=jobs.get(pack.name, pack.job)) for pack in frozen]
        known = {pack.name for pack in frozen}
        new = [
            self._frozen_pack(pack, numbers, jobs.get(pack.name))
            for pack in packs
            if pack.name not in known
        ]
        stages = {u.stage.key: _frozen_stage(u.stage) for u in self.plan.units}
        return Manifest(
            name=self.folder.name,
            experiment=self.experiment,
            content=_content((cell.signature, cell.seed) for cell in cells),
            cells=cells,
            stages={**(before.stages if before else {}), **stages},
            packs=[*frozen, *new],
            launcher=launcher,
            reports={**(before.reports if before else {}), **self._reports},
            data={**(before.data if before else {}), **data_of(self.plan.units)},
            search=before.search if before else self.settings.search,
            words=[*self.settings.words] or (before.words if before else []),
        )

    def _with_earlier_trials(self, before: Manifest | None) -> list[FrozenCell]:
        """The cells of the manifest; a search adds its cells behind those of earlier trials.

        Frozen packs name cells by their numbers, so earlier cells keep theirs. Settings that all
        cells of a sweep share, such as `workers`, change for earlier trials too.
        """
        cells = [_frozen_cell(cell) for cell in self.plan.cells]
        if before is None or self.settings.search is None:
            return cells
        known = {cell.name for cell in before.cells}
        shared = {key: value for key, value in cells[0].config.items() if key in SHARED_KEYS}
        earlier = [replace(c, config=Config({**c.config, **shared})) for c in before.cells]
        return [*earlier, *(cell for cell in cells if cell.name not in known)]

    def write_records(self, cells: Sequence[Planned] | None = None) -> int:
        """Write the records of all cells, or of these; returns how many of them are complete."""
        tickets = StoredTickets(self.store, thorough=True)
        patiently("tickets", partial(self._redraw, tickets))
        done = sum(
            is_recorded(cell, tickets)
            or patiently("records", partial(write_records, cell, tickets))
            for cell in (self.plan.cells if cells is None else cells)
        )
        tickets.verified.save()
        return done

    def _redraw(self, tickets: StoredTickets) -> None:
        """Draw initial weights anew whose file is damaged: they are of no unit that is computed."""
        pairs = {(unit.stage, unit.seed) for unit in self.plan.units if not unit.stage.start.inputs}
        inits = {(stage.start, seed) for stage, seed in pairs if isinstance(stage.start, Init)}
        for init, seed in inits:
            path = self.store.path(init.key, seed)
            if not os.path.lexists(path) or tickets.holds(init, seed):
                continue
            if fault := ticket_fault(init, seed, "end", self.store):
                set_aside(path, fault)
                ticket(init, seed, self.store)

    def _frozen_pack(
        self, pack: Pack, numbers: Mapping[UnitName, list[int]], job: str | None
    ) -> FrozenPack:
        names = [name_of(unit) for unit in pack.units]
        return FrozenPack(
            name=pack.name,
            level=pack.units[0].stage.level,
            units=names,
            machine=self.settings.machine,
            cells=sorted({number for name in names for number in numbers[name]}),
            moments={
                key: sorted(self.plan.moments.get(key, ()), key=str)
                for key in dict.fromkeys(key for key, _ in names)
            },
            job=job,
        )


def resumed(sweep: SweepFolder) -> Submission:
    """A sweep that was frozen before, as it was submitted. Relative paths start where it did.

    In a root that was copied to another machine that folder may be missing. Relative paths then
    start here: data or code of other content give other keys, and are refused by the sweep's name.
    """
    cells, started_in = sweep.cells(), sweep.manifest.launcher.cwd
    try:
        os.chdir(started_in)
    except OSError as error:
        here = os.getcwd()
        say(f"resume: it was started in {started_in} ({error.strerror}); paths start in {here}")
    named = {"root": sweep.root, "name": sweep.folder.name, "dry_run": False, "search": None}
    return Submission(plan(cells), replace(RunSettings.of(cells), **named))


def work_on(
    sweep: SweepFolder,
    pack: FrozenPack,
    *,
    device: str,
    progress: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
    check: Callable[[], None] = lambda: None,
    watch: Callable[[TrainingLoop], None] = lambda loop: None,
) -> list[Unit]:
    """Compute one frozen pack of a sweep, and write the records of the cells that it advances.

    Returns its units.

    `check` is called when everything is imported that the pack needs, and at the end; `watch` with
    each training loop before it begins.
    """
    cells, units = thawed(sweep, pack, check)
    moments = {key: frozenset(wanted) for key, wanted in pack.moments.items()}
    machine = with_backend(sweep, units, replace(pack.machine, device=device))
    store = Store(sweep.root)
    compute(
        units,
        moments,
        store,
        machine,
        reported=cells.best_reported,
        progress=progress,
        stopped=stopped,
        watch=watch,
    )
    check()
    computed: dict[Seed, set[str]] = {}
    for unit in units:
        computed.setdefault(unit.seed, set()).add(unit.stage.key)
    tickets = StoredTickets(store, thorough=True, recall=False)
    for cell in cells.cells:
        keys = computed.get(cell.seed, set()).intersection(s.key for s in cell.trainings)
        if keys:
            write_records(cell, tickets, computed=keys)
    tickets.verified.save()
    return units


def thawed(
    sweep: SweepFolder, pack: FrozenPack, check: Callable[[], None] = lambda: None
) -> tuple[Plan, list[Unit]]:
    """The plan of the cells that a frozen pack advances, and the pack's units in their order.

    Planning imports the functions that the cells name; `check` is called after it, also if it
    fails.

    Raises:
        ChangedCode: code or data now lead to other results than those that were planned.
    """
    try:
        cells = plan(sweep.cells(pack.cells))
    finally:
        check()
    units = _check_units(sweep, cells, pack.units)
    return cells, [units[name] for name in pack.units]


def _check_units(
    sweep: SweepFolder, now: Plan, names: Iterable[UnitName]
) -> Mapping[UnitName, Unit]:
    """The units of a plan by name, after a check that those of a sweep are among them.

    Raises: ChangedCode: a unit is not; the line says whether data or code has changed.
    """
    before = sweep.manifest
    units = {name_of(unit): unit for unit in now.units}
    missing = next((name for name in names if name not in units), None)
    if missing is None:
        return units
    if edited := sweep.edited(code_named(*(cell.cell.config for cell in now.cells))):
        raise ChangedCode(
            f"code: {', '.join(edited)} changed since the sweep was started; put it back, or "
            "give the sweep another name: it computes with the code as it is now"
        )
    for name, content in data_of(now.units).items():
        if before.data.get(name, content) != content:
            raise ChangedCode(
                f"data: {name} reads other content than when the sweep was started; put the data "
                "back, or give the sweep another name: it computes with the data as they are now"
            )
    raise ChangedCode(
        f"code: level {before.stages[missing[0]].level} of seed {missing[1]} is no longer "
        "what the same settings lead to, because a function of yours, or a file that it reads, has "
        "changed; put it back, or give the sweep another name: it computes with what there is now"
    )


def _asked(configs: Iterable[Config]) -> list[dict[str, Any]]:
    """What cells ask for, without where and how it is computed."""
    return [{k: v for k, v in config.items() if k not in SHARED_KEYS} for config in configs]


def write_records(
    planned: Planned, tickets: StoredTickets, *, computed: Collection[str] | None = None
) -> bool:
    """Write a cell's records, as `record_cell`; two packs that advance one cell take turns."""
    folder = tickets.store.root / "runs" / planned.signature
    with locked(folder / f".{planned.seed}.lock"):
        return record_cell(planned, tickets, computed=computed)


def _cells_by_unit(cells: Sequence[FrozenCell]) -> dict[UnitName, list[int]]:
    """The numbers of the cells that each unit advances."""
    numbers: dict[UnitName, list[int]] = {}
    for number, cell in enumerate(cells):
        for unit in cell.units:
            numbers.setdefault(unit, []).append(number)
    return numbers


def _content(names: Iterable[tuple[str, str]]) -> str:
    """The digest of cells' names: signature and seed."""
    return digest([list(name) for name in names])


def name_of(unit: Unit) -> UnitName:
    """A unit as a manifest names it."""
    return unit.stage.key, str(unit.seed)


def _frozen_cell(planned: Planned) -> FrozenCell:
    return FrozenCell(
        signature=planned.signature,
        seed=str(planned.seed),
        labels=planned.labels,
        config=planned.cell.config,
        stages=[stage.key for stage in planned.trainings],
        levels=planned.levels,
    )


def _frozen_stage(stage: Work) -> FrozenStage:
    return FrozenStage(
        level=stage.level,
        start=stage.start.step,
        end=stage.step,
        kind=kind(stage),
        needs=sorted(need.key for need in needs(stage)),
    )
