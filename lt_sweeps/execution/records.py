"""Write records: one tidy row per evaluated ticket, the only input of report, status and tracker.

A cell's rows are derived from the metadata of its stored tickets, so any process can write them
again at any time and gets the same rows. A pack appends the rows of its own tickets. If the rows
already written are not as expected, or the cell is now complete, the pack writes all rows again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from lt_sweeps.config.file_version import version
from lt_sweeps.config.identity import digest
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.stages import Init, Work, ancestors, needs, trainings
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.ticket_checks import is_stored, stored_facts
from lt_sweeps.storage.atomic_write import set_aside
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store, UnitCost
from lt_sweeps.storage.ticket_facts import TicketFacts


def record_cell(
    planned: Planned, tickets: StoredTickets, *, computed: Collection[str] | None = None
) -> bool:
    """Write the records of a cell's stored tickets; return whether the cell is complete.

    If two packs advance the same cell, a lock makes them take turns.

    Records that disagree with the checksum in `DONE`, or with their tickets, are set aside and
    written again. A cell is done only when every ticket has been read in full and is correct.

    Args:
        computed: the keys of the stages whose tickets are new; None: check all stages.
    """
    folder = RunFolder.of(tickets.store.root, planned.signature, planned.seed)
    with locked(folder.path.parent / f".{planned.seed}.lock"):
        done = None if computed is None else _extended(planned, folder, tickets.store, computed)
        if done is None:
            done = _made_anew(planned, folder, tickets)
            if done and (seen := _seen(planned, folder, tickets)):
                tickets.verified.note(_name(planned), seen)
        return done


def is_recorded(planned: Planned, tickets: StoredTickets) -> bool:
    """Whether the cell was found complete before, and none of its files has changed since."""
    folder = RunFolder.of(tickets.store.root, planned.signature, planned.seed)
    return tickets.verified.has(_name(planned), _seen(planned, folder, tickets))


def _name(planned: Planned) -> str:
    return f"runs/{planned.signature}/{planned.seed}"


def _seen(planned: Planned, folder: RunFolder, tickets: StoredTickets) -> str:
    """A digest of the versions of a cell's files and tickets; empty if a record file is missing."""
    files = [version(path) for path in (folder.records, folder.done, folder.config)]
    own = [tickets.version(stage.key, planned.seed) for stage in planned.trainings]
    asked = [planned.labels, planned.cell.config]
    return "" if None in files else digest([files, own, asked])


def _extended(
    planned: Planned, folder: RunFolder, store: Store, computed: Collection[str]
) -> bool | None:
    """Append the rows of new tickets; return whether the cell is done.

    Return None if all rows must be written again from their tickets: the rows already written are
    not the ones that belong before the new rows, or the cell is now complete.
    """
    stored, order = folder.read(), [stage.key for stage in planned.trainings]
    written = {row.stage: row for row in stored.records}
    if not written or stored.faults or stored.half_written or not os.path.lexists(folder.config):
        return None
    rows, new = dict(written), []
    for stage in planned.trainings:
        if stage.key in computed:
            row = _record(planned, stage, store, rows)
            if row is None or (stage.key in written and _differing([written[stage.key]], [row])):
                return None
            if stage.key not in written:
                new.append(row)
            rows[stage.key] = row
    if stored.done:
        return True if [*written] == order else None
    if [*rows] != order[: len(rows)] or len(rows) == len(order):
        return None
    folder.append(new)
    return False


def _made_anew(planned: Planned, folder: RunFolder, tickets: StoredTickets) -> bool:
    """Write the rows of all tickets of a cell, unless they are already written.

    Return whether the cell is complete.
    """
    store, seed = tickets.store, planned.seed
    folder.write_config(planned.labels, dict(planned.cell.config))
    rows: dict[str, Record] = {}
    for stage in planned.trainings:
        if row := _record(planned, stage, store, rows):
            rows[stage.key] = row
    known = list(rows.values())
    stored, fault = folder.read(), ""
    if stored.done:
        fault = next(iter(stored.faults), "") or _differing(stored.records, known)
        if not fault and len(stored.records) == len(planned.trainings):
            # If a yaml was renamed, the results are the same. `config.yaml` already has the new
            # name, and the rows get it here.
            renamed = [
                replace(row, **Record.option_columns({**row.options, **planned.labels}))
                for row in stored.records
            ]
            if renamed != [*stored.records]:
                folder.write(renamed, complete=True)
            return True
        reason = fault.removeprefix(f"{folder.records}: ").partition("; ")[0]
        set_aside(folder.records, reason or "not all records of its cell")
        try:
            folder.done.unlink()
        except OSError:
            set_aside(folder.done, "no file")
    complete = len(known) == len(planned.trainings) and all(
        # A ticket may have been written since its folder was listed.
        tickets.holds(stage, seed) or is_stored(stage, seed, "end", store, thorough=True)
        for stage in planned.trainings
    )
    folder.write(known, complete=complete)
    return complete


# The columns of a record that its ticket does not determine: the sweep's labels, and the cost of
# computing the ticket.
_BESIDE = {"experiment", *Record.option_columns({}), *(field.name for field in fields(UnitCost))}


