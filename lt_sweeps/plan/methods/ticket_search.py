"""Tickets: what becomes of a mask that a training found, and which masks are no ticket's.

To `prune` is to go on with the weights that the search ended with; a `ticket` is the mask on early
weights, trained again (arXiv:1912.04427, section 4). Every mask can prune; only one that is binary
by itself is a ticket's, for any other would change the magnitude of the weights it is put on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lt_sweeps.config.call import Call
from lt_sweeps.plan.methods.finetuning import KEEP, ZERO
from lt_sweeps.plan.stages import Changes, Evaluate, Prune, Reset, Train, Training, Work
from lt_sweeps.sparsity.evidence import Criterion, reset

Protocol = Literal["prune", "ticket"]
HARD = Criterion.of({"_target_": "lt_sweeps.sparsity.criteria.hard"})
LEARNED = reset({"_target_": "lt_sweeps.sparsity.resets.learned"})


@dataclass(frozen=True)
class AfterMask:
    """What happens to a mask that was found.

    Args:
        to: the early moment whose weights a ticket has.
        restart: whether a ticket's training begins the recipe anew, instead of going on from `to`.
        finetune: the keys of the recipe in which the training of what is kept differs; None only
            scores it, with batch-norm statistics estimated anew.
    """

    protocol: Protocol
    to: str
    restart: bool
    finetune: Changes | None

    def train(self, cut: Prune, recipe: Training, *, origin: Train, kept: Call = LEARNED) -> Work:
        """Train what a cut keeps: from `kept`, or a ticket from the early weights of `origin`."""
        early = {
            "_target_": "lt_sweeps.sparsity.resets.rewind",
            "to": self.to,
            "restart": self.restart,
        }
        start = kept if self.protocol == "prune" else reset(early, "method")
        begun = Reset(cut, start, ZERO, origin=origin)
        if self.finetune is None:
            return Evaluate(begun, recipe)
        return Train(begun, recipe.changed(self.finetune, where="method.finetune"))


def pruning(finetune: Changes | None) -> AfterMask:
    """Fine-tune what is kept."""
    return AfterMask("prune", "0it", False, finetune)


def refuse_ticket(protocol: Protocol, method: str, *, because: str) -> None:
    """Raises: ValueError: a ticket search by a method that has no ticket to give."""
    if protocol == "ticket":
        raise ValueError(
            f"method: protocol='ticket'; {method} finds no tickets, {because}; it takes 'prune'"
        )


__all__ = ["HARD", "KEEP", "LEARNED", "AfterMask", "Protocol", "pruning", "refuse_ticket"]
