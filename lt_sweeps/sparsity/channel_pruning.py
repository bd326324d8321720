"""Channels: which batch norms scale channels that can be taken out, and what is taken out then.

A channel can go if whatever it says is read by convolution and linear layers alone, and by them as
one of their inputs: not, that is, where it is added to another. What reads what is found by trying
it out, so any `nn.Module` will do.
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
    """A batch norm whose channels can go: its scale, the weights before it, the weights after."""

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
    """The batch norms whose channels can go, in the network's order."""
    trial = _Trial(network)
    found = (trial.norm(name) for name in trial.norms)
    return tuple(norm for norm in found if norm is not None)


def shares(network: Network, state: State) -> dict[str, Tensor]:
    """How large each weight's channel is among all that can go: `[1, *shape]` by layer.

    A channel's share is the fraction of them whose scale is smaller in magnitude, in [0, 1); that
    of a norm's largest, and of what belongs to no such channel, is infinite. A weight has the
    smaller one of the channel that it writes to and the one that it reads.
    """
    found = {layer.name: torch.full(layer.shape, _STAYS).double() for layer in network.layers}
    norms = slimmable(network)
    sizes = {norm.scale: state[norm.scale][0].double().abs() for norm in norms}
    ordered = torch.cat(list(sizes.values())).sort().values
    for norm in norms:
        share = torch.searchsorted(ordered, sizes[norm.scale]).double() / len(ordered)
        share[sizes[norm.scale].argmax()] = _STAYS
        for name, dim in ((norm.writer, 0), *((reader, 1) for reader in norm.readers)):
            if name in found:
                found[name] = torch.minimum(found[name], _along(share, found[name], dim))
    return {name: score[None] for name, score in found.items()}


def _along(share: Tensor, weight: Tensor, dim: int) -> Tensor:
    """A channel's share for every weight; a linear layer may read several pixels of a channel."""
    each = share.repeat_interleave(weight.shape[dim] // len(share))
    return each.view(-1, *[1] * (weight.ndim - 1 - dim)).expand_as(weight)


class _Trial:
    """A network whose every number is positive, so that nothing is 0 but what is made so."""

    def __init__(self, network: Network) -> None:
        draws = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            self.module = network.module("cpu").eval()
        self.prunable = {layer.name for layer in network.layers}
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                drawn = 0.5 + torch.rand(tensor.shape, generator=draws)
                fan = 4 * tensor[0].numel() if tensor.ndim > 1 else 1  # numbers do not grow
                # With its mean below 0 a norm passes on more than 0 even where nothing came in.
                tensor.copy_(-drawn if name.endswith("running_mean") else drawn / fan)
        self.x = torch.rand(1, *network.input_shape, generator=draws)
        named = dict(self.module.named_modules())
        self.norms = {name: part for name, part in named.items() if isinstance(part, _NORMS)}
        self.weighted = {name: part for name, part in named.items() if isinstance(part, _WEIGHTED)}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.whole = self._run({n: self._remember(n) for n in (*self.norms, *self.weighted)})

    def norm(self, name: str) -> Norm | None:
        """What belongs to a batch norm, if its channels can go."""
        writers = [n for n in self.weighted if self.outputs.get(n) is self.inputs.get(name)]
        if not writers or f"{writers[0]}.weight" not in self.prunable:
            return None
        readers: list[str] = []
        hooks = {n: self._answer(n, readers) for n in self.weighted}
        silent = {name: _nothing, writers[0]: _nothing}
        same = torch.equal(self._run({**hooks, **silent}), self.whole)
        grouped = any(getattr(self.weighted[n], "groups", 1) != 1 for n in (*readers, writers[0]))
        if not same or not readers or grouped:
            return None
        first, *rest = (f"{n}.weight" for n in (name, writers[0], *readers))
        return Norm(first, rest[0], tuple(rest[1:]))

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = given[0], output

        return hook

    def _answer(self, name: str, readers: list[str]) -> Any:
        """Notes who is given nothing, and has it answer as if it had been given all."""

        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if given[0].any():
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


def _nothing(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)
