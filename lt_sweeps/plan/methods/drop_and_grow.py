"""RigL: a training that is sparse throughout and moves its mask (arXiv:1911.11134)."""

from __future__ import annotations

from lt_sweeps.config.durations import Duration, steps
from lt_sweeps.plan.methods.after_search import Protocol, criterion_by, finetuned, refuse_ticket
from lt_sweeps.plan.methods.pruning_at_init import at_init_ticket
from lt_sweeps.plan.stages import Changes, Init, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import RigL

RANDOM = criterion_by("random")


def rigl(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    *,
    fraction: float = 0.3,
    every: Duration = "100it",
    begin: float = 0.0,
    end: float = 0.75,
    multiplier: int = 1,
    protocol: Protocol = "prune",
    finetune: Changes | None = None,
) -> tuple[Train, Work]:
    """Train from a random mask with the layer densities of the schedule's last target.

    Args:
        fraction: the fraction of a layer's kept weights that a mask update at step 0 replaces; it
            decreases along a cosine.
        every: the time between two mask updates.
        begin: the fraction of the training after which mask updates begin.
        end: the fraction of the training after which the mask is fixed.
        multiplier: the factor by which the training is longer, including milestones and warm-up.
        finetune: the keys of the recipe that a fine-tuning afterwards changes; null for none.
    """
    refuse_ticket(protocol, "rigl", because="it trains no dense network")
    target, stretched = schedule[-1], _stretched(recipe, multiplier)
    if target.scope != "layer":
        raise ValueError(
            "method: rigl needs the number of weights in each layer, which a global schedule does "
            "not give; use schedule=erk, schedule=uniform, or scope=layer"
        )
    if not 0 <= begin < end <= 1:
        raise ValueError(
            f"method: begin={begin:g}, end={end:g}; give fractions, 0 <= begin < end <= 1"
        )
    length = stretched.recipe.length
    sparsifier = RigL(
        fraction=float(fraction),
        begin=int(begin * length),
        end=int(end * length),
        every=steps(every, recipe.recipe.steps_per_epoch, where="method.every"),
    )
    if not sparsifier.mask_updates:
        raise ValueError(
            f"method: begin={begin:g}, end={end:g} are both step {sparsifier.begin} of {length}, "
            "so the mask would never change; give a lower begin, a higher end or a longer recipe"
        )
    if int(sparsifier.moving(sparsifier.begin) * max(target.keep)) == 0:
        raise ValueError(
            f"method: fraction={fraction:g} replaces none of the {max(target.keep)} weights that "
            "the largest layer keeps; give a larger fraction"
        )
    trained = Train(at_init_ticket(init, recipe, target, RANDOM), stretched, sparsifier)
    result = trained if finetune is None else finetuned(trained, recipe, finetune)
    return Train(init, recipe), result


def _stretched(training: Training, times: int) -> Training:
    """Return the training with its length, milestones and warm-up multiplied."""
    if times < 1:
        raise ValueError(f"method.multiplier: {times}; give 1 or more")
    if times == 1:
        return training
    recipe = training.recipe
    keys = {
        "length": f"{times * recipe.length}it",
        "milestones": [f"{times * step}it" for step in recipe.milestones],
        "warmup": f"{times * recipe.warmup}it",
    }
    return training.changed(keys, where="method.multiplier")
