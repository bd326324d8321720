"""DNW: discovering neural wirings, unstructured (arXiv:1906.00586)."""

from __future__ import annotations

from lt_sweeps.plan.methods.after_search import (
    HARD,
    LEARNED,
    Protocol,
    finetuned,
    logits_by,
    refuse_ticket,
)
from lt_sweeps.plan.stages import Changes, Init, Logits, Prune, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import StraightThrough


def dnw(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    *,
    protocol: Protocol = "prune",
    finetune: Changes | None = "same",
) -> tuple[Train, Work]:
    """Train all weights but compute with each layer's largest, then fine-tune the largest.

    Args:
        finetune: the keys of the recipe that fine-tuning changes; null only scores.
    """
    refuse_ticket(protocol, "dnw", because="its mask changes until the last step")
    target, layers = schedule[-1], init.network.layers
    alike = tuple(round(layer.size * (1 - target.sparsity)) for layer in layers)
    if target.scope != "layer" or target.keep != alike:
        raise ValueError(
            "schedule: dnw keeps the same fraction of every layer; give schedule=one_shot, or "
            "sparsities with scope=layer"
        )
    start = logits_by("none")
    search = Train(Logits(init, start), recipe, StraightThrough(target.sparsity))
    cut = Prune(search, target, HARD, origin=search)
    return Train(init, recipe), finetuned(cut, recipe, finetune, start=LEARNED)
