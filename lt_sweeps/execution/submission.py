"""`Submission`: the cells that one command requests, and which of their units are still missing.

Both launchers follow the same steps: they make a submission, get the packs to run from it, freeze
the packs in the sweep's manifest, run or submit them, and write the records.
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
from lt_sweeps.data.dataset import classes_lacking
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
_LONGEST_NAME = 200  # bytes of a folder's name; file systems allow 255


class Submission:
    """The cells of one command, under one root.

    Raises:
        ChangedCode: code or data changed since this sweep was started, so its results would differ.
        ValueError: a cell is wrong, or another sweep already has this name.
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
        self._check_name(self.sweep.usable_manifest)

    def _check_name(self, before: Manifest | None) -> None:
        """Check that the sweep's name is free, or belongs to a sweep that this one continues.

        Raises: ChangedCode, ValueError: as `Submission`.
        """
        if before is None or self._goes_on_with(before):
            return
        cells = self.plan.cells
        if _asked(c.config for c in before.cells) == _asked(c.cell.config for c in cells):
            check_same(self.sweep, self.plan, [u for cell in before.cells for u in cell.units])
        raise ValueError(
            f"name: {self.folder.name!r} is taken by {self._owner(before)}; choose another name: "
            "stored results are used again"
        )

    def _owner(self, before: Manifest) -> str:
        """Describe the sweep that has this name: its overrides, and how its cells differ."""
        there = {cell.name for cell in before.cells}
        new = sum(f"{cell.signature}/{cell.seed}" not in there for cell in self.plan.cells)
        lacks = f"lacks {new} of these {len(self.plan.cells)} cells"
        if edits := edited_keys(before, self.plan):
            lacks += f" ({', '.join(edits)})"
        of = f" (`{shlex.join(before.words)}`)" if before.words else ""
        why = lacks if new else "has more cells than these"
        return f"another sweep in {self.settings.root}{of}, which {why}"

    def _goes_on_with(self, before: Manifest) -> bool:
        """Whether this submission has the cells of a sweep, or is a trial of the same search."""
        if self.settings.search is not None:
            return before.search == self.settings.search
        return before.content == self.content

    @property
    def sweep(self) -> SweepFolder:
        """The sweep's folder, read again each time: other processes may add packs to the sweep."""
        return SweepFolder(self.folder)

    def missing(self) -> tuple[Unit, ...]:
        """The units to compute: their tickets are not stored, or fail their checks.

        A dry run checks only the header of each ticket; a command that computes checks all of it.
        """
        return self.plan.missing(self.store, thorough=not self.settings.dry_run)

    def unfinished(self, missing: Sequence[Unit]) -> tuple[list[Pack], list[Unit]]:
        """Return the unfinished packs of an interrupted sweep, and the missing units in no pack.

        The packs keep their units and order, so that resuming gives the same bytes.
        """
        before, packs = self.sweep.usable_manifest, list[Pack]()
        left = {unit.name for unit in missing}
        for frozen in reversed(before.packs if before is not None else ()):
            # The manifest of a search also holds the units of other trials.
            if self.plan.named.keys() >= {*frozen.units} and left.intersection(frozen.units):
                left.difference_update(frozen.units)
                packs.append(Pack(tuple(self.plan.named[name] for name in frozen.units)))
        return packs[::-1], [unit for unit in missing if unit.name in left]

    def check_asked(self) -> None:
        """Raises: ValueError: a report names a line, or the command a key, that no cell has."""
        if self.settings.search is None:  # other trials of a search may have it
            cells, words = [*map(frozen_cell, self.plan.cells)], self.settings.words
            check_layouts(cells, reports_of(self.plan), words)
            refuse_unread(self.plan.cells, words)

    @property
    def arithmetics(self) -> list[Arithmetic]:
        """One for each precision that the cells use, in the order of the cells."""
        each = (Arithmetic(unit.stage.training.precision) for unit in self.plan.units)
        return list(dict.fromkeys(each))

    def try_out(self, device: str) -> None:
        """Check the backend with each network, and try the cells' user-defined parts.

        Raises: ValueError: the requested backend cannot compute a network, or a user-defined part
            fails on two examples.
        """
        name, stages = self.settings.machine.backend, [unit.stage for unit in self.plan.units]
        each = ((s.network, s.training.task.kind, s.training.precision) for s in stages)
        for network, kind, precision in dict.fromkeys(each if name != "auto" else ()):
            in_bf16 = precision == "bf16" and device == "cpu"
            check_backend(name, network.module(), kind, in_bf16_on_cpu=in_bf16)
        try_out(self.plan, self.settings.root)

    def prepare_data(self, units: Sequence[Unit]) -> None:
        """Download the data of these units on this machine; a job may have no network."""
        for task in tasks_of(units):
            patiently("data", task.prepare)

    def check_splits(self, units: Sequence[Unit]) -> None:
        """Warn about images that occur in several splits of the data of these units.

        Raises:
            ValueError: so many images are shared that one split must come from another, or targets
                do not fit the task (for example, a class that does not exist).
        """
        for task in tasks_of(units):
            splits = task.dataset.load()
            for name, split in splits.items():
                task.kind.check_targets(split.targets, str(task.call), task.dataset.classes)
                if name != "train":
                    task.kind.check_variance(split.targets, f"the {name} split of `{task.call}`")
            if task.kind.measures_accuracy and (lacking := classes_lacking(task.dataset, splits)):
                _log.warning("dataset: %s: %s", task.call, lacking)
            for shared in shared_examples(splits):
                if shared.is_a_mistake:
                    raise ValueError(
                        f"dataset: {task.call}: {shared}; a score says nothing if its images were "
                        "also used for training or for model selection"
                    )
                _log.warning("dataset: %s: %s", task.call, shared)

    def freeze(
        self,
        packs: Sequence[Pack],
        launcher: Launcher | None = None,
        jobs: Mapping[str, str] | None = None,
    ) -> SweepFolder:
        """Write the manifest, and clear earlier failures, so that failed units are tried again.

        Packs that are already in the manifest stay unchanged except for their job, because a
        process may be training them.

        Args:
            launcher: how the sweep was started; None: in this folder, on this machine.
            jobs: the job of each pack, by the pack's name.
        """
        return patiently("manifest", lambda: self._freeze(packs, launcher, jobs or {}))

    def _freeze(
        self, packs: Sequence[Pack], launcher: Launcher | None, jobs: Mapping[str, str]
    ) -> SweepFolder:
        with locked(self.folder / ".lock"):
            before = self.sweep.usable_manifest
            self._check_name(before)  # another command may have taken it since the plan was made
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
        """Write the records of all cells, or of `cells`; return how many of them are complete."""
        tickets = StoredTickets(self.store, thorough=True)
        patiently("tickets", partial(self._redraw, tickets))
        done = sum(
            is_recorded(cell, tickets) or patiently("records", partial(record_cell, cell, tickets))
            for cell in (self.plan.cells if cells is None else cells)
        )
        tickets.verified.save()
        return done

    def _redraw(self, tickets: StoredTickets) -> None:
        """Draw initial weights again if their file is damaged.

        Initial weights are not units, so `missing` does not find damaged ones.
        """
        starts = {(unit.stage.start, unit.seed) for unit in self.plan.units}
        for init, seed in starts:
            path = self.store.path(init.key, seed)
            if not isinstance(init, Init) or not os.path.lexists(path) or tickets.holds(init, seed):
                continue
            if fault := ticket_fault(init, seed, "end", self.store):
                set_aside(path, fault)
                ticket(init, seed, self.store)


def _asked(configs: Iterable[Config]) -> list[dict[str, Any]]:
    """The configs of cells without the keys that say only where and how to compute."""
    return [{k: v for k, v in config.items() if k not in SHARED_KEYS} for config in configs]
