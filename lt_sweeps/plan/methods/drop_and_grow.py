"""RigL: one training that is sparse from start to end, and moves its mask (arXiv:1911.11134)."""

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
    """Train at the layers' densities of the schedule's last target, from a random mask.

    Args:
        fraction: the fraction of a layer's weights that moves first; it falls along a cosine.
        every: time between two moves.
        begin: the fraction of the training after which moves begin.
        end: the fraction of it after which the mask is fixed.
        multiplier: makes the training so many times as long, milestones and warm-up included.
        finetune: the keys of the recipe in which a fine-tuning after it differs; null for none.
    """
    refuse_ticket(protocol, "rigl", because="it trains no dense network")
    target, longer = schedule[-1], _stretched(recipe, multiplier)
    if target.scope != "layer":
        raise ValueError(
            "method: rigl needs the number of weights in each layer, which a global schedule does "
            "not give; use schedule=erk, schedule=uniform, or scope=layer"
        )
    if not 0 <= begin < end <= 1:
        raise ValueError(
            f"method: begin={begin:g}, end={end:g}; give parts of the recipe, 0 <= begin < end <= 1"
        )
    length = longer.recipe.length
    sparsifier = RigL(
        fraction=float(fraction),
        begin=int(begin * length),
        end=int(end * length),
        every=steps(every, recipe.recipe.steps_per_epoch, where="method.every"),
    )
    trained = Train(at_init_ticket(init, recipe, target, RANDOM), longer, sparsifier)
    result = trained if finetune is None else finetuned(trained, recipe, finetune)
    return Train(init, recipe), result


def _stretched(training: Training, times: int) -> Training:
    """The same recipe with all of its times multiplied."""
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
