"""Compare the rows of records.jsonl with the plan, the costs and the chosen options."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import yaml

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.analysis.audited_files import Artifacts
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.option_files import option_names
from lt_sweeps.execution.records import agree, ticket_record
from lt_sweeps.execution.run_settings import code_version
from lt_sweeps.interchange.auditing.audited_store import AuditedStore
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.store import UnitCost
from lt_sweeps.storage.sweep_folder import SweepFolder

# Columns that follow from the plan and are not also in the headers of tickets.
_PLANNED = (
    *("init", "kind", "step", "target_sparsity", "sparsity_total", "report_at", "reported_step"),
    *("mask_chance", "train_steps", "epochs", "search_epochs", "after", "dense_resources"),
    *("finite", "collapsed", "precision", "notes", "granularity", "resolution"),
)
_COSTS = {field.name for field in fields(UnitCost)} & {field.name for field in fields(Record)}


def audit_rows(
    artifacts: Artifacts, plans: Mapping[str, Planned], store: AuditedStore, findings: Findings
) -> None:
    """Compare every row with the values that the other files of its cell imply."""
    options: Mapping[str, list[dict[str, Any]]] | None = None
    for cell in artifacts.cells:
        written = cell.written or {"choices": {}, "config": {}}
        pairs = (cell.choices, cell.config or {}), (written["choices"], written["config"])
        misnamed = (_target_fault(choices, config) for choices, config in pairs)
        findings.compare("configs", cell.folder.config, next(filter(None, misnamed), ""))
        known: dict[str, Record] = {}
        for record in cell.records:
            if _option_fault(record, [_options(cell.choices)]):
                # Another sweep may have computed the cell first, under other option names.
                options = _options_of_sweeps(artifacts) if options is None else options
            named = [_options(cell.choices), *(options or {}).get(cell.name, [])]
            faults = [_option_fault(record, named), _cost_fault(record, store, findings)]
            if planned := plans.get(cell.name):
                faults.append(_plan_fault(record, planned, store, known, findings))
            place = f"{cell.folder.records} level {record.level}"
            findings.compare("records", place, next(filter(None, faults), ""))


def _target_fault(choices: Mapping[str, str | None], config: Mapping[str, Any]) -> str:
    """Say which option of ours has another function than the config; empty if none has."""
    for group in GROUPS:
        option = choices.get(group)
        named, has = _our_target(group, option), _target(config.get(group))
        # A function is known by its name: another version may have it in another module.
        if named and has and named.rpartition(".")[2] != has.rpartition(".")[2]:
            return f"{group} is {option}, which is `{named}`; its config has `{has}`"
    return ""


@functools.cache
def _our_target(group: str, option: str | None) -> str:
    """Return the function of an option of ours; empty if it has none, or is another's option."""
    file = option_names(group).get(option or "")
    return "" if file is None else _target(yaml.safe_load(file.read_text("utf-8")))


def _target(option: Any) -> str:
    """Return the function that an option names, for a model that of its net; empty if none."""
    if not isinstance(option, Mapping):
        return ""
    return str(option.get("_target_") or "") or _target(option.get("net"))


def _options(choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the columns of a row that name the chosen options."""
    preset = {"experiment": choices["experiment"]} if "experiment" in choices else {}
    return {**Record.option_columns(choices), **preset}


def _options_of_sweeps(artifacts: Artifacts) -> Mapping[str, list[dict[str, Any]]]:
    """Return the option names that each sweep of the root gives a cell, by the cell's name."""
    named: dict[str, list[dict[str, Any]]] = {}
    for path in artifacts.root.glob("sweeps/*/manifest.json"):
        try:
            manifest = SweepFolder(path.parent).manifest
        except (OSError, ValueError):
            continue
        for cell in manifest.cells:
            named.setdefault(cell.name, []).append(_options(cell.labels))
    return named


def _option_fault(record: Record, named: Collection[Mapping[str, Any]]) -> str:
    """Describe an option of a row that matches no file of its cell; empty if all match."""
    faults = [_difference(record, options, "its cell") for options in named]
    return faults[0] if all(faults) else ""


def _cost_fault(record: Record, store: AuditedStore, findings: Findings) -> str:
    cost = store.cost(record.stage, record.seed)
    if cost == UnitCost():
        findings.leave_out("records", "no costs.jsonl has the costs of the row")
        return ""
    return _difference(record, {name: getattr(cost, name) for name in _COSTS}, "costs.jsonl")


def _plan_fault(
    record: Record,
    planned: Planned,
    store: AuditedStore,
    known: dict[str, Record],
    findings: Findings,
) -> str:
    """Describe a column that contradicts plan and ticket; adds the expected row to `known`."""
    about = store.facts(record.stage, record.seed)
    if about is None:
        known[record.stage] = record
        findings.leave_out("records", "the ticket of a row is not stored, or not whole")
        return ""
    stage = next(stage for stage in planned.trainings if stage.key == record.stage)
    row = ticket_record(planned, stage, about, store, known)
    known[record.stage] = row
    fault = _difference(record, {name: getattr(row, name) for name in _PLANNED}, "its plan")
    now = code_version()
    if fault and record.code_version not in (None, "", now):
        findings.leave_out("records", f"computed by {record.code_version}, and this is {now}")
        return ""
    return fault


def _difference(record: Record, expected: Mapping[str, Any], source: str) -> str:
    for name, value in expected.items():
        if not agree(name, getattr(record, name), value):
            return f"{name} is {getattr(record, name)}; {source} has {value}"
    return ""
