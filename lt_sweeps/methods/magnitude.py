"""One-shot pruning with fine-tuning: of large weights, unless a criterion says otherwise
(arXiv:1506.02626)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lt_sweeps.evidence import Criterion
from lt_sweeps.methods.finetuning import finetuned
from lt_sweeps.schedules import Target
from lt_sweeps.stages import Init, Prune, Train, Training


def magnitude(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    *,
    finetune: Mapping[str, Any],
) -> Train:
    """Train, prune to the schedule's last sparsity, fine-tune.

    Args:
        finetune: the keys of the recipe in which the fine-tuning differs.
    """
    dense = Train(init, recipe)
    return finetuned(Prune(dense, schedule[-1], mask_criterion, origin=dense), recipe, finetune)
