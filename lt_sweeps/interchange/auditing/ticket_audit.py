"""Checks of a single ticket: its tensors, and its mask against the counts in its header."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lt_sweeps.analysis.audit_findings import CheckVerdict, Findings
from lt_sweeps.analysis.audited_files import audit_head, header_value, without_path
from lt_sweeps.config.spelling import paired
from lt_sweeps.models.module_state import state_of
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.store import ticket_in
from lt_sweeps.storage.ticket import Mask, Ticket
from lt_sweeps.storage.ticket_file import read_content


def is_ticket(path: Path) -> bool:
    """Whether a file is an lt_sweeps ticket, by its folder or its header."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        said = ""
    return path.resolve().parent.parent.name == "tickets" or said.startswith("lt_sweeps.ticket/")


def audit_ticket(path: Path) -> list[CheckVerdict]:
    """Audit one ticket without its record and the tickets that it started from."""
    findings = Findings()
    about = audit_head(path.absolute(), findings)
    if about is not None and audit_ticket_file(path, about, None, True, findings):
        ticket = ticket_in(path.read_bytes(), step=int(about["step"]))
        pinned = [n for n, m in ticket.mask.items() if ticket.state[n][~m].count_nonzero()]
        if pinned:
            findings.leave_out("pinned", "not 0, and no config gives the values they are frozen at")
        else:
            findings.compare("pinned", path, "")
    return findings.verdicts(("headers", "paths", "checksums", "masks", "finite", "pinned"))


def audit_ticket_file(
    path: Path, about: Mapping[str, Any], unit: Unit | None, finite: bool, findings: Findings
) -> bool:
    """Check a ticket on its own; returns whether it can be compared with others."""
    ticket, fault = None, ""
    try:
        ticket = ticket_in(read_content(path)[1], step=int(about["step"]))
    except (OSError, ValueError, SafetensorError, KeyError) as error:
        fault = without_path(path, error)
    miscounted = fault.startswith("its mask of ")
    if findings.compare("checksums", path, "" if miscounted else fault) and miscounted:
        findings.compare("masks", path, fault)
    if ticket is None:
        return False
    bad = [name for name, tensor in ticket.state.items() if not bool(tensor.isfinite().all())]
    if bad and not finite:
        findings.leave_out("finite", "not finite, as its record says")
    elif ticket.state:
        fault = f"{', '.join(bad)}: not finite" if bad else _divergence_fault(ticket, about)
        findings.compare("finite", path, fault)
    return _audit_mask(path, ticket, about, unit, findings) and not (bad and finite)


def _divergence_fault(ticket: Ticket, about: Mapping[str, Any]) -> str:
    """Say if a header calls a training diverged whose weights and last loss are finite."""
    metrics = header_value(about, "metrics") or {}
    logits = all(bool(tensor.isfinite().all()) for tensor in ticket.learned.values())
    if metrics.get("finite", True) or not logits or not math.isfinite(metrics["end_val_loss"]):
        return ""
    return "its header says that it diverged, but its weights and its last val_loss are finite"


def _audit_mask(
    path: Path, ticket: Ticket, about: Mapping[str, Any], unit: Unit | None, findings: Findings
) -> bool:
    """Compare a ticket's mask with its header's counts, and its tensors with the network's."""
    if ticket.state and unit is not None and (fault := _shape_fault(ticket, unit)):
        return findings.compare("masks", path, fault)
    stated = header_value(about, "layers_remaining")
    if not isinstance(stated, dict) or not ticket.mask:
        findings.leave_out("masks", "the file holds no mask, or its header counts none")
        return True
    if ticket.learned and (unit is None or not unit.stage.sparsifier.learns):
        findings.leave_out("masks", "a learned mask, and no plan says how it is read")
        return True
    counted = _learned_counts(ticket, unit) if ticket.learned and unit else _counts(ticket.mask)
    allowed = int(bool(ticket.learned))  # a rounded sum of probabilities
    pairs = {n: (counted.get(n, -1), stated.get(n, -1)) for n in sorted({*counted, *stated})}
    wrong = {name: pair for name, pair in pairs.items() if abs(pair[0] - pair[1]) > allowed}
    fault = f"kept weights (counted, in the header): {paired(wrong)}" if wrong else ""
    return findings.compare("masks", path, fault)


def _shape_fault(ticket: Ticket, unit: Unit) -> str:
    """Say how a ticket's tensors and masks differ from the network's; empty if they match."""
    network = unit.stage.network
    module = network.module()
    needed = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    layers = {layer.name: layer.shape for layer in network.layers}
    has = {name: tuple(tensor.shape[1:]) for name, tensor in ticket.state.items()}
    if has != {name: tuple(needed[name].shape) for name in state_of(module)}:
        return "its tensors are not those of the network, by name and shape"
    if {name: tuple(mask.shape[1:]) for name, mask in ticket.mask.items()} != layers:
        return "its masks are not those of the prunable layers, by name and shape"
    kinds = {mask.dtype for mask in ticket.mask.values()} - {torch.bool}
    kinds |= {t.dtype for n, t in ticket.state.items() if t.dtype != needed[n].dtype}
    if kinds or ticket.learned.keys() - layers.keys():
        return "its tensors are of other types than the network's"
    return ""


def _counts(mask: Mask) -> dict[str, int]:
    return {name: int(kept.sum()) for name, kept in mask.items()}


def _learned_counts(ticket: Ticket, unit: Unit) -> dict[str, int]:
    """Return how many weights a learned mask keeps (or is expected to), counted as in training."""
    density = unit.stage.sparsifier.density  # pyright: ignore[reportAttributeAccessIssue]
    return {
        name: int(density(ticket.state[name], logits).double().sum().round())
        for name, logits in ticket.learned.items()
    }
