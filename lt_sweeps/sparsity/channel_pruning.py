"""Channels: which channels of a batch norm can be removed, and which weights go with them.

A channel can be removed if only convolution and linear layers read it, each as one of its own
input channels. It cannot where it is added to another channel, as at the end of a residual block.
Which layer reads which channel is found by running the network, so any `nn.Module` will do.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.models.network import Network
from lt_sweeps.storage.ticket import State

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_STAYS = math.inf


@dataclass(frozen=True)
class Norm:
    """A batch norm whose channels can be removed, as parameter names.

    `scale` is its own, `writer` the layer that it normalises, `readers` the layers that read it.
    """

    scale: str
    writer: str
    readers: tuple[str, ...]


@functools.cache
def scales(network: Network) -> tuple[str, ...]:
    """The scales of all batch norms, by parameter name."""
    modules = network.module().named_modules()
    return tuple(f"{name}.weight" for name, part in modules if isinstance(part, _NORMS))


@functools.cache
def slimmable(network: Network) -> tuple[Norm, ...]:
    """The batch norms whose channels can be removed, in the network's order."""
    trial = _Trial(network)
    norms = (trial.norm(name) for name in trial.norms)
    return tuple(norm for norm in norms if norm is not None)


def shares(network: Network, state: State) -> dict[str, Tensor]:
    """The share of each weight's channel: `[1, *shape]` by layer.

    A channel's share is the fraction of all removable channels whose scale is smaller in
    magnitude, in [0, 1). It is infinite for the largest channel of a norm, so that each keeps one.
    A weight has the smaller share of two channels, the one it writes to and the one it reads; that
    of a weight without a removable channel is infinite.
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
    """A channel's share for every weight; a linear layer may read several pixels of a channel."""
    shares = share.repeat_interleave(weight.shape[dim] // len(share))
    return shares.view(-1, *[1] * (weight.ndim - 1 - dim)).expand_as(weight)


class _Trial:
    """A network run on one image, to see which layers read the channels of a batch norm.

    All its numbers are positive, so that a layer's input is 0 only where it has been silenced.
    """

    def __init__(self, network: Network) -> None:
        draws = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            self.module = network.module("cpu").eval()
        self.prunable = {layer.name for layer in network.layers}
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                drawn = 0.5 + torch.rand(tensor.shape, generator=draws)
                fan = 4 * tensor[0].numel() if tensor.ndim > 1 else 1  # numbers do not grow
                # A running mean below 0 makes a norm's output positive even where its input is 0.
                tensor.copy_(-drawn if name.endswith("running_mean") else drawn / fan)
        self.x = torch.rand(1, *network.input_shape, generator=draws)
        named = dict(self.module.named_modules())
        self.norms = {name: part for name, part in named.items() if isinstance(part, _NORMS)}
        self.weighted = {name: part for name, part in named.items() if isinstance(part, _WEIGHTED)}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.output = self._run({n: self._remember(n) for n in (*self.norms, *self.weighted)})

    def norm(self, name: str) -> Norm | None:
        """The weights that belong to a batch norm, if its channels can be removed.

        The norm and the layer before it are silenced: their outputs are 0. Each layer whose whole
        input is 0 then is a reader, and answers with the output that it had before. If the
        network's output is as before too, nothing but these readers has looked at the norm.
        """
        # The layer before a norm is the one whose output tensor the norm was called with.
        writers = [n for n in self.weighted if self.outputs.get(n) is self.inputs.get(name)]
        if not writers or f"{writers[0]}.weight" not in self.prunable:
            return None
        readers: list[str] = []
        hooks = {n: self._answer(n, readers) for n in self.weighted}
        silent = {name: _zeros, writers[0]: _zeros}
        same = torch.equal(self._run({**hooks, **silent}), self.output)
        grouped = any(getattr(self.weighted[n], "groups", 1) != 1 for n in (*readers, writers[0]))
        if not same or not readers or grouped:
            return None
        first, *rest = (f"{n}.weight" for n in (name, writers[0], *readers))
        return Norm(first, rest[0], tuple(rest[1:]))

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = inputs[0], output

        return hook

    def _answer(self, name: str, readers: list[str]) -> Any:
        """A hook that notes a layer whose input is 0, and gives it the output it had before."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if inputs[0].any():
                return None
            readers.append(name)
            return self.outputs[name]

        return hook

    @torch.no_grad()
    def _run(self, hooks: dict[str, Any]) -> Tensor:
        parts = {**self.norms, **self.weighted}
        handles = [parts[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            return self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()


def _zeros(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)
