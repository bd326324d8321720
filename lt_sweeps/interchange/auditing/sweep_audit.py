"""The part of an audit that reads weights: a sweep's tickets against its plan, and the data."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.analysis.audited_files import Artifacts, AuditedCell
from lt_sweeps.analysis.record_audit import Place, difference, equal_arms
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.identity import digest
from lt_sweeps.config.trust import check_trusted
from lt_sweeps.execution.run_settings import code_version
from lt_sweeps.interchange.auditing.accuracy_audit import audit_accuracy
from lt_sweeps.interchange.auditing.audited_store import AuditedStore, differing, tensors_sha256
from lt_sweeps.interchange.auditing.history_audit import audit_history
from lt_sweeps.interchange.auditing.repeat_audit import audit_repeat
from lt_sweeps.interchange.auditing.row_audit import audit_rows
from lt_sweeps.interchange.auditing.split_audit import audit_splits
from lt_sweeps.interchange.auditing.ticket_audit import audit_ticket_file
from lt_sweeps.interchange.auditing.unit_audit import audit_unit, pruning_of
from lt_sweeps.plan.cell_plan import Planned, planned_cell
from lt_sweeps.plan.stages import Init, ancestors
from lt_sweeps.plan.unit import Unit

T = TypeVar("T")
Track = Callable[[Sequence[T], str], Iterable[T]]
"""A function that yields the items and shows a progress bar with the given label."""


def audit_sweep(
    artifacts: Artifacts,
    findings: Findings,
    *,
    sample: int | None,
    repeat: int | None,
    trust: Collection[str],
    track: Track[Any],
) -> None:
    """Run the checks that need the tickets' tensors, the plan and the data.

    Args:
        sample: how many trainings to evaluate again; None means all.
        repeat: how many trainings to train again; None means all.
        trust: modules whose functions may run, in addition to ours.
    """
    plans = _plans(artifacts, findings, trust)
    units = {unit.name: unit for cell in plans.values() for unit in cell.units}
    store = AuditedStore(artifacts.root)
    finite = {(r.stage, r.seed): r.finite for cell in artifacts.cells for r in cell.records}
    for path in track([*artifacts.tickets], "tickets"):
        about = artifacts.tickets[path]
        name = about["stage"], about["seed"]
        if audit_ticket_file(path, about, units.get(name), finite.get(name, True), findings):
            store.whole[path] = about
    audit_rows(artifacts, plans, store, findings)
    _audit_draws(plans.values(), store, findings)
    for unit in track([*units.values()], "trainings"):
        audit_history(unit, store, findings)
        audit_unit(unit, store, findings)
    _audit_masks_of_arms(artifacts, plans, store, findings)
    here = _with_data(units.values(), store, findings)
    for unit in track(_spread(here, sample), "evaluations"):
        audit_accuracy(unit, store, findings)
    rows = {(r.stage, r.seed): r for cell in artifacts.cells for r in cell.records}
    for unit in track(_spread(here, repeat), "repeated trainings"):
        audit_repeat(unit, store, rows.get((unit.stage.key, str(unit.seed))), findings)
    if repeat == 0:
        findings.leave_out("repeats", "only with repeat=COUNT or repeat=all", len(here))


def _with_data(units: Collection[Unit], store: AuditedStore, findings: Findings) -> list[Unit]:
    """Return the measured trainings whose data are on this machine; checks those data's splits."""
    trainings = [unit.stage.training for unit in units]
    tasks = {training.key: training.task for training in trainings}
    usable = {key for key, task in tasks.items() if audit_splits(task, findings)}
    measured = [
        unit for unit in units if "metrics" in (store.metadata(unit.stage.key, unit.seed) or {})
    ]
    here = [unit for unit in measured if unit.stage.training.key in usable]
    for check in ("accuracies", "repeats"):
        findings.leave_out(check, "its data are not on this machine", len(measured) - len(here))
    return here


