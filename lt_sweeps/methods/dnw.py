"""DNW: discovering neural wirings, unstructured (arXiv:1906.00586)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lt_sweeps.call import Call
from lt_sweeps.evidence import logits
from lt_sweeps.methods.tickets import HARD, refuse_transplant, retrained
from lt_sweeps.schedules import Target
from lt_sweeps.sparsifiers import StraightThrough
from lt_sweeps.stages import Init, Logits, Prune, Train, Training


def dnw(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    reset: Call,
    freeze: Call,
    *,
    transplant: bool = False,
    retrain: Mapping[str, Any] | None,
) -> tuple[Train]:
    """Compute with the largest weights of each layer, train all, then fine-tune the largest.

    Args:
        transplant: allow its mask on early weights, a ticket that the paper does not claim.
        retrain: the keys of the recipe in which fine-tuning differs; null only scores.
    """
    refuse_transplant("dnw", reset, transplant=transplant)
    target, layers = schedule[-1], init.network.layers
    alike = tuple(round(layer.size * (1 - target.sparsity)) for layer in layers)
    if target.scope != "layer" or target.keep != alike:
        raise ValueError(
            "schedule: dnw leaves the same fraction of every layer; give schedule=one_shot or "
            "sparsities with scope=layer"
        )
    start = logits("lt_sweeps.logits.none")
    search = Train(Logits(init, start), recipe, StraightThrough(target.sparsity))
    cut = Prune(search, target, HARD, origin=search)
    return (retrained(cut, recipe, reset, freeze, origin=search, retrain=retrain),)
