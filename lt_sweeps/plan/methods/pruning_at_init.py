"""Pruning before training, by what the initial weights say: random, SNIP, GraSP, SynFlow."""

from __future__ import annotations

from lt_sweeps.plan.methods.after_search import KEEP, ZERO
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def at_init(
    init: Init, recipe: Training, schedule: tuple[Target, ...], mask_criterion: Criterion
) -> tuple[Train, Train]:
    """Prune the untrained network to the schedule's last target, and train what is left."""
    found = Train(sparse(init, recipe, schedule[-1], mask_criterion), recipe)
    return Train(init, recipe), found


def sparse(init: Init, recipe: Training, target: Target, criterion: Criterion) -> Reset:
    """The initial weights under a mask that needs no training."""
    cut = Prune(init, target, criterion, origin=init, task=recipe.task)
    return Reset(cut, KEEP, ZERO, origin=init)
