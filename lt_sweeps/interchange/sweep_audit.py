"""The part of an audit that reads weights: a sweep's tickets against its plan, and the data."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from lt_sweeps.analysis.audit_findings import CheckVerdict, Findings
from lt_sweeps.analysis.record_audit import Artifacts, AuditedCell, audit_head, difference
from lt_sweeps.config.call import Config, digest
from lt_sweeps.config.cells import Cell
from lt_sweeps.data import Split
from lt_sweeps.execution.run_settings import code_version
from lt_sweeps.interchange.accuracy_audit import audit_accuracy
from lt_sweeps.interchange.audited_store import AuditedStore, as_ticket
from lt_sweeps.interchange.trusted_targets import check_targets
from lt_sweeps.interchange.unit_audit import audit_unit, pruning_of
from lt_sweeps.plan.planning import Planned, planned_cell
from lt_sweeps.plan.stages import Init, Task, ancestors
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.ticket import Mask, Ticket
from lt_sweeps.storage.ticket_file import CorruptTicket, read_content

T = TypeVar("T")
Track = Callable[[Sequence[T], str], Iterable[T]]
"""Passes items on, and shows how far they have come."""

_FEW = 0.005  # of a split: as many images as published data sets hold twice
_LARGE = 4_000_000_000  # bytes of a split, beyond which its images are not compared


def audit_sweep(
    artifacts: Artifacts,
    findings: Findings,
    *,
    sample: int | None,
    trust: Collection[str],
    track: Track[Any],
) -> None:
    """Check what only the tensors of tickets, the plan and the data can show.

    Args:
        sample: how many trainings are evaluated again; None: all.
        trust: modules whose functions may run, beside ours.
    """
    plans = _plans(artifacts, findings, trust)
    units = {
        (stage.key, str(cell.seed)): Unit(stage, cell.seed)
        for cell in plans.values()
        for stage in cell.trainings
    }
    store = AuditedStore(artifacts.root)
    finite = {(r.stage, r.seed): r.finite for cell in artifacts.cells for r in cell.records}
    for path in track([*artifacts.tickets], "tickets"):
        about = artifacts.tickets[path]
        name = about["stage"], about["seed"]
        if _audit_file(path, about, units.get(name), finite.get(name, True), findings):
            store.whole[path] = about
    _audit_draws(plans.values(), store, findings)
    for unit in track([*units.values()], "trainings"):
        audit_unit(unit, store, findings)
    _audit_masks_of_arms(artifacts, plans, store, findings)
    tasks = {stage.training.key: stage.training.task for stage, _ in _stages(units.values())}
    usable = {key for key, task in tasks.items() if _audit_splits(task, findings)}
    measured = [
        unit
        for unit in units.values()
        if "metrics" in (store.metadata(unit.stage.key, unit.seed) or {})
    ]
    for unit in track(_spread(measured, sample), "evaluations"):
        if unit.stage.training.key in usable:
            audit_accuracy(unit, store, findings)
        else:
            findings.leave_out("accuracies", "its data are not here")


def is_ticket(path: Path) -> bool:
    """Whether a file is a ticket of ours, by its place or by its header."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        said = ""
    return path.resolve().parent.parent.name == "tickets" or said.startswith("lt_sweeps.ticket/")


def audit_ticket(path: Path) -> list[CheckVerdict]:
    """The verdict on one ticket by itself: what it started from and its record are not asked."""
    findings = Findings()
    about = audit_head(path.absolute(), findings)
    if about is not None and _audit_file(path, about, None, True, findings):
        ticket = as_ticket(path.read_bytes(), step=int(about["step"]))
        pinned = [n for n, m in ticket.mask.items() if ticket.state[n][~m].count_nonzero()]
        if pinned:
            findings.leave_out("pinned", "not 0, and no config says what they are frozen at")
        else:
            findings.compare("pinned", path, "")
    return findings.verdicts(("headers", "paths", "checksums", "masks", "finite", "pinned"))


def _stages(units: Iterable[Unit]) -> Iterator[tuple[Any, Unit]]:
    return ((unit.stage, unit) for unit in units)


