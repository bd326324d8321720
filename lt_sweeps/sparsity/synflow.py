"""SynFlow: how much of what flows through a network goes through each weight (arXiv:2006.05467)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.network import Layer, Network
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.top_k import keep_top
from lt_sweeps.storage.ticket import State, Ticket

_PRUNED = -1.0  # below every flow


def flow(ticket: Ticket, network: Network, target: Target, seed: Seed, rounds: int) -> State:
    """|w dR/dw| of the network that `rounds` of pruning leave, by prunable layer: `[1, *shape]`.

    The rounds go down to the target by equal factors; the last is left to whoever ranks these
    scores. What an earlier round has pruned is below all else. No data is needed: R is the sum of
    the outputs for an image of ones, every weight being its absolute value and every bias 0.
    """
    state = {
        name: tensor[0].double().abs() * (not name.endswith("bias"))
        for name, tensor in ticket.state.items()
    }
    mask = {layer.name: ticket.mask[layer.name][0].clone() for layer in network.layers}
    whole = {name: int(kept.sum()) for name, kept in mask.items()}
    with torch.random.fork_rng(devices=[]):
        module = network.module("cpu").eval()
    for number in range(1, rounds):
        scores = _flow(module, state, mask, network)
        for group, keep in target.groups(network.layers):
            size = sum(whole[layer.name] for layer in group)
            count = round(size * (keep / size) ** (number / rounds))
            ties = generator(seed.role("noise"), "ties", "flow", number, group[0].name)
            _cut(mask, group, keep_top(_joined(scores, group), count, ties))
    return {name: scores[None] for name, scores in _flow(module, state, mask, network).items()}


def _flow(module: nn.Module, state: State, mask: State, network: Network) -> dict[str, Tensor]:
    weights = {name: (state[name] * kept).requires_grad_() for name, kept in mask.items()}
    ones = torch.ones(1, *network.input_shape, dtype=torch.float64)
    with torch.enable_grad():
        total = functional_call(module, {**state, **weights}, (ones,)).sum()
        grads = torch.autograd.grad(total, list(weights.values()))
    pairs = zip(weights.items(), grads, strict=True)
    scores = {name: (weight.detach() * grad).abs() for (name, weight), grad in pairs}
    return {name: torch.where(mask[name], score, _PRUNED) for name, score in scores.items()}


def _joined(scores: State, group: Sequence[Layer]) -> Tensor:
    return torch.cat([scores[layer.name].flatten() for layer in group])


def _cut(mask: dict[str, Tensor], group: Sequence[Layer], kept: Tensor) -> None:
    parts = kept.split([layer.size for layer in group])
    for layer, part in zip(group, parts, strict=True):
        mask[layer.name] &= part.view(layer.shape)
