"""The cells and seeds of a sweep for a tracker, read from files only (no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lt_sweeps.analysis.curve import Curve, curves
from lt_sweeps.analysis.results import CellResults, Results, read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.storage.checked_read import say_unused
from lt_sweeps.storage.dropped_tickets import read_dropped
from lt_sweeps.storage.manifest import FrozenCell
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_facts import TicketFacts
from lt_sweeps.storage.ticket_file import (
    CorruptTicket,
    checkpoint_steps,
    read_metadata,
    ticket_path,
)
from lt_sweeps.tracking.tracked_runs import Level, Row, TrackedCell


def tracked_cells(sweep: Path) -> list[TrackedCell]:
    """The cells and seeds of a sweep's folder, in the order of its manifest.

    Raises: ValueError: the manifest or a record cannot be read.
    """
    folder = SweepFolder(sweep.resolve())
    results = read_results(folder.folder, metrics=())
    lines = _lines(results)
    frozen = {cell.name: cell for cell in folder.manifest.cells}
    tracked: list[TrackedCell] = []
    for found in results.cells:
        cell = frozen[found.name]
        chosen = {group: option for group, option in found.choices.items() if option is not None}
        tracked.append(
            TrackedCell(
                cell.signature,
                cell.seed,
                cell.labels,
                cell.config,
                tuple(_levels(folder, cell, found)),
                found.done,
                settings={**chosen, **found.settings},
                place=_place(results.name, cell, lines.get(cell.name)),
            )
        )
    return tracked


def _levels(sweep: SweepFolder, cell: FrozenCell, found: CellResults) -> Iterator[Level]:
    """The levels of a cell that have begun, in order."""
    root, stages = sweep.root, sweep.manifest.stages
    records = {record.stage: record for record in (*found.search, *found.rows)}
    offset = 0
    for stage in cell.stages:
        record, evaluations = records.get(stage), _evaluations(root / "tickets" / stage, cell.seed)
        # A cell lists the levels of its results only, so a search's level is from its stage.
        number = cell.levels.get(stage, stages[stage].level if stage in stages else 0)
        if record is None:
            if evaluations:
                yield Level(number, offset, evaluations, None)
            return
        reported = ticket_path(root, stage, cell.seed, "best")
        ended = record.reported_step == record.step or not reported.exists()
        path = ticket_path(root, stage, cell.seed) if ended else reported
        ticket = path if path.exists() else None  # it may have been dropped
        gone = not evaluations and cell.seed in read_dropped(root).get(stage, ())
        yield Level(number, offset, evaluations, record, ticket, gone)
        offset += record.step if record.train_steps else 0


def _place(sweep: str, cell: FrozenCell, line: Curve | None) -> dict[str, str]:
    """A cell's panel and line in the report; its signature as long as it has no line there."""
    label, panel = (line.label, line.panel) if line is not None else (cell.signature, "")
    return {"sweep": sweep, "panel": panel, "line": label, "panel_and_line": f"{panel}: {label}"}


def _lines(results: Results) -> dict[str, Curve]:
    """The line of each cell and seed in the sweep's report, by the cell's name."""
    drawn: list[Curve] = []
    for analysis in analyses(results, {}).values():
        try:
            drawn += analysis.every_curve
        except ValueError:  # the report will refuse this layout; the mirror uses a default
            drawn += curves(analysis.results.cells, metric=analysis.metric)
    return {cell.name: line for line in drawn for cell in line.cells}


def history(folder: Path, seed: str) -> tuple[Row, ...]:
    """The evaluations of a training, from its ticket, or from the last checkpoint while it runs.

    Raises: CorruptTicket: the ticket exists and is damaged.
    """
    try:
        return _rows(folder / f"{seed}.safetensors")
    except FileNotFoundError:
        pass
    for step in reversed(checkpoint_steps(folder, [seed])[seed]):
        try:
            return _rows(folder / f"{seed}.partial-{step}.safetensors")
        except (OSError, CorruptTicket):
            continue  # just removed, or cut off by a full disk; an older one may be whole
    return ()


def _rows(path: Path) -> tuple[Row, ...]:
    """The history in a file; the first row loses `train_loss`, as no step was trained before it."""
    rows = TicketFacts.of(read_metadata(path)).history
    first = [{k: v for k, v in row.items() if k != "train_loss"} for row in rows[:1]]
    return (*first, *rows[1:])


def _evaluations(folder: Path, seed: str) -> tuple[Row, ...]:
    """The `history`; empty if a ticket is damaged, which the sweep itself reports and repairs."""
    try:
        return history(folder, seed)
    except (OSError, CorruptTicket) as error:
        say_unused(str(error))
        return ()
