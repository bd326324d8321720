"""The base of all stages, and `Init`, which every chain of stages begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest, identity_of
from lt_sweeps.models.network import Network
from lt_sweeps.sparsity.sparsifiers import FIXED, Sparsifier

if TYPE_CHECKING:
    from lt_sweeps.plan.stages.work import Work

NUMERICS = 1
"""The version of all code that computes numbers. A change that changes a number raises it.

It is in every stage key, so that no result survives a change of the code that made it;
tests/plan/test_numerics.py fails when results change and this does not. Where it is certain that
one kind of stage alone has changed, raise that stage's own `version` instead.
"""

Moment = int | str
"""When within a training: a step, or `start`, `end`, `best` (lowest validation loss)."""

Snapshot = tuple["Init | Work", Moment]
"""The weights of a network at a moment of its training."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The base of all stages; equal by key.

    Code that needs a fact of a stage asks one of these properties; it does not ask for its class.
    """

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        # Each of these asks the inputs. Worked out now, while the inputs know theirs, because a
        # plan of a hundred levels would otherwise recurse through all of them.
        _ = self.network, self.level, self.depth, self.key

    @cached_property
    def key(self) -> str:
        """What the stage's results are stored under."""
        content = {
            "kind": type(self).__name__,
            **identity_of(type(self)),
            "numerics": NUMERICS,
            "version": self.version,
            "fields": self.fields(),
            "inputs": [stage.key for stage in self.inputs],
        }
        return digest(content)

    @cached_property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages that it is made from, its fields in order; the first has its network."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(value for value in values if isinstance(value, Stage))

    @cached_property
    def network(self) -> Network:
        """The network that its tickets are of."""
        return self.inputs[0].network

    @cached_property
    def level(self) -> int:
        """How many times the network has been pruned to get here."""
        return self.inputs[0].level if self.inputs else 0

    @cached_property
    def depth(self) -> int:
        """How many pieces of work have to be done one after another to get here."""
        return max((stage.depth for stage in self.inputs), default=0)

    @property
    def step(self) -> int:
        """The step of the recipe that the ticket is at."""
        return 0

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The moments of earlier trainings that it is computed from."""
        return ()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The functions of criteria, resets and the like that it calls."""
        return ()

    @property
    def target_sparsity(self) -> float | None:
        """The sparsity that a schedule asked for last, on the way here."""
        return self.inputs[0].target_sparsity if self.inputs else None

    @property
    def granularity(self) -> str | None:
        """What was pruned whole, as `target_sparsity`; None for single weights."""
        return self.inputs[0].granularity if self.inputs else None

    @property
    def resolution(self) -> int | None:
        """By how many weights whole groups may miss `target_sparsity`; None for single weights."""
        return self.inputs[0].resolution if self.inputs else None

    @property
    def has_logits(self) -> bool:
        """Whether its tickets hold the logits of a learned mask."""
        return False

    @property
    def has_momentum(self) -> bool:
        """Whether its tickets hold the optimizer's moments, for the training after it."""
        return False

    @property
    def continues(self) -> bool:
        """Whether the training after it goes on with weights that a training ended with."""
        return False

    @property
    def mask_within(self) -> Stage | None:
        """The stage in whose mask its own lies; None where it may keep any weight."""
        return None

    @property
    def frees(self) -> bool:
        """Whether pruned weights train with the others after it, from 0."""
        return False

    def fields(self) -> dict[str, Any]:
        """What counts in the key beside the inputs."""
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class Init(Stage):
    """Draw the initial weights of a network.

    It can be asked what a training can, so that an untrained network is pruned and reset like a
    trained one.
    """

    model: Network
    training: ClassVar[None] = None
    sparsifier: ClassVar[Sparsifier] = FIXED

    @cached_property
    def network(self) -> Network:
        return self.model

    @property
    def trained(self) -> Init:
        """Itself: a reset may start from a network that nothing was pruned of."""
        return self

    def moment(self, time: str, *, where: str) -> Moment:
        """The only moment of a network that is not trained.

        Raises:
            ValueError: `time` is a later one.
        """
        if time != "start" and not time.startswith("0"):
            raise ValueError(f"{where}: {time} of a network that is not trained; give 0it")
        return "start"

    def must_save(self, moment: Moment) -> bool:
        """No: it is drawn again wherever it is needed."""
        return False

    def fields(self) -> dict[str, Any]:
        return self.model.identity()

    def __str__(self) -> str:
        return f"init    {self.model.net}"


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
            waiting.extend((before, False) for before in current.inputs if before.key not in seen)