def _spread(units: Sequence[Unit], sample: int | None) -> list[Unit]:
    """Some of the units, evenly over all; which ones follows from their names alone."""
    if sample is None or sample >= len(units):
        return list(units)
    return [units[len(units) * i // sample] for i in range(sample)]


def _plans(artifacts: Artifacts, findings: Findings, trust: Collection[str]) -> dict[str, Planned]:
    """The plan of each cell that can be planned and that plans what is stored, by its name."""
    plans = {}
    for cell in artifacts.cells:
        name = f"{cell.signature}/{cell.seed}"
        if cell.config is None or "method" not in cell.config:
            why = "no config is stored" if cell.config is None else "imported, so there is no plan"
            findings.leave_out("signatures", why)
            continue
        try:
            check_targets(cell.config, trust)
            planned = planned_cell(_here(cell, artifacts))
        except (ValueError, OSError) as error:
            findings.leave_out("signatures", str(error).splitlines()[0])
            continue
        fault, now = _plan_fault(cell, planned), code_version()
        versions = {record.code_version for record in cell.records} - {None, "", now}
        if fault and versions:
            made = ", ".join(sorted(filter(None, versions)))
            findings.leave_out("signatures", f"computed by {made}; this is {now}, with other keys")
        elif findings.compare("signatures", cell.folder.path / "config.yaml", fault):
            plans[name] = planned
    return plans


def _here(cell: AuditedCell, artifacts: Artifacts) -> Cell:
    """The cell with its data where the sweep was started, if that folder is on this machine."""
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


def _audit_file(
    path: Path, about: Mapping[str, Any], unit: Unit | None, finite: bool, findings: Findings
) -> bool:
    """Check one ticket by itself; returns whether it can be compared with others."""
    try:
        content, fault = read_content(path)[1], ""
    except (OSError, CorruptTicket) as error:
        content, fault = b"", str(error)
    if not findings.compare("checksums", path, fault):
        return False
    ticket = as_ticket(content, step=int(about["step"]))
    whole = _audit_counts(path, ticket, about, unit, findings)
    bad = [name for name, tensor in ticket.state.items() if not bool(tensor.isfinite().all())]
    said = "" if finite else "not finite, as its record says"
    if bad and said:
        findings.leave_out("finite", said)
    elif ticket.state:
        whole &= findings.compare("finite", path, f"{', '.join(bad)}: not finite" if bad else "")
    return whole


def _audit_counts(
    path: Path, ticket: Ticket, about: Mapping[str, Any], unit: Unit | None, findings: Findings
) -> bool:
    """Count a ticket's mask, and compare with its header."""
    stated = json.loads(about.get("layers_remaining", "null"))
    if not isinstance(stated, dict) or not ticket.mask:
        findings.leave_out("masks", "the file holds no mask, or its header counts none")
        return True
    if ticket.learned and (unit is None or not unit.stage.sparsifier.learns):
        findings.leave_out("masks", "a learned mask, and no plan says how it is read")
        return True
    counted = _learned_counts(ticket, unit) if ticket.learned and unit else _counts(ticket.mask)
    wrong = {n: (counted.get(n), stated.get(n)) for n in {*counted, *stated}}
    wrong = {name: pair for name, pair in sorted(wrong.items()) if pair[0] != pair[1]}
    fault = f"weights kept, counted and as its header says: {wrong}" if wrong else ""
    return findings.compare("masks", path, fault)


def _counts(mask: Mask) -> dict[str, int]:
    return {name: int(kept.sum()) for name, kept in mask.items()}


def _learned_counts(ticket: Ticket, unit: Unit) -> dict[str, int]:
    """Weights that a learned mask keeps, or can be expected to, as a training counts them."""
    density = unit.stage.sparsifier.density  # pyright: ignore[reportAttributeAccessIssue]
    return {
        name: int(density(ticket.state[name], logits).double().sum().round())
        for name, logits in ticket.learned.items()
    }


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
            stored, again = store.read(*name), stage.network.draw(cell.seed)
            wrong = [
                n
                for n in {*again, *stored.state}
                if n not in again
                or n not in stored.state
                or not torch.equal(stored.state[n][0], again[n])
            ]
            fault = f"{', '.join(sorted(wrong))}: not what seed {cell.seed} draws" if wrong else ""
            if not findings.compare("draws", store.path(*name), fault):
                del store.whole[store.path(*name)]  # what follows starts from the right draw


def _audit_masks_of_arms(
    artifacts: Artifacts, plans: Mapping[str, Planned], store: AuditedStore, findings: Findings
) -> None:
    """No two cells have equal masks wherever they were pruned by different criteria."""
    masks: dict[str, dict[tuple[str, int], tuple[str, str]]] = defaultdict(dict)
    records = {}
    alike: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for cell in artifacts.cells:
        planned = plans.get(f"{cell.signature}/{cell.seed}")
        stages = {} if planned is None else {stage.key: stage for stage in planned.trainings}
        for record in cell.records:
            stage = stages.get(record.stage)
            pruned = None if stage is None else pruning_of(stage)
            if pruned is None or not store.has(record.stage, record.seed) or not record.is_result:
                continue
            mask = _digest(store.read(record.stage, record.seed).mask)
            # A criterion of initial weights or of noise gives arms that differ elsewhere one mask.
            criterion = digest([pruned.criterion.call.identity(), [*pruned.criterion.evidence]])
            masks[cell.signature][cell.seed, record.level] = criterion, mask
            alike[cell.seed, record.level, mask].add(cell.signature)
            records.setdefault(cell.signature, record)
    pairs = {p for names in alike.values() for p in itertools.combinations(sorted(names), 2)}
    for one, other in sorted(pairs):
        shared = masks[one].keys() & masks[other].keys()
        differ = [at for at in shared if masks[one][at][0] != masks[other][at][0]]
        if differ and all(masks[one][at][1] == masks[other][at][1] for at in differ):
            how = difference(records[one], records[other])
            say = f"its masks are those of {other} in all of {len(differ)} results, {how}"
            findings.compare("arms", one, say)


def _digest(mask: Mask) -> str:
    content = hashlib.sha256()
    for name in sorted(mask):
        content.update(name.encode() + mask[name].numpy().tobytes())
    return content.hexdigest()


def _audit_splits(task: Task, findings: Findings) -> bool:
    """Whether the data are here; counts the images that two splits share."""
    try:
        splits = task.dataset.load()
    except (OSError, ValueError) as error:
        findings.leave_out("splits", f"{task.call}: {str(error).splitlines()[0]}")
        return False
    if any(split.images.nbytes > _LARGE for split in splits.values()):
        findings.leave_out("splits", f"{task.call}: too large to compare its images")
        return True
    images = {name: _images(split) for name, split in splits.items()}
    for one, other in itertools.combinations(images, 2):
        both = len(images[one] & images[other])
        smaller = min(len(images[one]), len(images[other]))
        say = f"{both} of {smaller} images are in {one} and in {other}"
        if 0 < both <= _FEW * smaller:
            findings.leave_out("splits", f"{task.call}: {say}, as in published data", both)
            both = 0
        findings.compare("splits", task.call, say if both else "")
    return True


def _images(split: Split) -> set[bytes]:
    """Each image by its content."""
    rows = split.take(torch.arange(len(split.labels))).numpy()
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows}
