"""Supermasks by pruning: the mask of a dense run on its initial weights, which stay untrained
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
    """Train once, prune the dense network to each sparsity, score each mask on the reset weights.

    The first result has no mask. `statistics` is the number of training batches from which the
    statistics of a network with batch norm are estimated.
    """
    dense = Train(init, recipe)
    cuts = [Prune(dense, target, mask_criterion, origin=dense) for target in schedule]
    starts = [Reset(pruned, reset, freeze, origin=dense) for pruned in (dense, *cuts)]
    return tuple(Evaluate(start, recipe, statistics=statistics) for start in starts)
