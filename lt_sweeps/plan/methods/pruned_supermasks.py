"""Supermasks without training: a dense run's mask on the weights as they were drawn
(arXiv:1905.01067, section 5.1)."""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Evaluate, Init, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def supermask(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
    *,
    statistics: int = 200,
) -> tuple[Evaluate, ...]:
    """Train once, prune the dense network to each sparsity by itself, score what it started from.

    The first point has no mask. `statistics` is the number of training batches that batch-norm
    statistics are estimated from, where there is any.
    """
    dense = Train(init, recipe)
    cuts = [Prune(dense, target, mask_criterion, origin=dense) for target in schedule]
    starts = [Reset(each, reset, freeze, origin=dense) for each in (dense, *cuts)]
    return tuple(Evaluate(start, recipe, statistics=statistics) for start in starts)
