"""AMC: an agent searches for a density per layer, then fine-tuning (arXiv:1802.03494)."""

from __future__ import annotations

from lt_sweeps.models.network import Network
from lt_sweeps.plan.methods.after_search import KEEP, ZERO, Protocol, finetuned, refuse_ticket
from lt_sweeps.plan.stages import Changes, Init, Reset, Search, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Amc
from lt_sweeps.sparsity.sparsifiers.amc import least


def amc(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    *,
    episodes: int = 400,
    warmup: int = 100,
    lowest: float = 0.02,
    recalibrate: int = 0,
    protocol: Protocol = "prune",
    finetune: Changes = "same",
) -> tuple[Train, Work]:
    """Train, search for densities that keep the last target's number of weights, fine-tune.

    If the densities are known, use method=magnitude schedule=densities instead.

    Args:
        episodes: the number of trials; each costs one evaluation on the validation set.
        warmup: the number of episodes with random densities before the agent learns.
        lowest: the lowest density of a layer.
        recalibrate: the number of training batches that estimate batch-norm statistics before each
            evaluation.
        finetune: the keys of the recipe that fine-tuning changes.
    """
    refuse_ticket(protocol, "amc", because="its densities suit trained weights")
    if episodes > 0 and warmup >= episodes:
        raise ValueError(
            f"method: episodes={episodes}, warmup={warmup}; all episodes would have random "
            "densities, and the agent would choose none; give more episodes or a shorter warmup"
        )
    network, keep = init.network, sum(schedule[-1].keep)
    sparsifier = Amc(keep, _strides(network), episodes, warmup, float(lowest), recalibrate)
    fewest = sum(least(layer.size, lowest) for layer in network.layers)
    if keep < fewest:
        total = sum(layer.size for layer in network.layers)
        raise ValueError(
            f"method: lowest={lowest:g} keeps {fewest} weights, a sparsity of at most "
            f"{1 - fewest / total:.4f}; the schedule asks for {1 - keep / total:.4f}; give a lower "
            "`lowest`"
        )
    dense = Train(init, recipe)
    search = Search(Reset(dense, KEEP, ZERO, origin=dense), recipe, sparsifier)
    return dense, finetuned(search, recipe, finetune)


def _strides(network: Network) -> tuple[int, ...]:
    modules = dict(network.module().named_modules())
    parts = [modules.get(layer.name.rpartition(".")[0]) for layer in network.layers]
    strides = (getattr(part, "stride", (1,)) for part in parts)  # a linear layer has none
    return tuple(stride[0] for stride in strides)