def _differing(written: Sequence[Record], known: Sequence[Record]) -> str:
    """The first difference between written records and their tickets, in words; empty if none."""
    by_stage = {row.stage: row.as_written for row in known}
    for row in written:
        facts = by_stage.get(row.stage, row.as_written)
        for name, value in row.as_written.items():
            if name not in _BESIDE and not agree(name, value, facts[name]):
                return f"{name} {value} of level {row.level} where its ticket has {facts[name]}"
    return ""


def agree(name: str, written: Any, fact: Any) -> bool:
    """Whether a value of a record is the one that follows from its ticket and its plan.

    Earlier versions added the epochs of `search_epochs` with `sum`, which rounds at every step
    before Python 3.12, so those records may differ from `fsum` in the last digits.
    """
    if name == "search_epochs" and None not in (written, fact):
        return math.isclose(written, fact, rel_tol=1e-12)
    return written == fact


def _record(
    planned: Planned, stage: Work, store: Store, rows: Mapping[str, Record]
) -> Record | None:
    """The record of a training's ticket, given the earlier rows; None if the ticket is missing."""
    about = stored_facts(stage, planned.seed, "end", store)
    return None if about is None else ticket_record(planned, stage, about, store, rows)


def ticket_record(
    planned: Planned, stage: Work, about: TicketFacts, store: Store, rows: Mapping[str, Record]
) -> Record:
    """Make the record of a stored ticket from its facts, its plan, its cost and earlier rows."""
    metrics, cost = about.metrics, store.cost(stage.key, planned.seed)
    at, total = planned.report_at, about.layers_total
    remaining = about.kept_at(at)
    pruned = sum(total.values()) - sum(remaining.values())
    return Record(
        experiment=planned.labels["experiment"],
        cell=planned.signature,
        seed=str(planned.seed),
        **Record.option_columns(planned.labels),
        level=planned.levels.get(stage.key, stage.level),
        stage=stage.key,
        init=next(s.key for s in ancestors(stage) if isinstance(s, Init)),
        kind=_kind(planned, stage),
        step=stage.step,
        target_sparsity=stage.target_sparsity,
        sparsity=about.sparsity_at(at),
        sparsity_total=pruned / stage.network.parameters,
        **Record.weight_columns(remaining, total),
        report_at=at,
        reported_step=metrics["best_step"] if at == "best" else stage.step,
        **Record.score_columns(metrics, at),
        mask_chance=_mask_chance(stage),
        train_steps=stage.length,
        epochs=_epochs(stage),
        search_epochs=math.fsum(_epochs(before) for before in trainings(stage)[:-1]),
        after=[before.key for before in needs(stage)],
        dense_resources=dense_resources(stage),
        finite=metrics["finite"] and _is_sound(stage, rows),
        # `one_class` is measured only in classification.
        collapsed=bool(metrics.get(f"{at}_one_class")) or 0 in remaining.values(),
        precision=about.precision,
        seconds=cost.seconds,
        device=cost.device,
        stack_size=cost.stack_size,
        backend=cost.backend,
        code_version=cost.code_version,
        notes=[*store.notes(stage.key, planned.seed), *_notes(stage, about, at)] or None,
        granularity=stage.granularity,
        resolution=stage.resolution,
    )


def _notes(stage: Work, about: TicketFacts, at: str) -> Iterator[str]:
    """Notes on missing numbers, and on numbers that an earlier version took from another step."""
    elsewhere = at == "best" and about.metrics["best_step"] != stage.step
    if elsewhere and stage.sparsifier.learns and not about.best_layers_remaining:
        yield "an earlier version: sparsity and hard_* are those of the end, not of the best step"
    measured: Mapping[str, float | None] = about.metrics.get("metrics") or {}
    missing = [
        name.removeprefix(f"{at}_")
        for name, value in measured.items()
        if name.startswith(f"{at}_") and value is not None and not math.isfinite(value)
    ]
    if missing and about.metrics["finite"]:
        yield f"{', '.join(missing)}: not a number, though the training did not diverge"


def dense_resources(stage: Work) -> bool:
    """Whether any training that led to a ticket held all weights, or more than the ticket keeps.

    Weights that only get a gradient and are not trained (before training, or to grow weights) do
    not count as held.
    """
    ways = trainings(stage)
    return stage.level == 0 or any(w.level < stage.level or not w.sparsifier.lean for w in ways)


def _is_sound(stage: Work, rows: Mapping[str, Record]) -> bool:
    """Whether no earlier training whose final weights went into this ticket has diverged.

    A mask that was made from NaN weights is in effect random, and may still train well.
    """
    ends = {s.key for before in ancestors(stage) for s, when in before.snapshots if when == "end"}
    return all(rows[key].finite for key in ends if key in rows)


def _epochs(stage: Work) -> float:
    return stage.length / stage.training.recipe.steps_per_epoch


def _mask_chance(stage: Work) -> list[float] | None:
    """The slope and shift of a learned mask at its last step: see `Sparsifier.chance`."""
    chance = stage.sparsifier.chance(max(stage.step - 1, 0), stage.training.recipe)
    return None if chance is None else list(chance)


def _kind(planned: Planned, stage: Work) -> Literal["train", "score", "search"]:
    """The kind of a row: a result of the cell (`train`, `score`), or a `search` for its mask."""
    if stage.key not in planned.levels:
        return "search"
    return "train" if stage.length else "score"
