"""AMC: an agent finds a density for each layer, then fine-tuning (arXiv:1802.03494)."""

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
    """Train, find densities that keep as many weights as the last target says, fine-tune.

    Known densities need no agent: use method=magnitude schedule=densities.

    Args:
        episodes: how many densities are tried; each costs one evaluation on the validation set.
        warmup: episodes with random densities, before the agent learns.
        lowest: the lowest density of a layer.
        recalibrate: training batches to estimate batch-norm statistics from before each evaluation.
        finetune: the keys of the recipe in which the fine-tuning differs.
    """
    refuse_ticket(protocol, "amc", because="its densities suit trained weights")
    network, keep = init.network, sum(schedule[-1].keep)
    sparsifier = Amc(keep, _strides(network), episodes, warmup, float(lowest), recalibrate)
    fewest = sum(least(layer.size, lowest) for layer in network.layers)
    if keep < fewest:
        total = sum(layer.size for layer in network.layers)
        raise ValueError(
            f"method: lowest={lowest:g} keeps {fewest} weights, a sparsity of at most "
            f"{1 - fewest / total:.4f}; the schedule asks for {1 - keep / total:.4f}; lower it"
        )
    dense = Train(init, recipe)
    search = Search(Reset(dense, KEEP, ZERO, origin=dense), recipe, sparsifier)
    return dense, finetuned(search, recipe, finetune)


def _strides(network: Network) -> tuple[int, ...]:
    modules = dict(network.module().named_modules())
    parts = [modules.get(layer.name.rpartition(".")[0]) for layer in network.layers]
    strides = (getattr(part, "stride", (1,)) for part in parts)  # a linear layer has none
    return tuple(stride[0] for stride in strides)
