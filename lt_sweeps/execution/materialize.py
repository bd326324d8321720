"""Compute the ticket of any stage from the stored tickets.

Initialisations, trainings and searches are stored. Prunings, resets and similar stages are quick
to compute from those, and are computed wherever their tickets are needed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, generator, one_thread, repeated
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.stages import (
    EXAMPLES,
    Evaluate,
    Init,
    Logits,
    Moment,
    Prune,
    Reset,
    Search,
    Snapshot,
    Stage,
    Train,
    Transfer,
    Work,
)
from lt_sweeps.plan.stages.transfer import body_of
from lt_sweeps.sparsity import pruning
from lt_sweeps.sparsity.channel_pruning import shares
from lt_sweeps.sparsity.evidence import LEARNED
from lt_sweeps.sparsity.sparsifiers import LearnedSparsifier
from lt_sweeps.sparsity.synflow import flow
from lt_sweeps.storage.atomic_write import set_aside
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.storage.ticket import LOGITS, Mask, State, Ticket
from lt_sweeps.training.gradients import gradient, hessian_gradient


class Missing(Exception):
    """A required ticket has not been computed, or was deleted."""


@functools.singledispatch
def ticket(stage: Stage, seed: Seed, store: Store) -> Ticket:
    """Return the ticket of `stage` for one seed, as one replicate.

    Each kind of stage has its own function below.

    Raises:
        Missing: the ticket depends on a training that is not stored.
    """
    raise NotImplementedError(stage)


def snapshot(stage: Work | Init, moment: Moment, seed: Seed, store: Store) -> Ticket:
    """Return the ticket at a moment of a training; the one at the start can always be recomputed.

    Raises:
        Missing: the snapshot is not stored, or its file is damaged.
    """
    if isinstance(stage, Init):
        return ticket(stage, seed, store)
    try:
        return store.read(stage.key, seed, moment)
    except FileNotFoundError:
        pass
    except CorruptTicket as error:
        if moment != "start":
            raise Missing(f"{stage.key}/{seed} at {moment}: {error.reason}") from error
    if moment == "start":
        return ticket(stage.start, seed, store)
    raise Missing(f"{stage.key}/{seed} at {moment}")


@ticket.register
def _(stage: Init, seed: Seed, store: Store) -> Ticket:
    with suppress(FileNotFoundError):
        try:
            return store.read(stage.key, seed)
        except CorruptTicket as error:
            set_aside(error.path, error.reason)  # it is drawn again
    initial = Ticket(_drawn(stage, seed), _all_kept(stage.network.layers))
    facts: dict[str, Any] = {"level": 0, "sparsity": 0.0}
    if stage.network.weights is not None and not stage.network.drawn:
        facts["same_for_seeds"] = True  # equal files of two seeds would look like a bad copy
    store.write(stage.key, seed, initial, facts)
    return initial


@ticket.register(Train)
@ticket.register(Search)
def _(stage: Train | Search, seed: Seed, store: Store) -> Ticket:
    return snapshot(stage, "end", seed, store)


@ticket.register
def _(stage: Evaluate, seed: Seed, store: Store) -> Ticket:
    return ticket(stage.start, seed, store)


@ticket.register
def _(stage: Logits, seed: Seed, store: Store) -> Ticket:
    start, layers = ticket(stage.start, seed, store), stage.network.layers
    masked = start if stage.mask is None else ticket(stage.mask, seed, store)
    learned = {}
    for number, layer in enumerate(layers):
        evidence = {"kept": masked.mask[layer.name][0]}
        if stage.start.has_logits:
            evidence["logits"] = start.learned[layer.name][0]
        if "noise" in stage.given.names:
            draws = generator(seed.role("noise"), "logits", stage.level, number)
            evidence["noise"] = torch.rand(layer.shape, generator=draws)
        given = functools.partial(_given, stage, layer.name, evidence)
        learned |= repeated(given, f"method: `{stage.given.target}`")
    optimizer: State = {}
    if stage.ended is not None:
        optimizer = snapshot(*stage.ended, seed, store).optimizer
    return Ticket(start.state, _all_kept(layers), 0, optimizer, learned, masked.notes)


def _given(stage: Logits, name: str, evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: stage.given(**evidence)[None]}


@ticket.register
@one_thread()
def _(stage: Prune, seed: Seed, store: Store) -> Ticket:
    trained = ticket(stage.trained, seed, store)
    evidence = {
        name: _evidence(name, source, stage, seed, store)
        for name, source in stage.evidence.items()
        if source is not None
    }
    notes: list[str] = []
    mask = pruning.prune(
        trained.mask,
        stage.target,
        stage.criterion.call,
        evidence,
        layers=stage.network.layers,
        seed=seed,
        level=stage.level,
        groups=stage.groups,
        say=notes.append,
    )
    return replace(trained, mask=mask, learned={}, notes=tuple(notes))


def _evidence(name: str, source: Snapshot, stage: Prune, seed: Seed, store: Store) -> State:
    """Return a criterion's evidence `name`: a snapshot's weights, or values computed from them."""
    at = snapshot(*source, seed, store)
    if name in LEARNED:
        return _mask_evidence(name, at, source[0], stage.level, seed)
    network, arguments = stage.network, stage.criterion.call.bound()
    examples = arguments.get("examples", EXAMPLES)
    if name == "grad":
        return gradient(at, network, stage.data, seed, examples)
    if name == "hessian_grad":
        temperature = arguments.get("temperature", 1.0)
        return hessian_gradient(at, network, stage.data, seed, examples, temperature)
    if name == "channel":
        return shares(network, at.state)
    if name == "flow":
        return flow(at, network, stage.target, seed, arguments.get("rounds", 1), stage.groups)
    return at.state


def _mask_evidence(name: str, at: Ticket, stage: Work | Init, level: int, seed: Seed) -> State:
    """Return a learned mask's `logits`, the weights that it `keeps`, or one `sampled` mask."""
    assert isinstance(stage.sparsifier, LearnedSparsifier)
    evidence = {}
    for layer in stage.network.layers:
        w, logits = at.state[layer.name], at.learned[layer.name]
        if name == "logits":
            evidence[layer.name] = logits.expand_as(w)
        elif name == "keeps":
            evidence[layer.name] = stage.sparsifier.keeps(w, logits)
        else:
            draws = generator(seed.role("noise"), "sampled", level, layer.name)
            noise = torch.rand(w.shape, generator=draws)
            evidence[layer.name] = stage.sparsifier.sampled(w, logits, noise)
    return evidence


