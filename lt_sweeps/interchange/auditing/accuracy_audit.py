"""Measure a stored training's accuracy again on its stored weights, and compare with the report."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.execution.forking import gpu_fault
from lt_sweeps.execution.materialize import Missing
from lt_sweeps.interchange.auditing.audited_store import AuditedStore
from lt_sweeps.interchange.stored_network import StoredNetwork
from lt_sweeps.plan.stages import Search
from lt_sweeps.plan.unit import Unit

# Allowed difference. Of an accuracy: the fraction of a split's images that another device, stack or
# backend may classify differently. Of another metric: relative to its value, or to 1 if that is
# larger. Products in bf16 have 8 bits of fraction.
_ROUNDING = {"float32": 0.002, "tf32": 0.002, "bf16": 0.02}


def audit_accuracy(unit: Unit, store: AuditedStore, findings: Findings) -> None:
    """Evaluate a training at its end, and at its best evaluation if those weights are stored."""
    stage, seed = unit.stage, unit.seed
    place, about = store.path(stage.key, seed), store.metadata(stage.key, seed) or {}
    metrics: dict[str, Any] = json.loads(about["metrics"])
    if not metrics["finite"]:
        findings.leave_out("accuracies", "the training diverged")
        return
    if isinstance(stage, Search):
        findings.leave_out("accuracies", "a search uses batch-norm statistics that are not stored")
        return
    device = torch.device("cpu" if gpu_fault() else "cuda")
    try:
        again = StoredNetwork.of(unit, store, stage.step, device).results()
    except (Missing, OSError) as error:
        findings.leave_out("accuracies", f"its weights are not stored: {error}")
        return
    findings.compare("accuracies", place, _fault(metrics, again, "end", unit))
    if metrics["best_step"] == stage.step:
        findings.compare("accuracies", place, _fault(metrics, again, "best", unit))
    elif store.has(stage.key, seed, "best") and not stage.has_logits:
        again = StoredNetwork.of(unit, store, metrics["best_step"], device).results()
        fault = _fault(metrics, again, "best", unit)
        findings.compare("accuracies", store.path(stage.key, seed, "best"), fault)
    else:
        why = "the weights of the best evaluation are not stored; only those of the end are"
        findings.leave_out("accuracies", why)


def _fault(metrics: dict[str, Any], again: dict[str, Any], at: str, unit: Unit) -> str:
    training = unit.stage.training
    splits, rounding = training.task.dataset.load(), _ROUNDING[training.precision]
    for split in ("val", "test"):
        said, count = metrics[f"{at}_{split}_accuracy"], len(splits[split].targets)
        found = again[f"end_{split}_accuracy"]
        allowed = max(1.0, rounding * count) + 1e-6
        # A task without classes has no accuracies.
        if said is not None and are_apart(said * count, found * count, allowed):
            return f"{at}_{split}_accuracy is {said:.6g}; measured again it is {found:.6g}"
        if fault := _other_fault(metrics, again, at, split, rounding):
            return fault
    return ""


def _other_fault(
    metrics: dict[str, Any], again: dict[str, Any], at: str, split: str, rounding: float
) -> str:
    """Describe the first loss or metric that differs when measured again; empty if none does."""
    said, found = (
        {
            "loss": scores[f"{when}_{split}_loss"],
            **_of_split(scores.get("metrics") or {}, when, split),
        }
        for scores, when in ((metrics, at), (again, "end"))
    )
    for name, value in said.items():
        if are_apart(value, found[name], rounding * max(1.0, abs(value))):
            return f"{at}_{split}_{name} is {value:.6g}; measured again it is {found[name]:.6g}"
    return ""


def are_apart(one: float, other: float, allowed: float) -> bool:
    """Whether two numbers differ by more than `allowed`; NaN equals only NaN."""
    both_nan = math.isnan(one) and math.isnan(other)
    return not (one == other or both_nan or abs(one - other) <= allowed)


def _of_split(metrics: dict[str, float], when: str, split: str) -> dict[str, float]:
    prefix = f"{when}_{split}_"
    return {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}
