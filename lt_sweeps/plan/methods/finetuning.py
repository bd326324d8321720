"""Fine-tuning: what every one-shot pruner does with the mask that it found."""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Changes, Prune, Reset, Train, Training, Work

KEEP = Call("lt_sweeps.sparsity.resets.keep")
ZERO = Call("lt_sweeps.sparsity.freezes.zero")


def finetuned(mask: Prune | Work, recipe: Training, finetune: Changes) -> Train:
    """Train what a mask keeps, from where it is.

    Args:
        mask: a cut, or the work that ended with the mask.
        finetune: the keys of the recipe in which the fine-tuning differs.
    """
    start = Reset(mask, KEEP, ZERO, origin=mask.trained)
    return Train(start, recipe.changed(finetune, where="method.finetune"))
