"""`Ticket` and `Mask`: a subnetwork at a moment of training.

Legend for all modules: R replicates, B examples of a batch, K classes, N images, P weights.
Every tensor of a ticket is `[R, ...]`; the dense network is the ticket whose mask is all True.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Mask = Mapping[str, Tensor]
"""Which prunable weights are kept: bool `[R, *shape]` by parameter name."""

LOGITS = "logits/"
"""Prefix of the optimizer moments of a learned mask's logits, next to those of the weights."""

State = Mapping[str, Tensor]
"""Weights and buffers by their `state_dict` names: `[R, *shape]`."""


_PARTS = ("state", "mask", "optimizer", "learned")  # fields of a ticket that hold tensors by name


@dataclass(frozen=True)
class Ticket:
    """A subnetwork at a moment of training.

    In `state`, a pruned weight has the value that it is frozen at. `optimizer` holds the
    optimizer's state if the ticket is a snapshot within a training, which can continue from there;
    otherwise it is empty. `learned` holds the logits of a trained mask by layer; it is empty if the
    mask is not trained. `notes` say what a reader of a result must know about how its mask was
    made; they belong to one replicate, so a stack has none.
    """

    state: State
    mask: Mask
    step: int = 0
    optimizer: State = field(default_factory=dict)
    learned: State = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, replicate: int) -> Ticket:
        row = slice(replicate, replicate + 1)
        return self._map(lambda tensor: tensor[row])

    def on_host(self) -> Ticket:
        """Return a copy in main memory, which no training changes."""
        return self._map(lambda tensor: tensor.detach().to("cpu", copy=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Ticket:
        parts = {part: getattr(self, part).items() for part in _PARTS}
        return replace(self, **{part: {n: change(t) for n, t in parts[part]} for part in parts})


def stack(tickets: Sequence[Ticket]) -> Ticket:
    """Return one ticket with the replicates of all `tickets`, which must be at the same step."""
    first = tickets[0]
    assert all(ticket.step == first.step for ticket in tickets), "tickets at different steps"
    parts = {part: _cat([getattr(ticket, part) for ticket in tickets]) for part in _PARTS}
    return replace(first, **parts, notes=())


def remaining(mask: Mask) -> dict[str, Tensor]:
    """Return the number of weights kept in each layer, per replicate: `[R]`."""
    return {name: kept.flatten(1).sum(1) for name, kept in mask.items()}


def sparsity(mask: Mask) -> Tensor:
    """Fraction of prunable weights pruned, per replicate: `[R]` in [0, 1)."""
    total = sum(kept[0].numel() for kept in mask.values())
    kept = torch.stack(list(remaining(mask).values())).sum(0)
    return 1 - kept.double() / total


def _cat(states: Sequence[State]) -> dict[str, Tensor]:
    assert all(state.keys() == states[0].keys() for state in states), "tensors differ in name"
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}
