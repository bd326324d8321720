"""Work on one frozen pack of a sweep: plan it again from the manifest, compute it, and record it.

A worker takes all of its configuration from the manifest and reads no yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lt_sweeps.config.user_code import code_named
from lt_sweeps.execution.loaded_code import ChangedCode
from lt_sweeps.execution.measured_backend import with_backend
from lt_sweeps.execution.records import record_cell
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.unit import Unit, data_of
from lt_sweeps.storage.manifest import FrozenPack, UnitName
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.training.training_loop import TrainingLoop


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
    """Compute one frozen pack, write the records of its cells, and return its units.

    Args:
        progress: called with each step that is reached.
        stopped: whether to save a checkpoint and stop.
        check: called after the pack's imports, and again after the computation.
        watch: called with each training loop before it starts.
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
    computed, tickets = set(units), StoredTickets(store, thorough=True, recall=False)
    for cell in cells.cells:
        if keys := {unit.stage.key for unit in computed.intersection(cell.units)}:
            record_cell(cell, tickets, computed=keys)
    tickets.verified.save()
    return units


def thawed(
    sweep: SweepFolder, pack: FrozenPack, check: Callable[[], None] = lambda: None
) -> tuple[Plan, list[Unit]]:
    """Return the plan of a frozen pack's cells, and the pack's units in their frozen order.

    Planning imports the functions that the cells name. `check` is called afterwards, even if
    planning fails.

    Raises:
        ChangedCode: code or data changed since the pack was frozen, so its results would differ.
    """
    try:
        cells = plan(sweep.cells(pack.cells))
    finally:
        check()
    check_same(sweep, cells, pack.units)
    return cells, [cells.named[name] for name in pack.units]


def check_same(sweep: SweepFolder, now: Plan, names: Iterable[UnitName]) -> None:
    """Check that planning the sweep's cells again, as in `now`, still gives the units `names`.

    Raises: ChangedCode: a unit is not in the new plan; the message says whether code or data
        changed.
    """
    before = sweep.manifest
    missing = next((name for name in names if name not in now.named), None)
    if missing is None:
        return
    if edited := sweep.edited(code_named(*(cell.cell.config for cell in now.cells))):
        raise ChangedCode(
            f"code: {', '.join(edited)} changed since the sweep was started; undo the change, or "
            "start a sweep with another name, which computes with the current code"
        )
    for name, content in data_of(now.units).items():
        if before.data.get(name, content) != content:
            raise ChangedCode(
                f"data: the content of {name} changed since the sweep was started; restore it, or "
                "start a sweep with another name, which computes with the current data"
            )
    raise ChangedCode(
        f"code: level {before.stages[missing[0]].level} of seed {missing[1]} would now be another "
        "result, because a function of yours, a file that it reads, or lt_sweeps has changed; undo "
        "the change, or start a sweep with another name, which computes with the current code"
    )
