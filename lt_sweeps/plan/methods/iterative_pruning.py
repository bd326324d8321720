"""Iterative pruning: train, prune a little, restart, again (arXiv:1803.03635, arXiv:1905.01067).

One-shot pruning is its case of a single level.
"""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training, retrain
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def imp(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
) -> Train:
    """Train to the end, prune to the level's target, reset what is left; once per level."""
    dense = ticket = Train(init, recipe)
    for target in schedule:
        pruned = Prune(ticket, target, mask_criterion, origin=dense)
        ticket = retrain(Reset(pruned, reset, freeze, origin=dense), recipe)
    return ticket


def one_shot(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
) -> Train:
    """Train, prune once to the schedule's last sparsity, reset, train (`reset=keep`: fine-tune)."""
    return imp(init, recipe, schedule[-1:], mask_criterion, reset, freeze)
