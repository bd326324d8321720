"""`Transfer`: put a ticket that was found on one task on the network of another task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages.reset import Reset
from lt_sweeps.plan.stages.stage import Stage


@dataclass(frozen=True, eq=False)
class Transfer(Stage):
    """Put the mask of a ticket on another task's network, whose own head is never pruned.

    Args:
        onto: the network of the other task, with its weights.
        found: the ticket that gives the mask.
        body: the ticket that gives all weights except the head; None keeps those of `onto`.
        shuffled: move the kept positions at random within each layer, as a control.
    """

    onto: Stage
    found: Reset
    body: Reset | None = None
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_head(self.onto.network, self.found.network)
        super().__post_init__()

    @cached_property
    def level(self) -> int:
        return self.found.level

    @property
    def target_sparsity(self) -> float | None:
        return self.found.target_sparsity

    @property
    def granularity(self) -> str | None:
        return None if self.shuffled else self.found.granularity

    @property
    def resolution(self) -> int | None:
        return self.found.resolution

    @property
    def step(self) -> int:
        return self.onto.step

    def fields(self) -> dict[str, Any]:
        return {"body": self.body is not None, "shuffled": self.shuffled}

    def __str__(self) -> str:
        mask = "a mask of as many weights" if self.shuffled else "the mask"
        return f"transfer {mask}" + (", with the weights" if self.body else "")


def check_head(here: Network, there: Network) -> None:
    """Raises: ValueError: the networks differ in more than the head, or the head is prunable."""
    head = here.head
    bodies = [
        {
            name: tensor.shape
            for name, tensor in state_of(network.module()).items()
            if not _lies_in(name, head)
        }
        for network in (here, there)
    ]
    if bodies[0] != bodies[1]:
        raise ValueError(
            f"method.source: {there.net} on images of {list(there.input_shape)} and on those of "
            f"{list(here.input_shape)} differs in more than its last linear layer; a ticket "
            "transfers between data sets of one image shape"
        )
    if head is not None and f"{head}.weight" in {layer.name for layer in here.layers}:
        raise ValueError(
            f"model.prunable: {head}.weight is the head, which a transfer replaces by a new one; "
            f"exclude it (model.prunable.exclude=[{head}.weight])"
        )


def body_of(network: Network) -> tuple[str, ...]:
    """The parameters and buffers outside the head, which networks of two tasks have in common."""
    return tuple(n for n in state_of(network.module()) if not _lies_in(n, network.head))


def _lies_in(name: str, module: str | None) -> bool:
    return module is not None and name.startswith(f"{module}.")
