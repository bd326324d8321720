"""After a search: what is trained with a mask that was found, and with which weights.

To `prune` is to go on with the weights that the search ended with; a `ticket` is the mask on early
weights, trained again (arXiv:1912.04427, section 4). Every method can prune. A ticket needs a mask
that is binary by itself, because any other would change the magnitude of the weights under it.
"""

from __future__ import annotations

from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages import Changes, Evaluate, Prune, Reset, Train, Training, Work
from lt_sweeps.sparsity.evidence import Criterion, logits, reset

Protocol = Literal["prune", "ticket"]


def reset_by(name: str, **arguments: Any) -> Call:
    """The reset of this name that a method chooses by itself."""
    return reset({"_target_": f"lt_sweeps.sparsity.resets.{name}", **arguments}, "method")


def criterion_by(name: str, **arguments: Any) -> Criterion:
    """The criterion of this name that a method chooses by itself."""
    return Criterion.of({"_target_": f"lt_sweeps.sparsity.criteria.{name}", **arguments})


def logits_by(name: str, **arguments: Any) -> Call:
    """The initial logits of this name that a method chooses by itself."""
    return logits(f"lt_sweeps.sparsity.mask_logits.{name}", **arguments)


HARD = criterion_by("hard")
KEEP = reset_by("keep")
LEARNED = reset_by("learned")
ZERO = Call("lt_sweeps.sparsity.freezes.zero")


def start_of(protocol: Protocol, *, kept: Call, to: str, restart: bool) -> Call:
    """What kept weights start from: `kept`, or in a ticket the early weights of time `to`.

    With `restart` the training of a ticket begins the recipe anew, instead of going on from `to`.
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
    """Train what a mask keeps.

    Args:
        mask: a cut, or the work that ended with the mask.
        finetune: the keys of the recipe in which this training differs; None only scores the
            network, with batch-norm statistics estimated anew.
        start: the reset that says what kept weights start from.
        origin: the run whose early weights a ticket has; None for the one that was pruned.
    """
    begun = Reset(mask, start, ZERO, origin=origin or mask.trained)
    if finetune is None:
        return Evaluate(begun, recipe)
    return Train(begun, recipe.changed(finetune, where="method.finetune"))


def refuse_ticket(protocol: Protocol, method: str, *, because: str) -> None:
    """Raises: ValueError: a ticket is asked of a method that cannot search for one."""
    if protocol == "ticket":
        raise ValueError(
            f"method: protocol=ticket; {method} cannot search for tickets, because {because}; "
            "use protocol=prune"
        )
