"""Continuous Sparsification: rounds of an annealed soft mask (arXiv:1912.04427)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lt_sweeps.call import Call
from lt_sweeps.evidence import Criterion, logits
from lt_sweeps.methods.tickets import HARD, left_by_mask, retrained
from lt_sweeps.schedules import Target
from lt_sweeps.sparsifiers import Continuous
from lt_sweeps.sparsifiers.continuous import Anneal
from lt_sweeps.stages import Init, Logits, Prune, Train, Training

SURE = Criterion.of({"_target_": "lt_sweeps.criteria.large_logit"})


def continuous_sparsification(
    init: Init,
    recipe: Training,
    reset: Call,
    freeze: Call,
    *,
    s0: float = 0.0,
    lmbda: float = 1e-8,
    final_beta: float = 200.0,
    anneal: Anneal = "epoch",
    rounds: int = 1,
    round_reset: Literal["paper", "released"] = "paper",
    mask_lr: float = 1.0,
    scaling: bool = True,
    origin: Literal["search", "dense"] = "search",
    retrain: Mapping[str, Any] | None,
) -> tuple[Train, ...]:
    """Search for `rounds` rounds; after each, train what s > 0 keeps. One result per round.

    Args:
        s0: every s at the start: the higher, the denser the mask becomes.
        lmbda: of the penalty, times the sum of the soft masks.
        anneal: how beta rises to `final_beta`; `constant` has it there throughout.
        round_reset: what s restarts from: `paper` is min(final_beta s, s0); the `released` script
            has lost the factor, so that it opens again what the round before had closed.
        mask_lr: the learning rate of s as a multiple of the recipe's.
        scaling: divide the soft mask by sigmoid(s0), so that it starts at 1.
        origin: whose early weights a ticket goes back to: the search's, or a dense run's.
        retrain: the keys of the recipe in which the training of what is kept differs from the
            search; null only scores it.
    """
    soft = Continuous(lmbda, final_beta, anneal, s0 if scaling else None, mask_lr)
    searches = _searches(init, recipe, soft, s0, rounds, final_beta, round_reset)
    begun = searches[0] if origin == "search" else Train(init, recipe)
    whole = Target.open(init.network.layers)
    return tuple(
        retrained(
            Prune(search, whole, HARD, origin=begun),
            recipe,
            left_by_mask(reset),
            freeze,
            origin=begun,
            retrain=retrain,
        )
        for search in searches
    )


def exact_continuous_sparsification(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    reset: Call,
    freeze: Call,
    *,
    s0: float = 0.0,
    lmbda: float = 1e-8,
    final_beta: float = 200.0,
    anneal: Anneal = "epoch",
    rounds: int = 1,
    round_reset: Literal["paper", "released"] = "paper",
    mask_lr: float = 1.0,
    scaling: bool = True,
    origin: Literal["search", "dense"] = "search",
    retrain: Mapping[str, Any] | None,
) -> tuple[Train, ...]:
    """As `continuous_sparsification`, but keep the largest s, as many as the schedule says.

    One search serves all sparsities; one result per level of the schedule. With anneal=constant
    and final_beta=1 the mask stays soft to the end, the ablation of the paper's appendix F.
    """
    soft = Continuous(lmbda, final_beta, anneal, s0 if scaling else None, mask_lr)
    search = _searches(init, recipe, soft, s0, rounds, final_beta, round_reset)
    begun = search[0] if origin == "search" else Train(init, recipe)
    return tuple(
        retrained(
            Prune(search[-1], target, SURE, origin=begun),
            recipe,
            left_by_mask(reset),
            freeze,
            origin=begun,
            retrain=retrain,
        )
        for target in schedule
    )


def _searches(
    init: Init,
    recipe: Training,
    soft: Continuous,
    s0: float,
    rounds: int,
    final_beta: float,
    round_reset: str,
) -> list[Train]:
    """Each round goes on with weights and s of the one before; learning rate and beta restart."""
    if rounds < 1:
        raise ValueError(f"method: rounds={rounds}; give 1 or more")
    start = logits("lt_sweeps.logits.constant", value=float(s0))
    searches = [Train(Logits(init, start), recipe, soft)]
    beta = final_beta if round_reset == "paper" else 1.0
    again = logits("lt_sweeps.logits.reopened", beta=float(beta), highest=float(s0))
    for _ in range(1, rounds):
        searches.append(Train(Logits(searches[-1], again), recipe, soft))
    return searches
