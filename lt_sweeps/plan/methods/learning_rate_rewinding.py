"""Retraining after pruning: fine-tuning, weight or learning-rate rewinding (arXiv:2003.02389)."""

from __future__ import annotations

from typing import Literal

from lt_sweeps.config.durations import steps
from lt_sweeps.plan.methods.after_search import ZERO, reset_by
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target

Mode = Literal["finetune", "weight_rewind", "lr_rewind", "low_lr_rewind", "reinit"]


def renda(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    *,
    mode: Mode = "lr_rewind",
    retrain: str | None = None,
    iterative: bool = True,
    finetune_lr: float | None = None,
) -> Train:
    """Train, then prune and retrain for the time `retrain`, once per level if `iterative`.

    With T the end of the recipe and t the time of retraining, the modes continue with

        finetune       the weights of T at a constant learning rate
        weight_rewind  the weights of T-t and the recipe from T-t
        lr_rewind      the weights of T and the recipe from T-t
        low_lr_rewind  the weights of T-t at a constant learning rate
        reinit         new weights and the recipe from T-t

    Trained weights keep the momentum of their time, as in the checkpoints of the released code.

    Args:
        retrain: the time t; null for the whole recipe.
        iterative: false prunes once, to the schedule's last sparsity.
        finetune_lr: the constant learning rate; null for the recipe's last.
    """
    length = recipe.recipe.length
    time = _steps(retrain, recipe)
    rewound, constant = f"{length - time}it", _constant(recipe, time, finetune_lr)
    nonzero = time < length  # a training has no momentum at its start
    start, retraining = {
        "finetune": (reset_by("keep", momentum=True), constant),
        "weight_rewind": (reset_by("rewind", to=rewound, momentum=nonzero), recipe),
        "lr_rewind": (reset_by("keep", at=rewound, momentum=True), recipe),
        "low_lr_rewind": (reset_by("rewind", to=rewound, restart=True, momentum=nonzero), constant),
        "reinit": (reset_by("redraw", at=rewound), recipe),
    }[mode]
    dense = ticket = Train(init, recipe)
    for target in schedule if iterative else schedule[-1:]:
        cut = Prune(ticket, target, mask_criterion, origin=dense)
        ticket = Train(Reset(cut, start, ZERO, origin=dense), retraining)
    return ticket


def _steps(retrain: str | None, recipe: Training) -> int:
    """The number of steps for which each level retrains."""
    length, per_epoch = recipe.recipe.length, recipe.recipe.steps_per_epoch
    time = length if retrain is None else steps(retrain, per_epoch, where="method.retrain")
    if not 0 < time <= length:
        raise ValueError(f"method.retrain: {retrain} is step {time}; give 1 to {length} steps")
    return time


def _constant(recipe: Training, time: int, lr: float | None) -> Training:
    """Return a recipe of `time` steps at a constant learning rate."""
    last = recipe.recipe.lr_at(recipe.recipe.length - 1)
    flat = {"milestones": [], "warmup": "0it", "decay": "step"}
    keys = {"length": f"{time}it", "lr": last if lr is None else lr, **flat}
    return recipe.changed(keys, where="method.finetune_lr")
