"""Resolve: the ticket of any stage, from what is stored.

Initialisations and trainings are stored; prunings and resets are quick functions of them and are
computed where they are needed.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lt_sweeps import pruning
from lt_sweeps.seeds import Seed
from lt_sweeps.stages import Init, Moment, Prune, Reset, Stage, Train
from lt_sweeps.store import CorruptTicket, Store
from lt_sweeps.ticket import Ticket


class Missing(Exception):
    """A training that is needed has not been computed, or not been kept."""


def ticket(stage: Stage, seed: Seed, store: Store) -> Ticket:
    """The ticket of `stage` for one seed, one replicate.

    Raises:
        Missing: it stands on a training that is not stored.
    """
    if isinstance(stage, Init):
        return _init(stage, seed, store)
    if isinstance(stage, Train):
        return snapshot(stage, "end", seed, store)
    if isinstance(stage, Prune):
        return _prune(stage, seed, store)
    assert isinstance(stage, Reset), stage
    return _reset(stage, seed, store)


def snapshot(stage: Train, moment: Moment, seed: Seed, store: Store) -> Ticket:
    """The ticket at a moment of a training; its start can always be made again."""
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
    mask = {
        layer.name: torch.ones(1, *layer.shape, dtype=torch.bool) for layer in stage.network.layers
    }
    drawn = Ticket(state, mask)
    store.write(stage.key, seed, drawn, {"level": 0, "sparsity": 0.0})
    return drawn


def _prune(stage: Prune, seed: Seed, store: Store) -> Ticket:
    trained = ticket(stage.trained, seed, store)
    evidence = {
        name: snapshot(*found, seed, store).state
        for name, found in stage.evidence
        if found is not None
    }
    mask = pruning.prune(
        trained.mask,
        stage.target,
        stage.criterion.call,
        evidence,
        layers=stage.trained.network.layers,
        seed=seed,
        level=stage.level,
    )
    return replace(trained, mask=mask)


def _reset(stage: Reset, seed: Seed, store: Store) -> Ticket:
    pruned = ticket(stage.pruned, seed, store)
    trained = ticket(stage.pruned.trained, seed, store)
    found = {
        name: snapshot(train, moment, seed, store)
        for name, (train, moment) in stage.evidence.items()
    }
    base = found["origin"] if "origin" in found else replace(trained, optimizer={})
    if not stage.reset.bound().get("momentum"):
        base = replace(base, optimizer={})
    return pruning.restart(
        pruned.mask,
        trained,
        stage.reset,
        stage.freeze,
        {name: each.state for name, each in found.items()},
        base=base,
        step=stage.step,
        layers=stage.pruned.trained.network.layers,
        seed=seed,
        level=stage.level,
    )