def _spread(units: Sequence[Unit], sample: int | None) -> list[Unit]:
    """Pick `sample` units, evenly spaced; the choice depends only on their order."""
    if sample is None or sample >= len(units):
        return list(units)
    return [units[len(units) * i // sample] for i in range(sample)]


def _plans(artifacts: Artifacts, findings: Findings, trust: Collection[str]) -> dict[str, Planned]:
    """Return the plans that match what is stored, by the name of the cell."""
    plans = {}
    ours = [cell.config for cell in artifacts.cells if cell.config and "method" in cell.config]
    untrusted = _untrusted(ours, trust)  # one reason for all cells, with all modules to trust
    for cell in artifacts.cells:
        if cell.config is None or "method" not in cell.config:
            why = "no config is stored" if cell.config is None else "imported, so there is no plan"
            findings.leave_out("signatures", why)
            continue
        if untrusted and _untrusted(cell.config, trust):
            findings.leave_out("signatures", untrusted)
            continue
        try:
            planned = planned_cell(_here(cell, artifacts))
        except (ValueError, OSError) as error:
            findings.leave_out("signatures", str(error).splitlines()[0])
            continue
        except (TypeError, KeyError, AttributeError) as error:  # malformed config
            findings.leave_out("signatures", f"its config cannot be planned: {error!r}")
            continue
        fault, now = _plan_fault(cell, planned), code_version()
        versions = {record.code_version for record in cell.records} - {None, "", now}
        if fault and versions:
            made = ", ".join(sorted(filter(None, versions)))
            findings.leave_out("signatures", f"computed by {made}; this is {now}, with other keys")
        elif findings.compare("signatures", cell.folder.path / "config.yaml", fault):
            plans[cell.name] = planned
    return plans


def _untrusted(config: Any, trust: Collection[str]) -> str:
    """Say which functions of a config, or of a list of configs, are not trusted; empty if none."""
    try:
        check_trusted(config, where="its config", trust=trust)
    except ValueError as error:
        return str(error)
    return ""


def _here(cell: AuditedCell, artifacts: Artifacts) -> Cell:
    """Return the cell with `data_dir` relative to where the sweep started, if it exists here."""
    config = Config(cell.config or {})
    if artifacts.manifest is not None and isinstance(config.get("data_dir"), str):
        folder = Path(artifacts.manifest.launcher.cwd) / config["data_dir"]
        if folder.is_dir():
            config = Config({**config, "data_dir": str(folder)})
    return Cell(config, dict(cell.choices), ())


def _plan_fault(cell: AuditedCell, planned: Planned) -> str:
    if (planned.signature, str(planned.seed)) != (cell.signature, cell.seed):
        return f"it plans cell {planned.signature} seed {planned.seed}, and not that of its folder"
    levels = {stage.key: planned.levels.get(stage.key, stage.level) for stage in planned.trainings}
    for record in cell.records:
        if levels.get(record.stage) != record.level:
            return f"it plans no stage {record.stage} at level {record.level}, as a record has"
    return ""


def _audit_draws(plans: Iterable[Planned], store: AuditedStore, findings: Findings) -> None:
    drawn: set[tuple[str, str]] = set()
    for cell in plans:
        for stage in itertools.chain.from_iterable(map(ancestors, cell.lasts)):
            name = stage.key, str(cell.seed)
            if not isinstance(stage, Init) or name in drawn:
                continue
            drawn.add(name)
            if not store.has(*name):
                findings.leave_out("draws", "the initial weights are not stored")
                continue
            stored = {n: tensor[0] for n, tensor in store.read(*name).state.items()}
            wrong = differing(stored, stage.network.draw(cell.seed))
            fault = f"{', '.join(wrong)}: not what seed {cell.seed} draws" if wrong else ""
            if not findings.compare("draws", store.path(*name), fault):
                del store.whole[store.path(*name)]  # later checks use the correct draw


def _audit_masks_of_arms(
    artifacts: Artifacts, plans: Mapping[str, Planned], store: AuditedStore, findings: Findings
) -> None:
    """Check that cells pruned by different criteria do not have equal masks throughout."""
    masks: dict[str, dict[Place, tuple[str, str]]] = defaultdict(dict)
    records = {}
    for cell in artifacts.cells:
        planned = plans.get(cell.name)
        stages = {} if planned is None else {stage.key: stage for stage in planned.trainings}
        for record in cell.records:
            stage = stages.get(record.stage)
            # Scoring stores no ticket, so its arms are compared by results only.
            pruned = pruning_of(stage) if stage is not None and stage.stores_ticket else None
            if pruned is None or not store.has(record.stage, record.seed) or not record.is_result:
                continue
            mask = tensors_sha256(store.read(record.stage, record.seed).mask)
            # Arms that share a criterion on initial weights or noise rightly have equal masks.
            by = [pruned.criterion.call.identity(), [*pruned.criterion.evidence]]
            criterion = digest([*by, pruned.granularity])
            masks[cell.signature][cell.seed, record.level] = criterion, mask
            records.setdefault(cell.signature, record)
    for one, other, places in equal_arms(masks):
        how = difference(records[one], records[other])
        say = f"its masks are those of {other} in all of {len(places)} results, {how}"
        findings.compare("arms", one, say)
