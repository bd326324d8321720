"""After a search: what is trained with a mask that was found, and with which weights.

To `prune` is to go on with the weights that the search ended with; a `ticket` is the mask on early
weights, trained again (arXiv:1912.04427, section 4). Every method can prune. A ticket needs a mask
that is binary by itself, because any other would change the magnitude of the weights under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Changes, Evaluate, Prune, Reset, Train, Training, Work
from lt_sweeps.sparsity.evidence import Criterion, reset

Protocol = Literal["prune", "ticket"]


def reset_by(name: str, **arguments: Any) -> Call:
    """The reset of this name that a method chooses by itself."""
    return reset({"_target_": f"lt_sweeps.sparsity.resets.{name}", **arguments}, "method")


def criterion_by(name: str, **arguments: Any) -> Criterion:
    """The criterion of this name that a method chooses by itself."""
    return Criterion.of({"_target_": f"lt_sweeps.sparsity.criteria.{name}", **arguments})


HARD = criterion_by("hard")
KEEP = reset_by("keep")
LEARNED = reset_by("learned")
ZERO = Call("lt_sweeps.sparsity.freezes.zero")


@dataclass(frozen=True)
class AfterMask:
    """What is trained with a mask.

    Args:
        finetune: the keys of the recipe in which the training of what is kept differs; None only
            scores it, with batch-norm statistics estimated anew.
        to: the early moment whose weights a ticket has.
        restart: whether a ticket's training begins the recipe anew, instead of going on from `to`.
    """

    finetune: Changes | None
    protocol: Protocol = "prune"
    to: str = "0it"
    restart: bool = False

    def train(self, cut: Prune, recipe: Training, *, origin: Train, kept: Call = LEARNED) -> Work:
        """Train what a cut keeps: from `kept`, or a ticket from the early weights of `origin`."""
        early = reset_by("rewind", to=self.to, restart=self.restart)
        start = Reset(cut, kept if self.protocol == "prune" else early, ZERO, origin=origin)
        if self.finetune is None:
            return Evaluate(start, recipe)
        return Train(start, recipe.changed(self.finetune, where="method.finetune"))


def finetuned(mask: Prune | Work, recipe: Training, finetune: Changes) -> Train:
    """Train what a mask keeps, from where its weights are.

    Args:
        mask: a cut, or the work that ended with the mask.
        finetune: the keys of the recipe in which the fine-tuning differs.
    """
    start = Reset(mask, KEEP, ZERO, origin=mask.trained)
    return Train(start, recipe.changed(finetune, where="method.finetune"))


def refuse_ticket(protocol: Protocol, method: str, *, because: str) -> None:
    """Raises: ValueError: a ticket is asked of a method that cannot search for one."""
    if protocol == "ticket":
        raise ValueError(
            f"method: protocol=ticket; {method} cannot search for tickets, because {because}; "
            "use protocol=prune"
        )
