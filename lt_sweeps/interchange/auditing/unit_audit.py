"""Checks of one stored training against its plan: its mask, its pruned and its kept weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.config.identity import public_name
from lt_sweeps.execution.materialize import Missing, snapshot, ticket
from lt_sweeps.interchange.auditing.audited_store import AuditedStore, differ
from lt_sweeps.plan.stages import Prune, Reset, Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.evidence import ON_DATA
from lt_sweeps.storage.ticket import Mask, State, Ticket

_GO_BACK = ("resets.rewind", "resets.transplant", "resets.mask_init")
_ROUNDED = (*ON_DATA, "flow", "channel")  # sums, which round differently on other machines


def audit_unit(unit: Unit, store: AuditedStore, findings: Findings) -> None:
    """Compare a stored training with its start, recomputed from the tickets that led to it."""
    stage, seed = unit.stage, unit.seed
    if not stage.stores_ticket or not store.has(stage.key, seed):
        return
    trained, pruned = store.read(stage.key, seed), pruning_of(stage)
    _audit_snapshots(unit, trained, store, findings)
    try:
        start = ticket(stage.start, seed, store)
        nested = pruned is None or _audit_pruning(pruned, unit, trained, store, findings)
    except Missing as error:
        for check in ("nesting", "pinned", "rewound"):
            findings.leave_out(check, f"what it started from is not stored: {error}")
        return
    except OSError as error:
        findings.leave_out("criteria", f"its data are not on this machine: {error}")
        return
    if not nested or not _audit_mask(unit, pruned, start, trained, store, findings):
        return
    _audit_pinned(unit, start, store, findings)
    _audit_start(unit, start, store, findings)


def _audit_mask(
    unit: Unit,
    pruned: Prune | None,
    start: Ticket,
    trained: Ticket,
    store: AuditedStore,
    findings: Findings,
) -> bool:
    """Whether the mask equals the start's; not checked if the training changes the mask."""
    if unit.stage.sparsifier.changes_mask:
        findings.leave_out("criteria", "the training itself changes the mask")
        return True
    counts = {n: int((start.mask[n] != trained.mask[n]).sum()) for n in trained.mask}
    if any(counts.values()) and pruned is not None and {*pruned.evidence} & {*_ROUNDED}:
        findings.leave_out("criteria", "sums such as gradients round otherwise elsewhere")
        return False
    by = "it was not pruned" if pruned is None else str(pruned.criterion.call)
    what = f"weights kept or pruned otherwise than planned ({by})"
    place = store.path(unit.stage.key, unit.seed)
    return findings.compare_counts("criteria", place, counts, what)


def _audit_snapshots(unit: Unit, trained: Ticket, store: AuditedStore, findings: Findings) -> None:
    """Check that all snapshots have the mask of the end, unless the training changes the mask."""
    for path, at in () if unit.stage.sparsifier.changes_mask else _stored(unit, store):
        counts = {n: int((kept != trained.mask[n]).sum()) for n, kept in at.mask.items()}
        what = "weights kept or pruned otherwise than at the end of the training"
        if not findings.compare_counts("criteria", path, counts, what):
            del store.whole[path]  # later checks leave it out


def _stored(unit: Unit, store: AuditedStore) -> Iterator[tuple[Path, Ticket]]:
    """Yield the path and the ticket of each stored moment of a training."""
    folder = store.path(unit.stage.key, unit.seed).parent
    for path in sorted(path for path in store.whole if path.parent == folder):
        about = store.whole[path]
        if about["seed"] == str(unit.seed):
            yield path, store.read(unit.stage.key, unit.seed, about["moment"])


def pruning_of(stage: Work) -> Prune | None:
    """Return the pruning whose mask a training keeps throughout; None without one."""
    if stage.sparsifier.changes_mask:
        return None
    start = stage.start
    if isinstance(start, Reset):
        start = start.pruned
    return start if isinstance(start, Prune) else None


