"""Notes on trainings that change their mask too rarely, or too little, for the method to act."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.stages import Logits, Work
from lt_sweeps.sparsity.sparsifiers import Continuous, HardConcrete, SoftThreshold
from lt_sweeps.sparsity.sparsifiers.hard_concrete import CLOSED

# The papers of gmp and rigl update a mask hundreds of times; that of Continuous Sparsification
# raises beta in 85 epochs. With fewer than 5, a schedule is hardly more than its end points.
_FEW = 5
_UNFELT = -30.0  # the sigmoid of this s is 1e-13, smaller than the weights of any network


def notes_on_masks(cell: Planned) -> Iterator[str]:
    """Say which methods update, anneal or learn their mask too little."""
    method = cell.labels["method"]
    for work in cell.trainings:
        for note in (_updates, _betas, _thresholds, _gates):
            if said := note(work):
                yield f"{method} {said}"


def _updates(work: Work) -> str | None:
    steps = work.sparsifier.mask_updates
    if steps is None or len(steps) >= _FEW:
        return None
    often = f"{len(steps)} times" if len(steps) > 1 else f"only once, at step {steps[0]}"
    return (
        f"changes its mask {often} in a training of {work.length} steps, and its paper does so "
        "hundreds of times; give a shorter method.every or a longer recipe"
    )


def _betas(work: Work) -> str | None:
    soft, recipe = work.sparsifier, work.training.recipe
    epochs = math.ceil(recipe.length / recipe.steps_per_epoch)
    if not isinstance(soft, Continuous) or soft.anneal != "epoch" or epochs >= _FEW:
        return None
    return (
        f"raises beta from 1 to {soft.final_beta:g} in only {epochs} epochs; its paper has 85 or "
        "more; give a longer recipe, or method.anneal=step"
    )


def _thresholds(work: Work) -> str | None:
    """Say if weight decay, which alone moves s at first, does not raise s to where it prunes."""
    soft, recipe, first = work.sparsifier, work.training.recipe, _initial(work, "value")
    if not isinstance(soft, SoftThreshold) or not isinstance(recipe.optimizer, str):
        return None
    reach = soft.lr * _sum_of_rates(recipe)
    if recipe.optimizer == "adam":  # scales the decay, so that a step is as large as the rate
        last = first + reach * (soft.decay > 0)
    else:
        last = first * math.exp(-reach * soft.decay / (1 - recipe.momentum))
    if last >= _UNFELT:
        return None
    return (
        f"prunes nothing: weight decay raises s from {first:g} to about {last:.3g} in "
        f"{recipe.length} steps, where sigmoid(s), the threshold, is 0; give a higher "
        "method.s_init, method.threshold_decay or method.mask_lr, or a longer recipe"
    )


def _gates(work: Work) -> str | None:
    """Say if no gate can close, because a step of Adam is about as large as its rate."""
    gates, recipe, first = work.sparsifier, work.training.recipe, _initial(work, "mean")
    if not isinstance(gates, HardConcrete) or recipe.optimizer not in ("adam", "adamw"):
        return None
    reach = gates.lr * _sum_of_rates(recipe)
    if not reach < first - CLOSED < math.inf:
        return None
    return (
        f"closes no gate: {recipe.optimizer} moves log alpha by about {reach:.2g} in "
        f"{recipe.length} steps, from {first:.2g}, and a gate closes below {CLOSED:.2g}; give a "
        "higher method.mask_lr or method.droprate, or a longer recipe"
    )


def _initial(work: Work, name: str) -> float:
    """The logit from which a training starts; infinite if it continues with trained logits."""
    start = work.start
    return start.given.bound().get(name, math.inf) if isinstance(start, Logits) else math.inf


def _sum_of_rates(recipe: Recipe) -> float:
    stride = max(1, recipe.length // 1000)  # a sum over all steps would take a second on ImageNet
    return stride * sum(map(recipe.lr_at, range(0, recipe.length, stride)))