@ticket.register
@one_thread()
def _(stage: Reset, seed: Seed, store: Store) -> Ticket:
    trained, base = ticket(stage.trained, seed, store), snapshot(*stage.base, seed, store)
    evidence = {
        "final": trained.state,
        **({} if stage.to is None else {"origin": base.state}),
        **_fresh(stage, stage.names, seed),
        "init": _initial(stage, seed, store),
    }
    if "masked" in stage.names:
        sparsifier = stage.trained.sparsifier
        assert isinstance(sparsifier, LearnedSparsifier)
        evidence["masked"] = {
            name: sparsifier.value(trained.state[name], logits)
            for name, logits in trained.learned.items()
        }
    pruned = ticket(stage.pruned, seed, store)
    start = pruning.restart(
        pruned.mask,
        trained,
        stage.reset,
        stage.freeze,
        evidence,
        base=replace(base, optimizer=_moments(base) if stage.has_momentum else {}),
        step=stage.step,
        layers=stage.network.layers,
        seed=seed,
        level=stage.level,
        holds=stage.trained.sparsifier.holds,
    )
    # Cutting a learned mask drops its logits, so that its ticket can be stacked with any other.
    start = replace(start, notes=pruned.notes)
    return start if stage.has_logits else replace(start, learned={})


def _moments(ticket: Ticket) -> State:
    """The optimizer's moments of the weights, without those of the mask's logits."""
    return {name: t for name, t in ticket.optimizer.items() if not name.startswith(LOGITS)}


