"""`Results`: the results of a sweep or a whole root, read from its text files (no torch).

A line that cannot be read stops the report. The only exception is a half-written last line of a
cell that is not done. It is left out, with a note, because its writer is still running or will
write it again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.audited_files import AuditedCell
from lt_sweeps.analysis.cell_settings import ASIDE, as_today, taken_settings
from lt_sweeps.config.quantities import check_name
from lt_sweeps.storage.checked_read import DamagedFile
from lt_sweeps.storage.dropped_tickets import dropped_sentence
from lt_sweeps.storage.manifest import FrozenCell
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import CellRecords, RunFolder, is_run
from lt_sweeps.storage.sweep_folder import SweepFolder

_OF_A_RUN = ("config.yaml", "records.jsonl", "DONE")
_NOTES = 5  # the most notes on tickets that a report shows; there may be a note for each layer


@dataclass(frozen=True)
class CellResults:
    """One cell and seed on disk: its choices, its rows so far, and whether it is done.

    `settings` is the resolved config with dotted keys, without the keys in `ASIDE`. `rows` are the
    results; `search` are the trainings that only led up to them.
    """

    signature: str
    seed: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    rows: tuple[Record, ...] = ()
    search: tuple[Record, ...] = ()
    done: bool = False
    experiment: str = "default"

    @property
    def name(self) -> str:
        """`<signature>/<seed>`, as `FrozenCell.name`."""
        return f"{self.signature}/{self.seed}"

    @property
    def any_row(self) -> Record | None:
        """A row of the cell, for its task's metrics; None before the cell has a record."""
        return next(iter(self.rows or self.search), None)

    @property
    def judged_by(self) -> str:
        """The kind of metric by which the task is judged; empty before the cell has a record."""
        return "" if self.any_row is None else self.any_row.judged_by