def _audit_pruning(
    pruned: Prune, unit: Unit, trained: Ticket, store: AuditedStore, findings: Findings
) -> bool:
    """Whether the mask is nested in the pruned training's mask and meets its target."""
    place, mask = store.path(unit.stage.key, unit.seed), trained.mask
    before = ticket(pruned.trained, unit.seed, store).mask
    back = {name: int((mask[name] & ~before[name]).sum()) for name in mask}
    parent = store.path(pruned.trained.key, unit.seed)
    what = f"it keeps weights that {parent} has pruned"
    nested = findings.compare_counts("nesting", place, back, what)
    if pruned.target_sparsity is not None:
        for names, least, most in pruned.runs():
            kept, left = (sum(int(m[name].sum()) for name in names) for m in (mask, before))
            where = names[0] if len(names) == 1 else "the network"
            asked = f"{where} keeps {kept} weights where {most} were asked for"
            low = least if pruned.groups is None else min(least, left)  # pruned weights stay pruned
            nested &= findings.compare("targets", place, "" if low <= kept <= most else asked)
    if pruned.groups is not None:
        split = pruned.groups.split_layer(mask)
        fault = f"it splits a {pruned.groups.granularity.noun} of {split}" if split else ""
        nested &= findings.compare("nesting", place, fault)
    return nested


def _audit_pinned(unit: Unit, start: Ticket, store: AuditedStore, findings: Findings) -> None:
    """Check that pruned weights keep their pinned value at the end and in every snapshot."""
    stage = unit.stage
    if stage.has_logits or not stage.sparsifier.holds:
        findings.leave_out("pinned", "its training holds no weights: the mask is learned, or free")
        return
    for path, at in _stored(unit, store):
        # A weight that the training itself pruned is frozen at 0.
        frozen = {n: torch.where(start.mask[n], 0.0, start.state[n]) for n in at.mask}
        counts = _differing(at.state, frozen, {n: ~kept for n, kept in at.mask.items()})
        what = "pruned weights that differ from the values they are frozen at"
        findings.compare_counts("pinned", path, counts, what)


def _audit_start(unit: Unit, start: Ticket, store: AuditedStore, findings: Findings) -> None:
    """Check the weights a training began with, if they are stored or rewound to a snapshot."""
    stage, seed, reset = unit.stage, unit.seed, unit.stage.start
    if not isinstance(reset, Reset) and not store.has(stage.key, seed, "start"):
        return
    expected = _snapshot_behind(reset, unit, store) if isinstance(reset, Reset) else None
    path = store.path(stage.key, seed, "start")
    if expected is None and path not in store.whole:
        findings.leave_out("rewound", "its reset makes new weights, and its start is not stored")
        return
    if path in store.whole:
        counts = _differing(start.state, store.read(stage.key, seed, "start").state, {})
        what = "weights at its start that differ from what its reset gives"
        if not findings.compare_counts("rewound", path, counts, what):
            del store.whole[path]  # later checks use the correct weights
            return
    if expected is not None:
        counts = _differing(expected, start.state, start.mask)
        what = "kept weights that differ from the snapshot"
        findings.compare_counts("rewound", store.path(stage.key, seed), counts, what)


def _snapshot_behind(reset: Reset, unit: Unit, store: AuditedStore) -> State | None:
    """Read the weights that a reset restarts from; None if the reset draws new ones."""
    if public_name(reset.reset.function) == "resets.keep" and not reset.trained.has_logits:
        return ticket(reset.trained, unit.seed, store).state
    current: Reset | None = reset
    while current is not None:
        name, kept_too = public_name(current.reset.function), current.freeze.bound().get("kept_too")
        if name not in _GO_BACK or kept_too or current.to is None:
            return None
        current = current.before
    assert reset.to is not None
    return snapshot(reset.origin, reset.to, unit.seed, store).state


def _differing(state: State, expected: State, where: Mask) -> dict[str, int]:
    """Count the differing weights per expected tensor, only where its mask (if any) is True."""
    return {
        name: int((differ(state[name], tensor) & where.get(name, torch.tensor(True))).sum())
        for name, tensor in expected.items()
    }
