"""Fine-tuning: what every one-shot pruner does with the mask that it found."""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Changes, Prune, Reset, Train, Training

KEEP = Call("lt_sweeps.sparsity.resets.keep")
ZERO = Call("lt_sweeps.sparsity.freezes.zero")


def finetuned(found: Prune | Train, recipe: Training, finetune: Changes) -> Train:
    """Train what a mask keeps, from where it is.

    Args:
        found: a cut, or a training that ended with a mask.
        finetune: the keys of the recipe in which the fine-tuning differs.
    """
    trained = found.trained if isinstance(found, Prune) else found
    start = Reset(found, KEEP, ZERO, origin=trained)
    return Train(start, recipe.changed(finetune, where="method.finetune"))
