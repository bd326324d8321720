"""`Ticket` and `Mask`: a subnetwork at a moment of training.

Legend, here and everywhere: R replicates, B examples of a batch, K classes, N images, P weights.
Every tensor of a ticket is `[R, ...]`; the dense network is the ticket whose mask is all True.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Mask = Mapping[str, Tensor]
"""Which prunable weights are kept: bool `[R, *shape]` by parameter name."""

State = Mapping[str, Tensor]
"""Weights and buffers by their `state_dict` names: `[R, *shape]`."""


@dataclass(frozen=True)
class Ticket:
    """A subnetwork at a moment of training.

    A pruned weight holds the value it is pinned to in `state`. `optimizer` is empty unless the
    ticket is a snapshot within a training: then its moments continue from there. `learned` holds
    the logits of a mask that is trained, by layer, and is empty where the mask is not.
    """

    state: State
    mask: Mask
    step: int = 0
    optimizer: State = field(default_factory=dict)
    learned: State = field(default_factory=dict)

    def __getitem__(self, replicate: int) -> Ticket:
        row = slice(replicate, replicate + 1)
        return self._each(lambda tensor: tensor[row])

    def _each(self, change) -> Ticket:
        return replace(
            self,
            state={name: change(t) for name, t in self.state.items()},
            mask={name: change(t) for name, t in self.mask.items()},
            optimizer={name: change(t) for name, t in self.optimizer.items()},
            learned={name: change(t) for name, t in self.learned.items()},
        )


def stack(tickets: Sequence[Ticket]) -> Ticket:
    """One ticket of all replicates of `tickets`, which must be at the same step."""
    first = tickets[0]
    assert all(ticket.step == first.step for ticket in tickets), "tickets at different steps"
    return Ticket(
        state=_cat([ticket.state for ticket in tickets]),
        mask=_cat([ticket.mask for ticket in tickets]),
        step=first.step,
        optimizer=_cat([ticket.optimizer for ticket in tickets]),
        learned=_cat([ticket.learned for ticket in tickets]),
    )


def remaining(mask: Mask) -> dict[str, Tensor]:
    """Weights kept in each layer, per replicate: `[R]`."""
    return {name: kept.flatten(1).sum(1) for name, kept in mask.items()}


def sparsity(mask: Mask) -> Tensor:
    """Fraction of prunable weights pruned, per replicate: `[R]` in [0, 1)."""
    total = sum(kept[0].numel() for kept in mask.values())
    kept = torch.stack(list(remaining(mask).values())).sum(0)
    return 1 - kept.double() / total


def _cat(named: Sequence[State]) -> dict[str, Tensor]:
    assert all(each.keys() == named[0].keys() for each in named), "tickets of different tensors"
    return {name: torch.cat([each[name] for each in named]) for name in named[0]}
