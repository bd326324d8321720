"""Transfer: a ticket that was found on one task, on the network of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages import Reset, Stage, network_of


@dataclass(frozen=True, eq=False)
class Transfer(Stage):
    """Put a mask on another task's network, whose head stays its own and whole.

    Args:
        onto: that network's weights.
        found: the ticket whose mask it is.
        body: whose weights all but the head takes; None leaves those of `onto`.
        shuffled: the mask's places are drawn anew within each layer, a control.
    """

    onto: Stage
    found: Reset
    body: Reset | None = None
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_head(network_of(self.onto), network_of(self.found))
        super().__post_init__()

    @property
    def inputs(self) -> tuple[Stage, ...]:
        both = (self.onto, self.found)
        return both if self.body is None else (*both, self.body)

    @property
    def level(self) -> int:
        return self.found.level

    @property
    def step(self) -> int:
        return self.onto.step

    def fields(self) -> dict[str, Any]:
        return {"body": self.body is not None, "shuffled": self.shuffled}

    def __str__(self) -> str:
        mask = "a mask of as many weights" if self.shuffled else "the mask"
        return f"transfer {mask}" + (", with the weights" if self.body else "")


def check_head(here: Network, there: Network) -> None:
    """Raises: ValueError: two networks that do not differ in a head alone that is never pruned."""
    head = here.head
    shapes = [
        {name: tensor.shape for name, tensor in each.module().state_dict().items()}
        for each in (here, there)
    ]
    rest = [{k: v for k, v in each.items() if not _of(k, head)} for each in shapes]
    if rest[0] != rest[1]:
        raise ValueError(
            f"method.source: {there.net} on images of {list(there.input_shape)} and on those of "
            f"{list(here.input_shape)} differs in more than its last linear layer; a ticket "
            "transfers between data sets of one image shape"
        )
    if head is not None and f"{head}.weight" in {layer.name for layer in here.layers}:
        raise ValueError(
            f"model.prunable: {head}.weight is the head, which a transfer puts a new one in place "
            f"of; exclude it (model.prunable.exclude=[{head}.weight])"
        )


def body(network: Network) -> tuple[str, ...]:
    """What a network shares with that of another task: all of its state but the head."""
    return tuple(n for n in network.module().state_dict() if not _of(n, network.head))


def _of(name: str, module: str | None) -> bool:
    return module is not None and name.startswith(f"{module}.")
