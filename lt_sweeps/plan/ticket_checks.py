"""Check that a stored ticket agrees with its stage: its level, step, weights and mask.

A checksum shows that a file was not changed, and its header shows that it was not moved. The checks
here find a ticket that its stage cannot have written. Example: a ticket that was edited and given
new checksums keeps more weights than its level allows, or weights that its parent has pruned.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence

import torch

from lt_sweeps.config.call import Call
from lt_sweeps.config.file_version import version
from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages import Init, Moment, Prune, Reset, Stage, Work
from lt_sweeps.storage.checked_read import DamagedFile, say_unused
from lt_sweeps.storage.record import MEASURED
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_facts import TicketFacts

# The metrics in the header of every ticket, and those that a classification adds.
_WHENS = ("best", "end")
_CLASSES = {
    f"{when}_{name}" for when in _WHENS for name in ("val_accuracy", "test_accuracy", "one_class")
}
_METRICS = {"finite", "best_step", *(f"{when}_{name}" for when in _WHENS for name in MEASURED)}
_METRICS -= _CLASSES


def is_stored(
    stage: Work | Init, seed: Seed, moment: Moment, store: Store, *, thorough: bool = False
) -> bool:
    """Whether the store holds a correct ticket of a stage; a wrong ticket is reported.

    Only the header of the file is read, unless `thorough`.
    """
    if not thorough:
        return stored_facts(stage, seed, moment, store) is not None
    path = store.path(stage.key, seed, moment)
    if not os.path.lexists(path):
        return False
    if fault := ticket_fault(stage, seed, moment, store):
        say_unused(f"{path}: {fault}")
    return not fault


def stored_facts(
    stage: Work | Init, seed: Seed, moment: Moment, store: Store
) -> TicketFacts | None:
    """The facts of a stage's ticket if its header is correct; None if it is absent or wrong.

    A wrong ticket is reported.
    """
    facts = store.facts(stage.key, seed, moment)
    if facts is not None and (fault := header_fault(stage, moment, facts)):
        say_unused(f"{store.path(stage.key, seed, moment)}: {fault}")
        return None
    return facts


def header_fault(stage: Work | Init, moment: Moment, facts: TicketFacts) -> str:
    """The first difference between a ticket's header and its stage, in words; empty if none."""
    steps = {"end": stage.step, "best": stage.step, "start": _first_step(stage)}
    expected = {"level": stage.level, "step": steps.get(str(moment), moment)}
    if isinstance(stage, Work):
        expected["precision"] = stage.training.precision
        expected["layers_total"] = {layer.name: layer.size for layer in stage.network.layers}
    measured = _METRICS if facts.metrics.get("metric") else _METRICS | _CLASSES
    if isinstance(stage, Work) and moment == "end" and not facts.metrics.keys() >= measured:
        return "without its metrics"
    for name, value in expected.items():
        if getattr(facts, name) != value:
            return f"{name} {getattr(facts, name)} where its stage has {value}"
    left = sum(facts.layers_remaining.values())
    kept = stage.sparsifier.kept_at_end
    # A mask search keeps about the requested number; a training that prunes keeps exactly it.
    if kept not in (None, left) and moment == "end" and stage.step > _first_step(stage):
        return f"{left} weights where its training keeps {kept}"
    pruning, _ = mask_origin(stage)
    if pruning is not None and _states_count(pruning):
        for names, _, most in pruning.runs():
            if (left := sum(facts.layers_remaining[name] for name in names)) > most:
                return f"{left} weights of {', '.join(names)} where its level keeps {most}"
    return ""


def ticket_fault(stage: Work | Init, seed: Seed, moment: Moment, store: Store) -> str:
    """The first fault of a stored ticket, empty if none; reads all of it and of its parent."""
    _, parent = mask_origin(stage)
    paths = [store.path(stage.key, seed, moment)]
    paths += [] if parent is None else [store.path(parent.key, seed)]
    return _fault(stage, seed, moment, store, tuple(map(version, paths)))


@functools.cache  # a dense run is the parent of many tickets
def _fault(
    stage: Work | Init, seed: Seed, moment: Moment, store: Store, seen: tuple[str | None, ...]
) -> str:
    try:
        ticket = _read(store, stage.key, seed, moment, seen[0])
    except FileNotFoundError:
        return "a link to a file that does not exist"
    except DamagedFile as error:
        return error.reason
    facts = store.facts(stage.key, seed, moment)
    assert facts is not None
    fault = header_fault(stage, moment, facts)
    parent = _parent(stage, seed, store, seen[-1])
    return fault or next(_faults(stage, facts, ticket, parent), "")


@functools.lru_cache(maxsize=3)  # a ticket, its parent, and the next ticket, whose parent it is
def _read(store: Store, key: str, seed: Seed, moment: Moment, seen: str | None) -> Ticket:
    return store.read(key, seed, moment)


