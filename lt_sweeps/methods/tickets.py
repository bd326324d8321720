"""Tickets: what becomes of a mask that a training found, and which masks are no ticket's.

A reset that goes back in time makes a ticket of it: the mask on early weights, trained again. One
that does not (`keep`) is pruning: what is left is fine-tuned. (arXiv:1912.04427, section 5.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lt_sweeps.call import Call
from lt_sweeps.evidence import Criterion
from lt_sweeps.evidence import reset as reset_of
from lt_sweeps.stages import Evaluate, Prune, Reset, Train, Training

HARD = Criterion.of({"_target_": "lt_sweeps.criteria.hard"})
LEARNED = reset_of({"_target_": "lt_sweeps.resets.learned"})


def retrained(
    cut: Prune,
    recipe: Training,
    reset: Call,
    freeze: Call,
    *,
    origin: Train,
    retrain: Mapping[str, Any] | None,
) -> Train:
    """Train what a cut leaves, from where `reset` says.

    Args:
        retrain: the keys of the recipe in which this training differs; None scores what the cut
            left as it is, with batch-norm statistics estimated anew.
    """
    start = Reset(cut, reset, freeze, origin=origin)
    if retrain is None:
        return Evaluate(start, recipe)
    return Train(start, recipe.changed(retrain, where="method.retrain"))


def rewinds(reset: Call) -> bool:
    """Whether a reset goes back to an early moment, which makes a ticket of a mask."""
    return "to" in reset.bound()


def left_by_mask(reset: Call) -> Call:
    """`keep` for a training that learned a mask: the weights as the mask left them."""
    return LEARNED if reset.target == "lt_sweeps.resets.keep" else reset


def refuse_tickets(method: str, reset: Call, *, because: str) -> None:
    """Raises: ValueError: a ticket search by a method that has no ticket to give."""
    if rewinds(reset):
        raise ValueError(
            f"method: reset={reset} is a ticket search, and {method} is none: {because}; give "
            "reset=keep, which prunes"
        )


def refuse_transplant(method: str, reset: Call, *, transplant: bool) -> None:
    """Raises: ValueError: a ticket search by a method that does not claim one, unasked."""
    if rewinds(reset) and not transplant:
        raise ValueError(
            f"method: reset={reset} is a ticket search, which {method} does not claim to be; give "
            "reset=keep, which prunes, or method.transplant=true for its mask on early weights"
        )
