"""GMP, gradual magnitude pruning: prune during a single training (arXiv:1710.01878)."""

from __future__ import annotations

from lt_sweeps.config.durations import Duration, steps
from lt_sweeps.plan.methods.after_search import Protocol, finetuned, refuse_ticket
from lt_sweeps.plan.stages import Changes, Init, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Gradual


def gmp(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    *,
    begin: float = 0.2,
    end: float = 0.77,
    every: Duration = "100it",
    power: float = 3.0,
    protocol: Protocol = "prune",
    finetune: Changes | None = None,
) -> tuple[Train, Work]:
    """Prune during training, to exactly the schedule's last target.

    Args:
        begin: the fraction of the recipe after which pruning begins.
        end: the fraction of the recipe after which the mask is fixed.
        every: the time between two prunings.
        power: the exponent of the sparsity's curve; 3 is the cubic schedule.
        finetune: the keys of the recipe that a fine-tuning afterwards changes; null for none.
    """
    refuse_ticket(protocol, "gmp", because="its mask suits weights trained under it")
    target, length = schedule[-1], recipe.recipe.length
    if not 0 <= begin < end < 1:
        raise ValueError(
            f"method: begin={begin:g}, end={end:g}; give fractions, 0 <= begin < end < 1"
        )
    first, last = int(begin * length), int(end * length)
    if first == last:
        raise ValueError(
            f"method: begin={begin:g}, end={end:g} are both step {first} of {length}, so nothing "
            "would be pruned gradually; give a lower begin, a higher end or a longer recipe"
        )
    sparsifier = Gradual(
        target.scope,
        target.keep,
        begin=first,
        end=last,
        every=steps(every, recipe.recipe.steps_per_epoch, where="method.every"),
        power=float(power),
    )
    pruned = Train(init, recipe, sparsifier)
    result = pruned if finetune is None else finetuned(pruned, recipe, finetune)
    return Train(init, recipe), result
