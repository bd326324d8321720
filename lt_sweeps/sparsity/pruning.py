"""Pruning: scores become masks, kept weights restart, pruned weights are pinned.

Tensors are those of one replicate, `[1, *shape]`: tickets are stacked only for a training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import Seed, generator, one_thread, repeated
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.competition import competitions
from lt_sweeps.sparsity.evidence import is_whole_mask
from lt_sweeps.sparsity.resets import rewind
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.weight_groups import Groups
from lt_sweeps.storage.ticket import Mask, State, Ticket

_log = logging.getLogger("lt_sweeps")


def prune(
    kept: Mask,
    target: Target,
    criterion: Call,
    evidence: Mapping[str, State],
    *,
    layers: Sequence[Layer],
    seed: Seed,
    level: int,
    groups: Groups | None = None,
    say: Callable[[str], None] = _log.warning,
) -> Mask:
    """The mask that keeps the highest scores of what `kept` keeps: exactly the target's counts.

    Of `groups` as many are kept as come nearest to the counts, by the mean of a group's scores.
    The criterion sees the weights that compete, as one vector: those that are left in a layer, or
    in all layers if the scope is global. So a rank is a rank among them.

    Args:
        evidence: snapshots by the name that the criterion calls them; noise is drawn here.
        say: called with what a reader of the result must know of the scores.

    Raises:
        ValueError: the scores do not say which weights stay, or fewer are left than must stay.
    """
    noise = seed.role("noise")
    mask: dict[str, Tensor] = {}
    for competition in competitions(target, layers, groups):
        names, count = competition.names, competition.count
        left = {name: competition.left(state, kept) for name, state in evidence.items()}
        if "noise" in criterion.names:
            drawn = {
                layer.name: _uniform(layer, noise, "criterion", level)[None]
                for layer in competition.layers
            }
            left["noise"] = competition.left(competition.shared(drawn), kept)
        size = sum(int(kept[name].sum()) for name in names)
        place = names[0] if len(names) == 1 else "all layers"
        score = _scored(criterion, left, size, place)
        ties = generator(noise, "ties", level, *(names if target.scope == "layer" else ()))
        if score.dtype != torch.bool and 0 < count < len(score) and (score == score[0]).all():
            say(
                f"mask_criterion: `{criterion.target}` gives all {len(score)} weights of {place} "
                f"one score, so {competition.winners} that stay are drawn at random"
            )
        if score.dtype == torch.bool:  # the mask itself
            stays = score
        elif groups is None and count > len(score):
            raise ValueError(
                f"schedule: level {level} keeps {count} weights of {place}; {len(score)} are left"
            )
        else:
            stays = competition.keep_top(score, kept, ties)
        mask |= competition.mask_of(stays, kept)
    return mask


def checked_evidence(name: str, values: State, ticket: Ticket) -> State:
    """Evidence that is computed from a ticket, as it is.

    Raises:
        ValueError: it overflows at the start of a training, from finite weights. A mask by it would
            be a random one. Where a training has diverged, its records say so.
    """
    if ticket.step:
        return values
    for layer, tensor in values.items():
        finite = tensor.isfinite()
        if not finite.all() and all(bool(t.isfinite().all()) for t in ticket.state.values()):
            raise ValueError(
                f"mask_criterion.{name}: not finite for {int((~finite).sum())} of the "
                f"{finite.numel()} weights of {layer}, though the network's weights are finite; "
                "each weight needs a number, so start from smaller weights"
            )
    return values


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
    if reset.function is rewind:  # at every level of a deep sweep, for every level before it
        return {layer.name: evidence["init"][layer.name] for layer in layers}
    return {la.name: _call(reset, evidence, la, seed, level, "reset")[None] for la in layers}


def _scored(criterion: Call, evidence: Mapping[str, Tensor], size: int, place: str) -> Tensor:
    """The scores `[size]` of the weights that compete, checked.

    Evidence that is not finite itself is that of a network that diverged, which its records say.
    """
    where = f"mask_criterion: `{criterion.target}`"
    for name, values in evidence.items():
        assert len(values) == size, name

    def compute() -> dict[str, Tensor]:
        return {place: criterion(**{name: values.clone() for name, values in evidence.items()})}

    score = _computed(criterion, compute, where)[place]
    if score.shape != (size,):
        raise ValueError(
            f"{where} gives scores of shape {list(score.shape)} for the {size} weights of {place}; "
            "a criterion gives each weight one number"
        )
    if score.is_complex() or (score.dtype == torch.bool) != is_whole_mask(criterion):
        raise ValueError(
            f"{where} gives {str(score.dtype).removeprefix('torch.')} scores for {place}; a score "
            "is a real number, and bools are the mask of a criterion marked by "
            "`lt_sweeps.sparsity.evidence.whole_mask`, which no schedule applies to"
        )
    finite = score.isfinite()
    if not finite.all() and all(bool(values.isfinite().all()) for values in evidence.values()):
        raise ValueError(
            f"{where} gives scores that are not finite for {int((~finite).sum())} of the {size} "
            f"weights of {place}, whose evidence is finite; the weights with the highest scores "
            "stay, so each needs a number"
        )
    return score


def _call(
    call: Call, evidence: Mapping[str, State], layer: Layer, seed: Seed, level: int, purpose: str
) -> Tensor:
    """A reset or freeze on one layer of one replicate."""
    named = {n: state[layer.name][0] for n, state in evidence.items() if n in call.names}
    if "noise" in call.names:
        named["noise"] = _uniform(layer, seed.role("noise"), purpose, level)

    def compute() -> dict[str, Tensor]:
        return {layer.name: call(**{name: values.clone() for name, values in named.items()})}

    return _computed(call, compute, f"{purpose}: `{call.target}`")[layer.name]


def _computed(
    call: Call, compute: Callable[[], Mapping[str, Tensor]], where: str
) -> Mapping[str, Tensor]:
    """What `compute` returns of a call; a function of the user's is checked by a second one."""
    if call.ours:  # a second call would double the start of a level, where ranks take most of it
        with one_thread():
            return compute()
    return repeated(compute, where)


def _uniform(layer: Layer, seed: int, purpose: str, level: int) -> Tensor:
    """One number in [0, 1) per weight of a layer."""
    return torch.rand(layer.shape, generator=generator(seed, purpose, level, layer.name))
