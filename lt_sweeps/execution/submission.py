"""`Submission`: what one command asks for, how much of it is done, and what is done about it.

Both launchers go the same way: they make a submission, ask it for the packs to run, freeze them in
the sweep's manifest, run or submit them, and write the records.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lt_sweeps.config.call import Config
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.config.user_code import code_named
from lt_sweeps.data.split_overlap import shared_examples
from lt_sweeps.execution.asked_metrics import check_layouts, check_metrics
from lt_sweeps.execution.computed_anew import edited_keys
from lt_sweeps.execution.frozen_pack import check_same
from lt_sweeps.execution.frozen_plan import content_of, frozen_cell, manifest_of, reports_of
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.own_code_trial import try_out
from lt_sweeps.execution.patience import patiently
from lt_sweeps.execution.records import is_recorded, record_cell
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.execution.unread_keys import refuse_unread
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Init
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.ticket_checks import ticket_fault
from lt_sweeps.plan.unit import Unit, tasks_of
from lt_sweeps.storage.atomic_write import set_aside
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import Launcher, Manifest
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder, is_folder_name
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.backends.backend import check_backend

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
        self.content = content_of(plan.cells)
        name = settings.name
        if name is not None and not (is_folder_name(name) and len(name.encode()) <= _LONGEST_NAME):
            raise ValueError(
                f"name: {str(name)[:80]!r} cannot name a folder; use letters, digits, . - and _, "
                f"{_LONGEST_NAME} bytes at most"
            )
        folder = name or settings.search or f"{plan.cells[0].experiment}-{self.content[:8]}"
        self.folder = settings.root / "sweeps" / folder.replace("/", "-")
        before = self.sweep.usable_manifest
        if before is not None and not self._goes_on_with(before):
            if _asked(c.config for c in before.cells) == _asked(c.cell.config for c in plan.cells):
                check_same(self.sweep, plan, [u for cell in before.cells for u in cell.units])
            raise ValueError(
                f"name: {folder!r} is taken by {self._owner(before)}; choose another: "
                "stored results are used again"
            )

    def _owner(self, before: Manifest) -> str:
        """The sweep that has the name: its overrides, and why these cells are not its cells."""
        there = {cell.name for cell in before.cells}
        new = sum(f"{cell.signature}/{cell.seed}" not in there for cell in self.plan.cells)
        others = f"{new} of these {len(self.plan.cells)} cells are not in it"
        if edits := edited_keys(before, self.plan):
            others += f" ({', '.join(edits)})"
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

    def missing(self) -> tuple[Unit, ...]:
        """The units to compute: those that are not stored, or whose ticket is not what it says.

        A plan looks at the head of each ticket, and a command that computes at all of it.
        """
        return self.plan.missing(self.store, thorough=not self.settings.dry_run)

    def unfinished(self, missing: Sequence[Unit]) -> tuple[list[Pack], list[Unit]]:
        """The packs that an interrupted sweep left, and the missing units that are in none.

        These packs stay as they were, so that resuming changes no byte.
        """
        before, packs = self.sweep.usable_manifest, list[Pack]()
        left = {unit.name for unit in missing}
        for frozen in reversed(before.packs if before is not None else ()):
            # Of a search, units of other trials are here too.
            if self.plan.named.keys() >= {*frozen.units} and left.intersection(frozen.units):
                left.difference_update(frozen.units)
                packs.append(Pack(tuple(self.plan.named[name] for name in frozen.units)))
        return packs[::-1], [unit for unit in missing if unit.name in left]

    def check_asked(self) -> None:
        """Raises: ValueError: a line of a report, or a typed key, that none of the cells has."""
        if self.settings.search is None:  # else earlier and later trials may have it
            check_layouts([frozen_cell(cell) for cell in self.plan.cells], reports_of(self.plan))
            refuse_unread(self.plan.cells, self.settings.words)

    @property
    def arithmetics(self) -> list[Arithmetic]:
        """One for each precision of its cells, in their order."""
        each = (Arithmetic(unit.stage.training.precision) for unit in self.plan.units)
        return list(dict.fromkeys(each))

    def try_out(self, device: str) -> None:
        """Raises: ValueError: what the cells bring of their own fails on two examples.

        Or the backend that was asked for cannot compute one of their networks.
        """
        name, stages = self.settings.machine.backend, [unit.stage for unit in self.plan.units]
        each = ((s.network, s.training.task.kind, s.training.precision) for s in stages)
        for network, kind, precision in dict.fromkeys(each if name != "auto" else ()):
            in_bf16 = precision == "bf16" and device == "cpu"
            check_backend(name, network.module(), kind, in_bf16_on_cpu=in_bf16)
        try_out(self.plan, self.settings.root)

    def prepare_data(self, units: Sequence[Unit]) -> None:
        """Download what these units train on, here, where there may be a network."""
        for task in tasks_of(units):
            patiently("data", task.prepare)

    def check_splits(self, units: Sequence[Unit]) -> None:
        """Say which images the splits of the data share that these units train on.

        Raises:
            ValueError: so many that a split was taken from another one, or targets that are none
                of the classes.
        """
        for task in tasks_of(units):
            splits = task.dataset.load()
            for split in splits.values():
                task.kind.check_targets(split.targets, str(task.call), task.dataset.classes)
            for shared in shared_examples(splits):
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
            frozen = manifest_of(
                self.plan,
                self.settings,
                packs,
                before,
                name=self.folder.name,
                launcher=launcher or Launcher(cwd=os.getcwd()),
                jobs=jobs,
            )
            frozen.write(self.sweep.path)
        sweep = self.sweep
        sweep.note_code(code_named(*(cell.cell.config for cell in self.plan.cells)))
        sweep.forgive(self.plan.named.keys() & sweep.failures().keys())
        return sweep

    def write_records(self, cells: Sequence[Planned] | None = None) -> int:
        """Write the records of all cells, or of these; returns how many of them are complete."""
        tickets = StoredTickets(self.store, thorough=True)
        patiently("tickets", partial(self._redraw, tickets))
        done = sum(
            is_recorded(cell, tickets) or patiently("records", partial(record_cell, cell, tickets))
            for cell in (self.plan.cells if cells is None else cells)
        )
        tickets.verified.save()
        return done

    def _redraw(self, tickets: StoredTickets) -> None:
        """Draw initial weights anew whose file is damaged: they are of no unit that is computed."""
        starts = {(unit.stage.start, unit.seed) for unit in self.plan.units}
        for init, seed in starts:
            path = self.store.path(init.key, seed)
            if not isinstance(init, Init) or not os.path.lexists(path) or tickets.holds(init, seed):
                continue
            if fault := ticket_fault(init, seed, "end", self.store):
                set_aside(path, fault)
                ticket(init, seed, self.store)


def _asked(configs: Iterable[Config]) -> list[dict[str, Any]]:
    """What cells ask for, without where and how it is computed."""
    return [{k: v for k, v in config.items() if k not in SHARED_KEYS} for config in configs]
