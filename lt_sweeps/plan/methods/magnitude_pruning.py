"""One-shot pruning with fine-tuning; the criterion is magnitude unless another is chosen
(arXiv:1506.02626)."""

from __future__ import annotations

from lt_sweeps.config.durations import Duration
from lt_sweeps.plan.methods.after_search import KEEP, Protocol, finetuned, start_of
from lt_sweeps.plan.stages import Changes, Init, Prune, Train, Training, Work
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target


def magnitude(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    *,
    protocol: Protocol = "prune",
    to: Duration = "0it",
    restart: bool = False,
    finetune: Changes | None = "same",
) -> Work:
    """Train, prune to the schedule's last sparsity, fine-tune.

    Args:
        protocol: `ticket` trains the mask on the weights of time `to` instead; with `restart`, it
            starts the recipe again.
        finetune: the keys of the recipe that fine-tuning changes; null only scores.
    """
    dense = Train(init, recipe)
    cut = Prune(dense, schedule[-1], mask_criterion, origin=dense)
    start = start_of(protocol, kept=KEEP, to=to, restart=restart)
    return finetuned(cut, recipe, finetune, start=start)
