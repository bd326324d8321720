"""Pruning at initialisation, before any training: random, SNIP, GraSP, SynFlow."""

from __future__ import annotations

from lt_sweeps.plan.methods.after_search import KEEP, ZERO
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def at_init(
    init: Init, recipe: Training, schedule: tuple[Target, ...], mask_criterion: Criterion
) -> tuple[Train, Train]:
    """Prune the untrained network to the schedule's last target, and train the kept weights."""
    ticket = Train(at_init_ticket(init, recipe, schedule[-1], mask_criterion), recipe)
    return Train(init, recipe), ticket


def at_init_ticket(init: Init, recipe: Training, target: Target, criterion: Criterion) -> Reset:
    """Return the initial weights, pruned by a criterion that needs no training."""
    cut = Prune(init, target, criterion, origin=init, task=recipe.task)
    return Reset(cut, KEEP, ZERO, origin=init)