def _faults(
    stage: Work | Init, facts: TicketFacts, ticket: Ticket, parent: Ticket | None
) -> Iterator[str]:
    """The contradictions between a ticket and its stage; callers read only the first."""
    if isinstance(stage, Work) and not stage.stores_ticket:
        return
    shapes = {n: (t.is_floating_point(), tuple(t.shape[1:])) for n, t in ticket.state.items()}
    if shapes != _shapes(stage.network):
        yield "its tensors are not those of its network"
    if {n: t.shape[1:] for n, t in ticket.mask.items()} != _prunable(stage.network):
        yield "its masks are not those of its network"
    floats = [tensor for tensor in ticket.state.values() if tensor.is_floating_point()]
    if facts.metrics.get("finite") and not all(t.isfinite().all() for t in floats):
        yield "weights that are NaN or infinite, though it has not diverged"
    pruning, _ = mask_origin(stage)
    if parent is not None:
        yield from _unlike_parent(stage, pruning, ticket, parent)


def _unlike_parent(
    stage: Work | Init, pruning: Prune | None, ticket: Ticket, parent: Ticket
) -> Iterator[str]:
    for name, kept in ticket.mask.items():
        if (kept & ~parent.mask[name]).any():
            yield f"it keeps weights of {name} that were pruned before"
    if pruning is None:
        if any((kept != parent.mask[name]).any() for name, kept in ticket.mask.items()):
            yield "its mask is not the one that it was trained with"
        return
    for names, least, most in pruning.runs() if _states_count(pruning) else ():
        left, before = (sum(int(m[n].sum()) for n in names) for m in (ticket.mask, parent.mask))
        if not min(least, before) <= left <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            yield f"it keeps {left} weights of {', '.join(names)}; its level keeps {count}"
    if pruning.groups is not None and (name := pruning.groups.split_layer(ticket.mask)):
        yield f"its mask splits a {pruning.groups.granularity.noun} of {name}"
    if _pins_to_zero(stage):
        for name, kept in ticket.mask.items():
            if ticket.state[name][parent.mask[name] & ~kept].any():
                yield f"pruned weights of {name} are not 0"


def _parent(stage: Work | Init, seed: Seed, store: Store, seen: str | None) -> Ticket | None:
    """The ticket whose mask must contain the stage's mask; None if it is absent or damaged."""
    _, parent = mask_origin(stage)
    try:
        return None if parent is None else _read(store, parent.key, seed, "end", seen)
    except (FileNotFoundError, DamagedFile):
        return None


@functools.cache
def mask_origin(stage: Stage) -> tuple[Prune | None, Work | Init | None]:
    """The pruning that made a stage's mask, and the stored ticket that it pruned."""
    pruning, current = None, stage.mask_within
    while current is not None:
        if isinstance(current, Init) or (isinstance(current, Work) and current.stores_ticket):
            return pruning, current
        pruning = current if isinstance(current, Prune) else pruning
        current = current.mask_within
    return pruning, None


def _first_step(stage: Work | Init) -> int:
    return stage.start.step if isinstance(stage, Work) else stage.step


def _states_count(pruning: Prune) -> bool:
    """Whether a pruning must keep the number of weights that its target states."""
    names = tuple(name for name, _ in pruning.criterion.evidence)
    return pruning.target_sparsity is not None and _scores_weights(pruning.criterion.call, names)


@functools.cache
def _scores_weights(criterion: Call, names: Sequence[str]) -> bool:
    """Whether a criterion scores weights; one that returns a mask may keep any number of them.

    Only a call shows which of the two it is. If the call with five weights fails, the answer is
    False, so the number of kept weights is not checked.
    """
    weights = torch.linspace(-1, 1, 5)
    evidence = {n: weights > 0 if n in ("keeps", "sampled") else weights for n in names}
    try:
        return criterion(**evidence).dtype != torch.bool
    except Exception:  # a user-defined criterion may raise anything
        return False


def _pins_to_zero(stage: Work | Init) -> bool:
    """Whether weights that are pruned before a training must be 0 after it."""
    if not (isinstance(stage, Work) and isinstance(stage.start, Reset)):
        return False
    zero = stage.start.freeze.target == "lt_sweeps.sparsity.freezes.zero"
    return zero and stage.sparsifier.holds


@functools.cache
def _shapes(network: Network) -> Mapping[str, tuple[bool, tuple[int, ...]]]:
    state = state_of(network.module())
    return {name: (t.is_floating_point(), tuple(t.shape)) for name, t in state.items()}


@functools.cache
def _prunable(network: Network) -> Mapping[str, tuple[int, ...]]:
    return {layer.name: tuple(layer.shape) for layer in network.layers}
