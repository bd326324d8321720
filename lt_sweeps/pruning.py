"""Pruning: scores become masks, kept weights restart, pruned weights are pinned.

Everything here is one replicate's: the stack comes later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.call import Call
from lt_sweeps.network import Layer
from lt_sweeps.schedules import Target
from lt_sweeps.seeds import Seed, generator
from lt_sweeps.ticket import Mask, State, Ticket


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

    Args:
        evidence: snapshots by the name that the criterion calls them; noise is drawn here.
    """
    noise = seed.role("noise")
    scores = {
        layer.name: criterion(
            **{name: state[layer.name][0] for name, state in evidence.items()},
            **_drawn(criterion, noise, level, layer),
        )
        for layer in layers
    }
    if all(score.dtype == torch.bool for score in scores.values()):
        return {name: kept[name] & score[None] for name, score in scores.items()}
    left = {layer.name: scores[layer.name][kept[layer.name][0]] for layer in layers}
    if target.scope == "global":
        ties = generator(noise, "ties", level)
        chosen = keep_top(torch.cat(list(left.values())), target.keep[0], ties)
        stays = dict(zip(left, chosen.split([len(s) for s in left.values()]), strict=True))
    else:
        stays = {
            name: keep_top(score, count, generator(noise, "ties", level, name))
            for (name, score), count in zip(left.items(), target.keep, strict=True)
        }
    return {name: _shrink(kept[name], stays[name]) for name in stays}


def keep_top(scores: Tensor, count: int, ties: torch.Generator) -> Tensor:
    """Which of `scores` `[n]` are the `count` highest: bool `[n]`, exactly `min(count, n)` True.

    Equal scores at the boundary are chosen among at random; NaN is the lowest score of all.
    """
    if count >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    boundary = scores.kthvalue(len(scores) - count + 1).values
    keep = scores > boundary
    tied = (scores == boundary).nonzero().squeeze(1)
    need = count - int(keep.sum())
    # The order of ties is drawn only where it decides something: it hardly ever does.
    keep[tied if need == len(tied) else tied[torch.randperm(len(tied), generator=ties)[:need]]] = (
        True
    )
    return keep


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
) -> Ticket:
    """The ticket that the next training starts from.

    Kept weights take the reset's value. A weight pruned now is pinned to the freeze's value; one
    pruned before keeps the value that it was pinned to then. All that is not prunable is `base`'s.
    """
    noise = seed.role("noise")
    state = dict(base.state)
    for layer in layers:
        name = layer.name
        given = {key: snapshot[name][0] for key, snapshot in evidence.items()}
        given["kept"] = mask[name][0]
        on = reset(**given, **_drawn(reset, noise, level, layer, "reset"))
        off = freeze(**given, **_drawn(freeze, noise, level, layer, "freeze"))
        pinned = torch.where(trained.mask[name], off[None], trained.state[name])
        state[name] = torch.where(mask[name], on[None], pinned)
    return Ticket(state, mask, step, base.optimizer)


def _drawn(
    call: Call, seed: int, level: int, layer: Layer, purpose: str = "criterion"
) -> dict[str, Any]:
    """Uniform noise in [0, 1) for a function that asks for it."""
    if "noise" not in call.names:
        return {}
    return {"noise": torch.rand(layer.shape, generator=generator(seed, purpose, level, layer.name))}


def _shrink(kept: Tensor, stays: Tensor) -> Tensor:
    """`kept` `[1, *shape]`, less those of its True entries that do not stay."""
    mask = kept.clone()
    mask[kept] = stays
    return mask
