"""The base of all stages, and where every chain of them begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lt_sweeps.config.call import digest
from lt_sweeps.models.network import Network

Moment = int | str
"""When within a training: a step, or `start`, `end`, `best` (lowest validation loss)."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The base of all stages; equal by key."""

    version: ClassVar[int] = 1
    trains: ClassVar[bool] = False
    key: str = field(init=False, repr=False)
    depth: int = field(init=False, repr=False)  # trainings, one after another, up to here

    def __post_init__(self) -> None:
        deepest = max((stage.depth for stage in self.inputs), default=0)
        object.__setattr__(self, "depth", deepest + self.trains)
        content = {
            "kind": type(self).__name__,
            "version": self.version,
            "fields": self.fields(),
            "inputs": [stage.key for stage in self.inputs],
        }
        object.__setattr__(self, "key", digest(content))

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return ()

    @property
    def level(self) -> int:
        """How many times the network has been pruned to get here."""
        return self.inputs[0].level if self.inputs else 0

    @property
    def step(self) -> int:
        """The step of the recipe that the ticket is at."""
        return 0

    @property
    def has_logits(self) -> bool:
        """Whether its tickets hold the logits of a learned mask."""
        return False

    @property
    def frees(self) -> bool:
        """Whether pruned weights train with the others after it, from 0."""
        return False

    def fields(self) -> dict[str, Any]:
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class Init(Stage):
    """Draw the initial weights."""

    network: Network

    def fields(self) -> dict[str, Any]:
        return self.network.identity()

    def __str__(self) -> str:
        return f"init    {self.network.net}"


def ancestors(stage: Stage) -> Iterator[Stage]:
    """The stage and everything it is made from, each once, the inputs first."""
    seen: set[str] = set()
    waiting: list[tuple[Stage, bool]] = [(stage, False)]
    while waiting:
        current, expanded = waiting.pop()
        if current.key in seen:
            continue
        if expanded:
            seen.add(current.key)
            yield current
        else:
            waiting.append((current, True))
            waiting.extend((each, False) for each in current.inputs if each.key not in seen)


def network_of(stage: Stage) -> Network:
    """The network that a stage's tickets are of: a stage's first input has the same."""
    while not isinstance(stage, Init):
        stage = stage.inputs[0]
    return stage.network
