"""Network Slimming: remove channels with small batch-norm scales (arXiv:1708.06519)."""

from __future__ import annotations

from dataclasses import replace

from lt_sweeps.config.call import Call
from lt_sweeps.models.network import Network
from lt_sweeps.plan.methods.after_search import Protocol, criterion_by, finetuned, refuse_ticket
from lt_sweeps.plan.stages import Changes, Init, Prune, Train, Training, Work
from lt_sweeps.sparsity.channel_pruning import scales, slimmable
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Slimming


def slimming(
    init: Init,
    recipe: Training,
    *,
    lmbda: float = 1e-4,
    percent: float = 0.5,
    scale: float = 0.5,
    protocol: Protocol = "prune",
    finetune: Changes = "same",
) -> tuple[Train, Work]:
    """Train with a penalty on batch-norm scales, remove channels, fine-tune.

    Removing a channel prunes the weights that write to it and the weights that read it. Channels
    that are part of a residual sum are never removed, nor is the one with the largest scale in each
    layer.

    Args:
        lmbda: the penalty is this times the sum of the absolute values of all scales.
        percent: the fraction of the channels to remove, in (0, 1), which determines the sparsity.
            Of n channels, floor(n percent) + 1 are removed. The released code rounds the product
            first, which can be one channel less: 29 instead of 30 of 100 at percent=0.29.
        scale: the initial value of all batch-norm scales.
        finetune: the keys of the recipe that fine-tuning changes.
    """
    refuse_ticket(protocol, "slimming", because="its masks remove whole channels")
    if not 0 < percent < 1:
        raise ValueError(f"method: percent={percent:g}; give a fraction between 0 and 1")
    if not scale > 0:
        raise ValueError(f"method: scale={scale:g}; give a positive scale")
    _check(init.network)
    begun = Init(_scaled(init.network, float(scale)))
    penalised = Train(begun, recipe, Slimming(float(lmbda), scales(init.network)))
    slim = criterion_by("slim", percent=float(percent))
    cut = Prune(penalised, Target.open(init.network.layers), slim, origin=penalised)
    return Train(init, recipe), finetuned(cut, recipe, finetune)


def _check(network: Network) -> None:
    if not scales(network):
        raise ValueError(
            f"method: slimming removes channels by their batch-norm scales, and {network.net} has "
            "no batch norm; use model=resnet20 or vgg16, or a model of your own that has some"
        )
    if not slimmable(network):
        raise ValueError(
            f"method: slimming removes channels that prunable weights write to and only layers "
            f"read; no batch norm of {network.net} has such a channel"
        )


def _scaled(network: Network, scale: float) -> Network:
    """Return the network with another initial scale of its batch norms."""
    first = network.init and {"_target_": network.init.target, **network.init.args}
    init = {
        "_target_": "lt_sweeps.models.initializers.scaled_norms",
        "scale": scale,
        "first": first,
    }
    return replace(network, init=Call.of(init, where="model.init", supplied=("module",)))
