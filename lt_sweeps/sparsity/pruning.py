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
    """Keep the weights with the highest scores among those in `kept`: exactly the target's counts.

    With `groups`, whole groups are kept, by the mean of their scores; as many as come nearest to
    the counts. The criterion gets the weights that compete as one vector: the remaining weights of
    a layer, or of all layers if the scope is global. So a rank is a rank among these weights.

    Args:
        evidence: snapshots by the criterion's parameter names; noise is drawn here.
        say: called with a warning about the scores, such as that all of them are equal.

    Raises:
        ValueError: the scores cannot rank the weights (wrong shape or type, or not finite), or the
            target keeps more weights than are left.
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
                f"schedule: level {level} keeps {count} weights of {place}, and only {len(score)} "
                "are left"
            )
        else:
            stays = competition.keep_top(score, kept, ties)
        mask |= competition.mask_of(stays, kept)
    return mask


def checked_evidence(name: str, values: State, ticket: Ticket) -> State:
    """Return `values`, the evidence computed from a ticket, unchanged.

    Raises:
        ValueError: the evidence of an untrained ticket is not finite, though its weights are. A
            mask by such evidence would be random. Evidence of a trained ticket is not checked: if
            the training diverged, its records say so.
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

    Kept weights get the reset's value. A weight pruned now is pinned to the freeze's value. One
    pruned earlier keeps its pinned value if the training held it there (`holds`) and the freeze
    does not set `pinned_too`. Tensors that are not prunable come from `base`.

    Args:
        evidence: the evidence that resets and freezes may name, including `init`: `[1, *shape]` by
            layer.
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
    """The initial weights after a reset, pruned ones included: `[1, *shape]` by layer."""
    if freeze.bound().get("kept_too"):
        off = {la.name: _call(freeze, evidence, la, seed, level, "freeze")[None] for la in layers}
        init, kept = evidence["init"], evidence["kept"]
        evidence = {**evidence, "init": {n: torch.where(kept[n], off[n], init[n]) for n in off}}
    if reset.function is rewind:  # fast, because each level repeats all earlier ones
        return {layer.name: evidence["init"][layer.name] for layer in layers}
    return {la.name: _call(reset, evidence, la, seed, level, "reset")[None] for la in layers}


def _scored(criterion: Call, evidence: Mapping[str, Tensor], size: int, place: str) -> Tensor:
    """Compute and check the scores `[size]` of the weights that compete.

    Scores may be non-finite if the evidence is: the network diverged, and its records say so.
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
    """Apply a reset or freeze to one layer of one replicate."""
    named = {n: state[layer.name][0] for n, state in evidence.items() if n in call.names}
    if "noise" in call.names:
        named["noise"] = _uniform(layer, seed.role("noise"), purpose, level)

    def compute() -> dict[str, Tensor]:
        return {layer.name: call(**{name: values.clone() for name, values in named.items()})}

    return _computed(call, compute, f"{purpose}: `{call.target}`")[layer.name]


def _computed(
    call: Call, compute: Callable[[], Mapping[str, Tensor]], where: str
) -> Mapping[str, Tensor]:
    """Run `compute`; run a user-defined function twice, to check that it repeats its values."""
    if call.ours:  # a second call would double the time before a level, most of it for ranking
        with one_thread():
            return compute()
    return repeated(compute, where)


def _uniform(layer: Layer, seed: int, purpose: str, level: int) -> Tensor:
    """One number in [0, 1) per weight of a layer."""
    return torch.rand(layer.shape, generator=generator(seed, purpose, level, layer.name))
