"""The training after a search: which weights start under the mask that was found.

Protocol `prune` continues with the final weights of the search. Protocol `ticket` puts the mask on
early weights and trains them again (arXiv:1912.04427, section 4). Every method has `prune`. A
ticket needs a mask that is binary by itself: any other changes the magnitude of the weights.
"""

from __future__ import annotations

from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Changes, Evaluate, Prune, Reset, Train, Training, Work
from lt_sweeps.sparsity.evidence import Criterion, logits, reset

Protocol = Literal["prune", "ticket"]


def reset_by(name: str, **arguments: Any) -> Call:
    """Return a reset by its name, for a method that chooses it itself."""
    return reset({"_target_": f"lt_sweeps.sparsity.resets.{name}", **arguments}, "method")


def criterion_by(name: str, **arguments: Any) -> Criterion:
    """Return a criterion by its name, for a method that chooses it itself."""
    return Criterion.of({"_target_": f"lt_sweeps.sparsity.criteria.{name}", **arguments})


def logits_by(name: str, **arguments: Any) -> Call:
    """Return initial logits by their name, for a method that chooses them itself."""
    return logits(f"lt_sweeps.sparsity.mask_logits.{name}", **arguments)


HARD = criterion_by("hard")
KEEP = reset_by("keep")
LEARNED = reset_by("learned")
ZERO = Call("lt_sweeps.sparsity.freezes.zero")


def start_of(protocol: Protocol, *, kept: Call, to: str, restart: bool) -> Call:
    """Return the reset for kept weights: `kept`, or for a ticket a rewind to the time `to`.

    With `restart`, a ticket's training starts the recipe again instead of continuing from `to`.
    """
    return kept if protocol == "prune" else reset_by("rewind", to=to, restart=restart)


def finetuned(
    mask: Prune | Work,
    recipe: Training,
    finetune: Changes | None,
    *,
    start: Call = KEEP,
    origin: Train | None = None,
) -> Work:
    """Train the weights that a mask keeps.

    Args:
        mask: a pruning, or the work that ended with the mask.
        finetune: the keys of the recipe that this training changes; None only scores the network,
            with re-estimated batch-norm statistics.
        start: the reset for kept weights.
        origin: the run whose early weights a ticket gets; None for the run that was pruned.
    """
    begun = Reset(mask, start, ZERO, origin=origin or mask.trained)
    if finetune is None:
        return Evaluate(begun, recipe)
    return Train(begun, recipe.changed(finetune, where="method.finetune"))


def refuse_ticket(protocol: Protocol, method: str, *, because: str) -> None:
    """Raises: ValueError: the protocol is `ticket`, and the method cannot search for tickets."""
    if protocol == "ticket":
        raise ValueError(
            f"method: protocol=ticket; {method} cannot search for tickets, because {because}; "
            "use protocol=prune"
        )
