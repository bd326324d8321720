"""Pruning before training, by what the initial weights say: random, SNIP, GraSP, SynFlow."""

from __future__ import annotations

from lt_sweeps.evidence import Criterion
from lt_sweeps.methods.finetuning import KEEP, ZERO
from lt_sweeps.schedules import Target
from lt_sweeps.stages import Init, Prune, Reset, Train, Training


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
