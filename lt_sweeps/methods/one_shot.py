"""One-shot pruning: one cut from the dense network to the schedule's last sparsity."""

from __future__ import annotations

from lt_sweeps.call import Call
from lt_sweeps.evidence import Criterion
from lt_sweeps.methods.imp import imp
from lt_sweeps.schedules import Target
from lt_sweeps.stages import Init, Train, Training


def one_shot(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
) -> Train:
    """Train, prune once, reset, train (with `reset=keep`: fine-tune)."""
    return imp(init, recipe, schedule[-1:], mask_criterion, reset, freeze)
