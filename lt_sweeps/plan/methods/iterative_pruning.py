"""Iterative pruning: train, prune a little, reset, repeat (arXiv:1803.03635, arXiv:1905.01067).

One-shot pruning is the case of a single level.
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
    """Train; then at each level prune to its target, reset the kept weights and train again."""
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
    """Train, prune once to the schedule's last sparsity, reset, train; `reset=keep` fine-tunes."""
    return imp(init, recipe, schedule[-1:], mask_criterion, reset, freeze)
