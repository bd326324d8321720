"""Whether train, validation and test set share examples, by the content of the examples."""

from __future__ import annotations

import torch

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.data import Split
from lt_sweeps.data.split_overlap import shared_examples
from lt_sweeps.plan.stages import Task

_LARGE = 4_000_000_000  # bytes of a split, beyond which its examples are not compared


def audit_splits(task: Task, findings: Findings) -> bool:
    """Whether the data are here; counts the examples that two splits share."""
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
    """A split without rows: examples that stay in their file are compared by content here."""
    return Split(split.take(torch.arange(len(split.targets))), split.targets)
