"""Iterative pruning: train, prune a little, reset, repeat (arXiv:1803.03635, arXiv:1905.01067).

One-shot pruning is the case of a single level. IMP-Continued trains on at each level, without a
rewind (arXiv:1912.04427).
"""

from __future__ import annotations

from lt_sweeps.config.call import Call
from lt_sweeps.config.durations import Duration
from lt_sweeps.plan.methods.after_search import KEEP, ZERO, Protocol, reset_by
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training, retrain
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def imp(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
) -> Train:
    """Train; then at each level prune to its target, reset the kept weights and train again."""
    dense = ticket = Train(init, recipe)
    for target in schedule:
        pruned = Prune(ticket, target, mask_criterion, origin=dense)
        ticket = retrain(Reset(pruned, reset, freeze, origin=dense), recipe)
    return ticket


def one_shot(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
) -> Train:
    """Train, prune once to the schedule's last sparsity, reset, train; `reset=keep` fine-tunes."""
    return imp(init, recipe, schedule[-1:], mask_criterion, reset, freeze)


def imp_continued(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    *,
    protocol: Protocol = "prune",
    to: Duration = "0it",
    restart: bool = False,
) -> Train | tuple[Train, ...]:
    """Train; then at each level prune a little and train on, for the whole recipe.

    Args:
        protocol: with `prune`, these networks are the results; with `ticket`, they only search for
            masks, and each level's mask is trained on the dense run's weights at time `to`.
        restart: a ticket starts the recipe again instead of continuing from `to`.
    """
    early = reset_by("transplant", to=to, restart=restart)
    dense = trained = Train(init, recipe)
    tickets = [dense]
    for target in schedule:
        cut = Prune(trained, target, mask_criterion, origin=dense)
        trained = Train(Reset(cut, KEEP, ZERO, origin=dense), recipe)
        tickets.append(Train(Reset(cut, early, ZERO, origin=dense), recipe))
    return trained if protocol == "prune" else tuple(tickets)
