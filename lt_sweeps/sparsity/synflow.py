"""SynFlow: how much of a network's output flows through each weight (arXiv:2006.05467)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.functional import picked, plain_attention
from lt_sweeps.models.module_state import is_bias
from lt_sweeps.models.network import Network
from lt_sweeps.sparsity.competition import competitions
from lt_sweeps.sparsity.pruning import checked_evidence
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.weight_groups import Groups
from lt_sweeps.storage.ticket import State, Ticket

_PRUNED = -1.0  # the score of a pruned weight: below every flow


def flow(
    ticket: Ticket,
    network: Network,
    target: Target,
    seed: Seed,
    rounds: int,
    groups: Groups | None = None,
) -> State:
    """|w dR/dw|, by prunable layer: `[1, *shape]`.

    R is the sum of the outputs for an image of ones, with every weight replaced by its absolute
    value and every bias by 0, so no data is needed. The density falls to the target by equal
    factors in `rounds` rounds. All rounds but the last prune in this function; a weight pruned here
    scores below all others. The last round is the level's own pruning, by the returned scores.
    """
    state = {
        name: tensor[0].double().abs() * (not is_bias(name))
        for name, tensor in ticket.state.items()
    }
    layers = network.layers
    mask = {layer.name: ticket.mask[layer.name] for layer in layers}
    sizes = {name: int(kept.sum()) for name, kept in mask.items()}
    with torch.random.fork_rng(devices=[]):
        module = network.module("cpu").double().eval()
    for number in range(1, rounds):
        scores = checked_evidence("flow", _flow(module, state, mask, network), ticket)
        for last in competitions(target, layers, groups):
            size = sum(sizes[name] for name in last.names)
            now = replace(last, count=round(size * (last.count / size) ** (number / rounds)))
            ties = generator(seed.role("noise"), "ties", "flow", number, now.names[0])
            stays = now.keep_top(now.left(scores, mask), mask, ties)
            mask |= now.mask_of(stays, mask)
    return checked_evidence("flow", _flow(module, state, mask, network), ticket)


def _flow(module: nn.Module, state: State, mask: State, network: Network) -> dict[str, Tensor]:
    kept = {name: state[name] * mask[name][0] if name in mask else state[name] for name in state}
    module.load_state_dict(kept, strict=False)  # a tied weight has one name in `kept`
    parameters = dict(module.named_parameters())
    weights = {name: parameters[name] for name in mask}
    ones = torch.ones(1, *network.input_shape, dtype=torch.float64)
    with torch.enable_grad(), plain_attention():
        grads = torch.autograd.grad(picked(module(ones)).sum(), list(weights.values()))
    pairs = zip(weights.items(), grads, strict=True)
    scores = {name: (weight.detach() * grad).abs() for (name, weight), grad in pairs}
    return {name: torch.where(mask[name], score, _PRUNED) for name, score in scores.items()}
