"""One-shot pruning: one cut from the dense network to the schedule's last sparsity."""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.plan.methods.iterative_pruning import imp
from lt_sweeps.plan.stages import Init, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


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
