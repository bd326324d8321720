"""Check whether the train, validation and test sets share examples, by content."""

from __future__ import annotations

import torch

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.data import Split
from lt_sweeps.data.split_overlap import shared_examples
from lt_sweeps.plan.stages import Task

_LARGE = 4_000_000_000  # bytes; the examples of larger splits are not compared


def audit_splits(task: Task, findings: Findings) -> bool:
    """Count the examples that two splits share; returns whether the data are on this machine."""
    try:
        splits = task.dataset.load()
    except (OSError, ValueError) as error:
        findings.leave_out("splits", f"{task.call}: {str(error).splitlines()[0]}")
        return False
    if any(split.inputs.nbytes > _LARGE for split in splits.values()):
        findings.leave_out("splits", f"{task.call}: too large to compare its examples")
        return True
    read = {name: _read(split) for name, split in splits.items()}
    fault = ""
    for shared in shared_examples(read):
        if shared.is_a_mistake:
            fault = fault or str(shared)
        else:
            by_chance = f"{task.call}: {shared}, no more than repeated examples or chance explain"
            findings.leave_out("splits", by_chance, shared.count)
    findings.compare("splits", task.call, fault)
    return True


def _read(split: Split) -> Split:
    """Read a split's examples into memory, so that they are compared by content."""
    return Split(split.take(torch.arange(len(split.targets))), split.targets)
