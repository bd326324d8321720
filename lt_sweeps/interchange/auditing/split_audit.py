"""Whether train, validation and test set share images, by the content of the images."""

from __future__ import annotations

import hashlib
import itertools

import torch

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.data import Split
from lt_sweeps.plan.stages import Task

_FEW = 0.005  # of a split: as many images as published data sets hold twice
_LARGE = 4_000_000_000  # bytes of a split, beyond which its images are not compared


def audit_splits(task: Task, findings: Findings) -> bool:
    """Whether the data are here; counts the images that two splits share."""
    try:
        splits = task.dataset.load()
    except (OSError, ValueError) as error:
        findings.leave_out("splits", f"{task.call}: {str(error).splitlines()[0]}")
        return False
    if any(split.inputs.nbytes > _LARGE for split in splits.values()):
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
    rows = split.take(torch.arange(len(split.targets))).numpy()
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows}
