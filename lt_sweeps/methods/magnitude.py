"""One-shot pruning with fine-tuning: of large weights, unless a criterion says otherwise
(arXiv:1506.02626)."""

from __future__ import annotations

from lt_sweeps.evidence import Criterion
from lt_sweeps.methods.tickets import KEEP, After, Protocol
from lt_sweeps.schedules import Target
from lt_sweeps.stages import Changes, Init, Prune, Train, Training


def magnitude(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    *,
    protocol: Protocol = "prune",
    to: str = "0it",
    restart: bool = False,
    finetune: Changes | None = "same",
) -> Train:
    """Train, prune to the schedule's last sparsity, fine-tune.

    Args:
        protocol: `ticket` trains the mask on the weights of time `to` instead, and with `restart`
            begins the recipe anew.
        finetune: the keys of the recipe in which the fine-tuning differs; null only scores.
    """
    dense = Train(init, recipe)
    cut = Prune(dense, schedule[-1], mask_criterion, origin=dense)
    return After(protocol, to, restart, finetune).train(cut, recipe, origin=dense, kept=KEEP)
