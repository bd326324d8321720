"""Channel pruning: which channels of a batch norm can be removed, and the weights that they remove.

A channel can be removed if only convolutions and linear layers read it, each as part of its input
(`models.channel_flow`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.models.channel_flow import NORMS, ChannelTrial
from lt_sweeps.models.network import Network
from lt_sweeps.storage.ticket import State

_STAYS = math.inf


@dataclass(frozen=True)
class Norm:
    """A batch norm whose channels can be removed, as parameter names.

    `scale` is the norm's own weight, `writer` the weight of the layer that it normalises, and
    `readers` the weights of the layers that read its output.
    """

    scale: str
    writer: str
    readers: tuple[str, ...]


@functools.cache
def scales(network: Network) -> tuple[str, ...]:
    """The parameter names of the scales of all batch norms."""
    modules = network.module().named_modules()
    return tuple(f"{name}.weight" for name, part in modules if isinstance(part, NORMS))


@functools.cache
def slimmable(network: Network) -> tuple[Norm, ...]:
    """The batch norms whose channels can be removed, in the network's order."""
    with torch.random.fork_rng(devices=[]):
        module = network.module("cpu")
    trial = ChannelTrial(module, network.example())
    prunable = {layer.name for layer in network.layers}
    norms = []
    for name in trial.norms:
        # The layer before a norm is the one whose output tensor the norm was called with.
        writers = [n for n in trial.weighted if trial.outputs.get(n) is trial.inputs.get(name)]
        if writers and f"{writers[0]}.weight" in prunable and (flow := trial.flow(writers[0])):
            readers = tuple(f"{reader}.weight" for reader in flow.readers)
            norms.append(Norm(f"{name}.weight", f"{writers[0]}.weight", readers))
    return tuple(norms)


def shares(network: Network, state: State) -> dict[str, Tensor]:
    """The share of each weight's channel: `[1, *shape]` by layer.

    A channel's share is the fraction of all removable channels whose scale is smaller in
    magnitude, in [0, 1). The largest channel of each norm has an infinite share, so that every norm
    keeps one. A weight has the smaller share of two channels, the one it writes to and the one it
    reads. A weight without a removable channel has an infinite share.
    """
    weights = {layer.name: torch.full(layer.shape, _STAYS).double() for layer in network.layers}
    norms = slimmable(network)
    sizes = {norm.scale: state[norm.scale][0].double().abs() for norm in norms}
    ordered = torch.cat(list(sizes.values())).sort().values
    for norm in norms:
        share = torch.searchsorted(ordered, sizes[norm.scale]).double() / len(ordered)
        share[sizes[norm.scale].argmax()] = _STAYS
        for name, dim in ((norm.writer, 0), *((reader, 1) for reader in norm.readers)):
            if name in weights:
                weights[name] = torch.minimum(weights[name], _along(share, weights[name], dim))
    return {name: score[None] for name, score in weights.items()}


def _along(share: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Give each weight its channel's share; a linear layer may read several pixels per channel."""
    shares = share.repeat_interleave(weight.shape[dim] // len(share))
    return shares.view(-1, *[1] * (weight.ndim - 1 - dim)).expand_as(weight)
