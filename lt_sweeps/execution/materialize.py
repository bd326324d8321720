"""Resolve: the ticket of any stage, from what is stored.

Initialisations and trainings are stored; prunings, resets and the like are quick functions of them
and are computed where they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.network import Layer
from lt_sweeps.plan.stages import (
    EXAMPLES,
    Evaluate,
    Init,
    Logits,
    Moment,
    Prune,
    Reset,
    Search,
    Stage,
    Train,
    network_of,
)
from lt_sweeps.plan.stages.transfer import Transfer, body
from lt_sweeps.sparsity import pruning
from lt_sweeps.sparsity.channel_pruning import shares
from lt_sweeps.sparsity.evidence import LEARNED
from lt_sweeps.sparsity.sparsifiers import LearnedSparsifier
from lt_sweeps.sparsity.synflow import flow
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.storage.ticket import State, Ticket
from lt_sweeps.training.gradients import gradient, hessian_gradient


class Missing(Exception):
    """A training that is needed has not been computed, or not been kept."""


def ticket(stage: Stage, seed: Seed, store: Store) -> Ticket:
    """The ticket of `stage` for one seed, one replicate.

    Raises:
        Missing: it stands on a training that is not stored.
    """
    if isinstance(stage, Init):
        return _init(stage, seed, store)
    if isinstance(stage, Evaluate) and not isinstance(stage, Search):
        return ticket(stage.start, seed, store)
    if isinstance(stage, Train):
        return snapshot(stage, "end", seed, store)
    if isinstance(stage, Logits):
        return _logits(stage, seed, store)
    if isinstance(stage, Prune):
        return _prune(stage, seed, store)
    if isinstance(stage, Transfer):
        return _transfer(stage, seed, store)
    assert isinstance(stage, Reset), stage
    return _reset(stage, seed, store)


def snapshot(stage: Train | Init, moment: Moment, seed: Seed, store: Store) -> Ticket:
    """The ticket at a moment of a training; its start can always be made again."""
    if isinstance(stage, Init):
        return _init(stage, seed, store)
    if store.has(stage.key, seed, moment):
        try:
            return store.read(stage.key, seed, moment)
        except CorruptTicket as error:
            if moment != "start":
                raise Missing(f"{stage.key}/{seed} at {moment}: {error}") from error
    if moment == "start":
        return ticket(stage.start, seed, store)
    raise Missing(f"{stage.key}/{seed} at {moment}")


def _init(stage: Init, seed: Seed, store: Store) -> Ticket:
    if store.has(stage.key, seed):
        try:
            return store.read(stage.key, seed)
        except CorruptTicket:
            pass  # it has been set aside; draw it again
    state = {name: tensor[None] for name, tensor in stage.network.draw(seed).items()}
    drawn = Ticket(state, _whole(stage.network.layers))
    store.write(stage.key, seed, drawn, {"level": 0, "sparsity": 0.0})
    return drawn


def _logits(stage: Logits, seed: Seed, store: Store) -> Ticket:
    start = ticket(stage.start, seed, store)
    learned = {}
    for number, layer in enumerate(network_of(stage).layers):
        given: dict[str, Any] = {"kept": start.mask[layer.name][0]}
        if stage.start.has_logits:
            given["logits"] = start.learned[layer.name][0]
        if "noise" in stage.given.names:
            drawn = generator(seed.role("noise"), "logits", stage.level, number)
            given["noise"] = torch.rand(layer.shape, generator=drawn)
        learned[layer.name] = stage.given(**given)[None]
    return Ticket(start.state, _whole(network_of(stage).layers), 0, learned=learned)


def _prune(stage: Prune, seed: Seed, store: Store) -> Ticket:
    trained = ticket(stage.trained, seed, store)
    evidence = {
        name: _evidence(name, found, stage, seed, store)
        for name, found in stage.evidence
        if found is not None
    }
    mask = pruning.prune(
        trained.mask,
        stage.target,
        stage.criterion.call,
        evidence,
        layers=network_of(stage).layers,
        seed=seed,
        level=stage.level,
    )
    return replace(trained, mask=mask, learned={})


def _evidence(
    name: str, found: tuple[Train | Init, Moment], stage: Prune, seed: Seed, store: Store
) -> State:
    at = snapshot(*found, seed, store)
    if name in LEARNED:
        return _learned(name, at, found[0], stage.level, seed)
    network, given = network_of(stage), stage.criterion.call.bound()
    examples = given.get("examples", EXAMPLES)
    if name == "grad":
        return gradient(at, network, stage.data, seed, examples)
    if name == "hessian_grad":
        temperature = given.get("temperature", 1.0)
        return hessian_gradient(at, network, stage.data, seed, examples, temperature)
    if name == "channel":
        return shares(network, at.state)
    if name == "flow":
        return flow(at, network, stage.target, seed, given.get("rounds", 1))
    return at.state


def _learned(name: str, at: Ticket, stage: Train | Init, level: int, seed: Seed) -> State:
    """What a learned mask says of each weight: its `logits`, whether it `keeps` it, one draw."""
    assert isinstance(stage, Train) and isinstance(stage.sparsifier, LearnedSparsifier)
    found = {}
    for layer in stage.network.layers:
        w, logits = at.state[layer.name], at.learned[layer.name]
        if name == "logits":
            found[layer.name] = logits.expand_as(w)
        elif name == "keeps":
            found[layer.name] = stage.sparsifier.keeps(w, logits)
        else:
            drawn = generator(seed.role("noise"), "sampled", level, layer.name)
            noise = torch.rand(w.shape, generator=drawn)
            found[layer.name] = stage.sparsifier.sampled(w, logits, noise)
    return found


def _reset(stage: Reset, seed: Seed, store: Store) -> Ticket:
    trained = ticket(stage.trained, seed, store)
    found = {n: snapshot(*where, seed, store) for n, where in stage.evidence.items()}
    momentum = stage.reset.bound().get("momentum")
    base = found.get("origin", found["final"] if momentum else trained)
    base = base if momentum else replace(base, optimizer={})
    evidence = {name: each.state for name, each in found.items()}
    if "masked" in stage.reset.names:
        evidence["masked"] = _values(stage.trained, trained)
    start = pruning.restart(
        ticket(stage.pruned, seed, store).mask,
        trained,
        stage.reset,
        stage.freeze,
        {**evidence, **_fresh(stage, seed), "init": _initial(stage, seed, store)},
        base=base,
        step=stage.step,
        layers=network_of(stage).layers,
        seed=seed,
        level=stage.level,
        holds=not isinstance(stage.trained, Train) or stage.trained.sparsifier.holds,
    )
    # Of a mask that has been cut no logits are left, and its ticket stacks with any other.
    return start if stage.has_logits else replace(start, learned={})


def _values(stage: Train | Init, trained: Ticket) -> State:
    """What a learned mask made of the weights, where it is kept."""
    assert isinstance(stage, Train) and isinstance(stage.sparsifier, LearnedSparsifier)
    state, learned = trained.state, trained.learned
    return {name: stage.sparsifier.value(state[name], logits) for name, logits in learned.items()}


def _transfer(stage: Transfer, seed: Seed, store: Store) -> Ticket:
    network, state = network_of(stage), dict(ticket(stage.onto, seed, store).state)
    if stage.body is not None:
        there = ticket(stage.body, seed, store).state
        state |= {name: there[name] for name in body(network)}
    mask = dict(ticket(stage.found, seed, store).mask)
    for layer in network.layers:
        if stage.shuffled:
            drawn = generator(seed.role("noise"), "transfer", stage.level, layer.name)
            order = torch.randperm(layer.size, generator=drawn)
            mask[layer.name] = mask[layer.name].flatten()[order].view(1, *layer.shape)
        state[layer.name] = torch.where(mask[layer.name], state[layer.name], 0.0)
    return Ticket(state, mask, stage.step)


def _initial(stage: Reset, seed: Seed, store: Store) -> State:
    """The initial weights that a reset begins with: those that the resets before it left.

    Most resets leave them as they are, so only what one names is read.
    """
    earlier: list[tuple[Reset, Train]] = []
    trained = stage.trained
    while isinstance(trained, Train) and isinstance(trained.start, Reset):
        earlier.append((trained.start, trained))
        if "init" not in trained.start.reset.names:
            break  # what came before it does not count any more
        trained = trained.start.trained
    weights = snapshot(stage.origin, stage.to or "start", seed, store).state
    for reset, after in reversed(earlier):
        weights = _left_by(reset, after, weights, seed, store)
    return weights


def _left_by(reset: Reset, after: Train, init: State, seed: Seed, store: Store) -> State:
    """What an earlier reset made of the initial weights; `after` is the training that it began."""
    named = {*reset.reset.names}
    if reset.freeze.bound().get("kept_too"):
        named |= {*reset.freeze.names, "kept"}
    evidence: dict[str, State] = {"init": init, **_fresh(reset, seed)}
    for name, where in reset.evidence.items():
        if name in named:
            evidence[name] = snapshot(*where, seed, store).state
    if named & {"kept", "cut"}:
        kept, before = (ticket(each, seed, store).mask for each in (after, reset.trained))
        evidence |= {"kept": kept, "cut": {n: before[n] & ~kept[n] for n in kept}}
    layers, level = network_of(reset).layers, reset.level
    return pruning.initial_weights(
        reset.reset, reset.freeze, evidence, layers=layers, seed=seed, level=level
    )


def _fresh(stage: Reset, seed: Seed) -> Mapping[str, State]:
    """Another draw of the network, where a reset asks for one."""
    if "fresh" not in {*stage.reset.names, *stage.freeze.names}:
        return {}
    drawn = network_of(stage).draw(seed, "fresh", stage.level)
    return {"fresh": {name: tensor[None] for name, tensor in drawn.items()}}


def _whole(layers: tuple[Layer, ...]) -> dict[str, Tensor]:
    return {layer.name: torch.ones(1, *layer.shape, dtype=torch.bool) for layer in layers}
