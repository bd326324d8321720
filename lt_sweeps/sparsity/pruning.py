"""Pruning: scores become masks, kept weights restart, pruned weights are pinned.

Tensors are those of one replicate, `[1, *shape]`: tickets are stacked only for a training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.top_k import keep_top
from lt_sweeps.storage.ticket import Mask, State, Ticket


def prune(
    kept: Mask,
    target: Target,
    criterion: Call,
    evidence: Mapping[str, State],
    *,
    layers: Sequence[Layer],
    seed: Seed,
    level: int,
) -> Mask:
    """The mask that keeps the highest scores of what `kept` keeps: exactly the target's counts.

    The criterion sees the weights that compete, as one vector: those that are left in a layer, or
    in all layers if the scope is global. So a rank is a rank among them.

    Args:
        evidence: snapshots by the name that the criterion calls them; noise is drawn here.
    """
    noise = seed.role("noise")
    mask: dict[str, Tensor] = {}
    for group, count in target.groups(layers):
        names = [layer.name for layer in group]
        left = {
            name: torch.cat([state[n][kept[n]] for n in names]) for name, state in evidence.items()
        }
        if "noise" in criterion.names:
            drawn = [_uniform(la, noise, "criterion", level)[kept[la.name][0]] for la in group]
            left["noise"] = torch.cat(drawn)
        score = criterion(**left)
        ties = generator(noise, "ties", level, *(names if target.scope == "layer" else ()))
        stays = score if score.dtype == torch.bool else keep_top(score, count, ties)
        sizes = [int(kept[name].sum()) for name in names]
        for name, part in zip(names, stays.split(sizes), strict=True):
            mask[name] = kept[name].masked_scatter(kept[name], part)
    return mask


def restart(
    mask: Mask,
    trained: Ticket,
    reset: Call,
    freeze: Call,
    evidence: Mapping[str, State],
    *,
    base: Ticket,
    step: int,
    layers: Sequence[Layer],
    seed: Seed,
    level: int,
    holds: bool = True,
) -> Ticket:
    """The ticket that the next training starts from.

    Kept weights take the reset's value. A weight pruned now is pinned to the freeze's value; one
    pruned before keeps the value that it was pinned to then, if it was held there and the freeze is
    not one of `pinned_too`. All that is not prunable is `base`'s.

    Args:
        evidence: what resets and freezes may name, `init` among it, `[1, *shape]` by layer.
    """
    held = trained.mask if holds else {n: torch.ones_like(kept) for n, kept in mask.items()}
    evidence = {**evidence, "kept": mask, "cut": {n: held[n] & ~kept for n, kept in mask.items()}}
    initial = initial_weights(reset, freeze, evidence, layers=layers, seed=seed, level=level)
    state, anew = dict(base.state), bool(freeze.bound().get("pinned_too"))
    for layer in layers:
        off = _call(freeze, evidence, layer, seed, level, "freeze")
        pinned = torch.where(held[layer.name] | anew, off[None], trained.state[layer.name])
        state[layer.name] = torch.where(mask[layer.name], initial[layer.name], pinned)
    return Ticket(state, mask, step, base.optimizer, trained.learned)


def initial_weights(
    reset: Call,
    freeze: Call,
    evidence: Mapping[str, State],
    *,
    layers: Sequence[Layer],
    seed: Seed,
    level: int,
) -> dict[str, Tensor]:
    """What the initial weights become in a reset, pruned ones included: `[1, *shape]` by layer."""
    if freeze.bound().get("kept_too"):
        off = {la.name: _call(freeze, evidence, la, seed, level, "freeze")[None] for la in layers}
        init, kept = evidence["init"], evidence["kept"]
        evidence = {**evidence, "init": {n: torch.where(kept[n], off[n], init[n]) for n in off}}
    return {la.name: _call(reset, evidence, la, seed, level, "reset")[None] for la in layers}


def _call(
    call: Call, evidence: Mapping[str, State], layer: Layer, seed: Seed, level: int, purpose: str
) -> Tensor:
    """A reset or freeze on one layer of one replicate."""
    named = {n: state[layer.name][0] for n, state in evidence.items() if n in call.names}
    if "noise" in call.names:
        named["noise"] = _uniform(layer, seed.role("noise"), purpose, level)
    return call(**named)


def _uniform(layer: Layer, seed: int, purpose: str, level: int) -> Tensor:
    """One number in [0, 1) per weight of a layer."""
    return torch.rand(layer.shape, generator=generator(seed, purpose, level, layer.name))