# The initial weights of a later level. A reset returns initial weights for the whole layer, pruned
# weights included, and the reset of the next level starts from them. They are not stored, because
# a ticket holds initial weights only where its mask keeps a weight. So they are computed again from
# the dense run, by repeating every reset in between. Example: `reset=reshuffle` with three levels:
#
#   level 1   weights of the dense run at `to`, shuffled among the weights that mask 1 keeps
#   level 2   weights of level 1,               shuffled among the weights that mask 2 keeps
#   level 3   weights of level 2,               shuffled among the weights that mask 3 keeps
#
# For level 3, `_initial` reads the dense run, repeats the shuffle of level 1 with mask 1 (stored
# with the training of level 1) and then the shuffle of level 2 with mask 2. The shuffles come out
# the same, because their draws depend only on seed and level. `rewind` returns its `init`
# unchanged, so only the dense run is read. A reset that does not name `init` (`keep`, `redraw`)
# ignores all earlier resets, so the search for earlier resets ends there.
def _initial(stage: Reset, seed: Seed, store: Store) -> State:
    """The initial weights that a reset starts from, as returned by the resets before it."""
    # Each reset with the training that started from it, the latest first.
    resets: list[tuple[Reset, Stage]] = []
    later = stage
    while (before := later.before) is not None:
        resets.append((before, later.trained))
        if "init" not in before.reset.names:
            break
        later = before
    weights = snapshot(stage.origin, stage.to or "start", seed, store).state
    for reset, training in reversed(resets):
        weights = _repeated(reset, training, weights, seed, store)
    return weights


def _repeated(reset: Reset, training: Stage, init: State, seed: Seed, store: Store) -> State:
    """Repeat an earlier reset on the initial weights; read only the tickets that it names."""
    names = {*reset.reset.names}
    if reset.freeze.bound().get("kept_too"):
        names |= {*reset.freeze.names, "kept"}
    evidence: dict[str, State] = {"init": init, **_fresh(reset, names, seed)}
    if "final" in names:
        evidence["final"] = ticket(reset.trained, seed, store).state
    if "origin" in names:
        evidence["origin"] = snapshot(*reset.base, seed, store).state
    if names & {"kept", "cut"}:
        kept, held = (ticket(at, seed, store).mask for at in (training, reset.trained))
        evidence |= {"kept": kept, "cut": {name: held[name] & ~kept[name] for name in kept}}
    layers, level = reset.network.layers, reset.level
    return pruning.initial_weights(
        reset.reset, reset.freeze, evidence, layers=layers, seed=seed, level=level
    )


def _fresh(stage: Reset, names: set[str], seed: Seed) -> Mapping[str, State]:
    """A second draw of the network's initial weights, if the reset names `fresh`."""
    return {"fresh": _drawn(stage, seed, "fresh", stage.level)} if "fresh" in names else {}


@ticket.register
def _(stage: Transfer, seed: Seed, store: Store) -> Ticket:
    state = dict(ticket(stage.onto, seed, store).state)
    if stage.body is not None:
        source = ticket(stage.body, seed, store).state
        state |= {name: source[name] for name in body_of(stage.network)}
    found = ticket(stage.found, seed, store)
    mask = dict(found.mask)
    for layer in stage.network.layers:
        if stage.shuffled:
            draws = generator(seed.role("noise"), "transfer", stage.level, layer.name)
            order = torch.randperm(layer.size, generator=draws)
            mask[layer.name] = mask[layer.name].flatten()[order].view(1, *layer.shape)
        state[layer.name] = torch.where(mask[layer.name], state[layer.name], 0.0)
    return Ticket(state, mask, stage.step, notes=found.notes)


def _drawn(stage: Stage, seed: Seed, *index: int | str) -> dict[str, Tensor]:
    """Draw the weights of a stage's network as one replicate; each `index` gives another draw."""
    drawn = stage.network.draw(seed, *index)
    return {name: tensor[None] for name, tensor in drawn.items()}


def _all_kept(layers: tuple[Layer, ...]) -> Mask:
    return {layer.name: torch.ones(1, *layer.shape, dtype=torch.bool) for layer in layers}