@dataclass(frozen=True)
class Results:
    """All cells of a sweep or a root, with `notes` on the files for readers of a report.

    `layouts` holds the keys under `report:` by experiment; it is empty for a root.
    """

    name: str
    cells: tuple[CellResults, ...]
    notes: tuple[str, ...] = ()
    root: Path = Path()
    layouts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def unfinished(self) -> str:
        """A text such as `3 of 15 cells unfinished`; empty when all are done."""
        left = sum(not cell.done for cell in self.cells)
        return f"{left} of {len(self.cells)} cells unfinished" if left else ""

    def check_metrics(self, where: str, names: Iterable[str]) -> None:
        """Raises: ValueError: a name is not a metric of any record."""
        some = filter(None, (cell.any_row for cell in self.cells))
        tasks = {(row.metric, *(row.metrics or ())): row for row in some}
        known = list(dict.fromkeys(name for row in tasks.values() for name in row.metric_names))
        for name in names if known else ():
            check_name(where, name, known)

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of the code that made the rows."""
        versions = {row.code_version for cell in self.cells for row in (*cell.rows, *cell.search)}
        return tuple(sorted(filter(None, versions)))


def read_results(
    where: Path, *, metrics: Collection[str], audited: Iterable[AuditedCell] = ()
) -> Results:
    """Read the cells of a sweep folder (one with manifest.json) or of a whole root.

    Files of `audited` cells were read by the audit just before, and are not read again.

    Raises: ValueError: some files cannot be read; the message has one line for each fault.
    """
    faults: list[str] = []
    notes: list[str] = []
    cells: list[CellResults] = []
    said: Counter[str] = Counter()  # notes on tickets, and the number of tickets
    known_cells = {cell.folder.path: cell for cell in audited}
    backups: list[str] = []
    for folder, frozen in _folders(where):
        if frozen is None and not is_run(folder):
            backups.append(RunFolder(folder).name)
            continue
        known = known_cells.get(folder.resolve())
        stored = known and known.stored
        rows = stored.records if stored is not None else ()
        lacking = (name for row in rows for name in row.lacking(metrics))
        if stored is None or stored.faults or stored.half_written or any(lacking):
            stored = RunFolder(folder).read(needed=metrics, stages=frozen and frozen.stages)
        faults += stored.faults
        content = _content(folder, frozen, stored, faults, known and known.written)
        cells.append(_cell(folder, content, stored))
        notes += filter(None, [stored.half_written])
        said.update(note for record in stored.records for note in record.notes or ())
    if faults:
        raise ValueError("\n".join(faults))
    if backups:
        others = f"{len(backups)} folders whose names are not a cell and seed"
        notes.append(f"runs/: left out {others}, such as `{backups[0]}`")
    notes += [f"{note} ({count} tickets)" for note, count in said.most_common(_NOTES)]
    if len(said) > _NOTES:
        notes.append(f"{len(said) - _NOTES} more such notes: column `notes` of the records")
    placed, here = list(_placed(cells)), where.resolve()
    is_sweep = SweepFolder(where).exists
    if not is_sweep:  # a sweep has the manifest's order; a root's folders are named by hashes
        placed.sort(key=lambda cell: (str(cell.choices), cell.signature))
    root = here.parent.parent if is_sweep or _is_cell(where) else here
    rows = [row for cell in cells for row in (*cell.rows, *cell.search)]
    gone = dropped_sentence(root, ((row.stage, row.seed) for row in rows))
    notes += filter(None, [gone])
    return Results(here.name, tuple(placed), tuple(notes), root, layouts(where))


def layouts(where: Path) -> Mapping[str, Mapping[str, Any]]:
    """The keys under `report:` of each experiment of a sweep; empty for a root."""
    sweep = SweepFolder(where)
    return sweep.manifest.reports if sweep.exists else {}


def layouts_by_name(
    experiments: Iterable[str], layouts: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Mapping[str, Any]]:
    """The report keys by experiment; under the key "" if one report covers all experiments."""
    by_name = {name: layouts.get(name, {}) for name in experiments}
    first = next(iter(by_name.values()), {})
    if not layouts or all(keys == first for keys in by_name.values()):
        return {"": first}
    return by_name


def _folders(where: Path) -> Iterator[tuple[Path, FrozenCell | None]]:
    """The run folder of each cell, with its frozen cell from the manifest; None for a root."""
    sweep = SweepFolder(where)
    if sweep.exists:
        root = where.resolve().parent.parent
        for cell in {cell.name: cell for cell in sweep.manifest.cells}.values():
            yield RunFolder.of(root, cell.signature, cell.seed).path, cell
    elif where.is_dir() and (not any(where.iterdir()) or _is_root(where) or _is_cell(where)):
        for folder in sorted(where.glob("*" if _is_cell(where) else "runs/*/*")):
            if any(os.path.lexists(folder / name) for name in _OF_A_RUN):  # skips a report
                yield folder, None
    else:
        raise ValueError(
            f"report: `{where}` has no results; give a sweep's folder (it holds manifest.json), "
            "a root (it holds runs/) or a cell's folder in runs/"
        )


def _is_cell(where: Path) -> bool:
    return where.resolve().parent.name == "runs"


def _is_root(where: Path) -> bool:
    return any((where / name).is_dir() for name in ("runs", "sweeps", "tickets"))


def _cell(folder: Path, content: Mapping[str, Any], stored: CellRecords) -> CellResults:
    """The results in a cell's folder; `content` has its `choices` and its `config`."""
    chosen = as_today(content.get("choices") or {}, content.get("config") or {})
    groups = [name for name in chosen if name not in ASIDE and not name.startswith("hydra")]
    # If a method accepts no criterion, its records have none, even if its config.yaml does: an
    # older version wrote every option into config.yaml.
    taken = stored.records[0].options if stored.records else chosen
    taken = {**taken, "task": "every method takes one"}
    choices = {name: chosen[name] if taken.get(name, "") is not None else None for name in groups}
    return CellResults(
        folder.parent.name,
        folder.name,
        choices,
        taken_settings(content.get("config") or {}, choices),
        rows=tuple(row for row in stored.records if row.is_result),
        search=tuple(row for row in stored.records if not row.is_result),
        done=stored.done,
        experiment=chosen.get("experiment") or "default",
    )


def _content(
    folder: Path,
    frozen: FrozenCell | None,
    stored: CellRecords,
    faults: list[str],
    written: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """The `choices` and the `config` of a cell, from its manifest or from its folder.

    Faults of the cell's config.yaml are appended to `faults`.
    """
    path = folder / "config.yaml"
    # The manifest holds a queued cell's config before the cell has a folder.
    content: Mapping[str, Any] = (
        {"choices": frozen.labels, "config": frozen.config} if frozen else {}
    )
    try:
        written = RunFolder(folder).read_config() if written is None else written
        # The manifest has a checksum, so it takes precedence over config.yaml, which can be edited.
        content = content if content.get("choices") else written
    except FileNotFoundError:
        if stored.records and not content.get("choices"):
            faults.append(f"{path}: missing; without it the cell of records.jsonl is unknown")
    except DamagedFile as error:
        faults.append(str(error))
    return content


def queued_cell(cell: FrozenCell) -> CellResults:
    """A cell as its manifest holds it, without rows even if it has results."""
    choices = {name: option for name, option in cell.labels.items() if name not in ASIDE}
    return CellResults(cell.signature, cell.seed, choices, taken_settings(cell.config, choices))


def _placed(cells: list[CellResults]) -> Iterator[CellResults]:
    """The cells; a queued cell gets the choices of a started cell that differs only in the seed."""
    started = {cell.signature: cell for cell in cells if cell.choices}
    for cell in cells:
        alike = started.get(cell.signature, cell)
        yield replace(cell, choices=alike.choices, settings=cell.settings or alike.settings)
