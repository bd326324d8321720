"""Continuous Sparsification: rounds of an annealed soft mask (arXiv:1912.04427)."""

from __future__ import annotations

from typing import Literal

from lt_sweeps.config.durations import Duration
from lt_sweeps.plan.methods.after_search import (
    HARD,
    LEARNED,
    Protocol,
    criterion_by,
    finetuned,
    logits_by,
    start_of,
)
from lt_sweeps.plan.stages import Changes, Init, Logits, Prune, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Continuous
from lt_sweeps.sparsity.sparsifiers.continuous import Anneal

LARGEST_S = criterion_by("large_logit")
Rounding = Literal["paper", "released"]


def continuous_sparsification(
    init: Init,
    recipe: Training,
    *,
    s0: float = 0.0,
    lmbda: float = 1e-8,
    final_beta: float = 200.0,
    anneal: Anneal = "epoch",
    rounds: int = 1,
    round_reset: Rounding = "paper",
    keep_momentum: bool = True,
    mask_lr: float = 1.0,
    scaling: bool = True,
    protocol: Protocol = "prune",
    to: Duration = "0it",
    restart: bool = False,
    origin: Literal["search", "dense"] = "search",
    finetune: Changes | None = "same",
) -> tuple[Work, ...]:
    """Search for `rounds` rounds; after each, train the weights whose s is above 0.

    A search trains each weight together with a logit s. The weight is multiplied by its soft mask
    sigmoid(beta s), and beta rises, so that the masks become binary. The results are the dense
    network, then one network per round.

    Args:
        s0: the initial s of every weight; the higher it is, the denser the mask becomes.
        lmbda: the penalty is this times the sum of the soft masks.
        anneal: how beta rises to `final_beta`; with `constant` it has that value throughout.
        round_reset: the s at the start of the next round: `paper` is min(final_beta s, s0); the
            `released` script lacks the factor, so that weights pruned in one round can return in
            the next.
        keep_momentum: both optimizers keep their momentum from one round to the next, as in the
            released script; otherwise they start without momentum.
        mask_lr: the learning rate of s as a multiple of the recipe's.
        scaling: divide the soft mask by sigmoid(s0), so that it starts at 1.
        protocol: `prune` keeps the final weights of the search; `ticket` uses the weights of time
            `to`, and with `restart` starts the recipe again.
        origin: the run whose early weights a ticket uses: the search, or a dense run.
        finetune: the keys of the recipe that the training of the kept weights changes; null only
            scores them.
    """
    soft = Continuous(lmbda, final_beta, anneal, s0 if scaling else None, mask_lr)
    searches = _searches(init, recipe, soft, s0, rounds, round_reset, keep_momentum)
    start = start_of(protocol, kept=LEARNED, to=to, restart=restart)
    dense = Train(init, recipe)
    early_run = dense if (protocol, origin) == ("ticket", "dense") else searches[0]
    any_sparsity = Target.open(init.network.layers)
    pruned = [Prune(search, any_sparsity, HARD, origin=early_run) for search in searches]
    tickets = [finetuned(p, recipe, finetune, start=start, origin=early_run) for p in pruned]
    return (dense, *tickets)


def exact_continuous_sparsification(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    *,
    s0: float = 0.0,
    lmbda: float = 1e-8,
    final_beta: float = 200.0,
    anneal: Anneal = "epoch",
    rounds: int = 1,
    round_reset: Rounding = "paper",
    keep_momentum: bool = True,
    mask_lr: float = 1.0,
    scaling: bool = True,
    protocol: Protocol = "prune",
    to: Duration = "0it",
    restart: bool = False,
    origin: Literal["search", "dense"] = "search",
    finetune: Changes | None = "same",
) -> tuple[Work, ...]:
    """Run `continuous_sparsification`, but keep the schedule's number of weights, by largest s.

    One search serves all sparsities. The results are the dense network, then one network per level
    of the schedule. With anneal=constant and final_beta=1 the mask stays soft to the end, as in the
    ablation of the paper's appendix F.
    """
    soft = Continuous(lmbda, final_beta, anneal, s0 if scaling else None, mask_lr)
    searches = _searches(init, recipe, soft, s0, rounds, round_reset, keep_momentum)
    start = start_of(protocol, kept=LEARNED, to=to, restart=restart)
    dense = Train(init, recipe)
    early_run = dense if (protocol, origin) == ("ticket", "dense") else searches[0]
    pruned = [Prune(searches[-1], target, LARGEST_S, origin=early_run) for target in schedule]
    tickets = [finetuned(p, recipe, finetune, start=start, origin=early_run) for p in pruned]
    return (dense, *tickets)


def _searches(
    init: Init,
    recipe: Training,
    soft: Continuous,
    s0: float,
    rounds: int,
    round_reset: Rounding,
    keep_momentum: bool,
) -> list[Train]:
    """Return the search of each round, which continues with the previous round's weights and s.

    Learning rate and beta start again in each round.

    Raises: ValueError: `rounds` is less than 1, or beta does not rise.
    """
    if rounds < 1:
        raise ValueError(f"method: rounds={rounds}; give 1 or more")
    if soft.anneal != "constant" and soft.temperature(0, recipe.recipe) != 1:
        raise ValueError(
            f"method: anneal={soft.anneal} over {recipe.recipe.length} steps, an epoch or less, "
            f"has beta at final_beta={soft.final_beta:g} from the start; give anneal=step, linear "
            "or constant, or recipe.length=2ep or more"
        )
    initial = logits_by("constant", value=float(s0))
    beta = soft.final_beta if round_reset == "paper" else 1.0
    reset = logits_by("reopened", beta=float(beta), highest=float(s0))
    searches = [Train(Logits(init, initial), recipe, soft)]
    for _ in range(1, rounds):
        searches.append(Train(Logits(searches[-1], reset, keep_momentum), recipe, soft))
    return searches
