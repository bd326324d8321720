"""`Stage`, the base of all stages, and `Init`, the first stage of every chain."""

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
"""The version of all code that computes numbers. Raise it with every change of a result.

The version is part of every stage key, so results of older code are never reused.
tests/plan/test_numerics.py fails if results change and this version does not. If it is certain that
only one kind of stage has changed, raise the `version` of that stage instead.
"""

Moment = int | str
"""A moment of a training: a step, or `start`, `end` or `best` (lowest validation loss)."""

Snapshot = tuple["Init | Work", Moment]
"""The weights of a network at a moment of its training."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The base of all stages. Stages with the same key are equal.

    Other code should read the properties below instead of testing the class of a stage.
    """

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        # Each of these reads the same property of the inputs. They are cached now, while those of
        # the inputs are cached: later, a plan of a hundred levels would recurse through all of it.
        _ = self.network, self.level, self.depth, self.key

    @cached_property
    def key(self) -> str:
        """The name under which the results of the stage are stored."""
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
        """The stages among the fields, in order; the network is that of the first."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(value for value in values if isinstance(value, Stage))

    @cached_property
    def network(self) -> Network:
        """The network of the stage's tickets."""
        return self.inputs[0].network

    @cached_property
    def level(self) -> int:
        """The number of prunings up to this stage; 0 is the dense network."""
        return self.inputs[0].level if self.inputs else 0

    @cached_property
    def depth(self) -> int:
        """The number of trainings that must run one after another to compute this stage."""
        return max((stage.depth for stage in self.inputs), default=0)

    @property
    def step(self) -> int:
        """The step of the recipe at which the stage's ticket is."""
        return 0

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots of earlier trainings that the stage is computed from."""
        return ()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The functions that the stage calls: criteria, resets and the like."""
        return ()

    @property
    def target_sparsity(self) -> float | None:
        """The sparsity that the latest pruning up to this stage aims for; None without a target."""
        return self.inputs[0].target_sparsity if self.inputs else None

    @property
    def granularity(self) -> str | None:
        """The groups that the latest pruning keeps or prunes whole; None: single weights."""
        return self.inputs[0].granularity if self.inputs else None

    @property
    def resolution(self) -> int | None:
        """The number of weights by which group pruning may miss its target; None: no groups."""
        return self.inputs[0].resolution if self.inputs else None

    @property
    def has_logits(self) -> bool:
        """Whether the stage's tickets hold the logits of a learned mask."""
        return False

    @property
    def has_momentum(self) -> bool:
        """Whether the stage's tickets hold optimizer moments for the next training."""
        return False

    @property
    def continues(self) -> bool:
        """Whether the next training continues with the final weights of an earlier one."""
        return False

    @property
    def mask_within(self) -> Stage | None:
        """The stage whose mask contains this stage's mask; None if any weight may be kept."""
        return None

    @property
    def frees(self) -> bool:
        """Whether the next training also trains the pruned weights, from 0."""
        return False

    def fields(self) -> dict[str, Any]:
        """The values that count in the key, in addition to the inputs."""
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class Init(Stage):
    """Draw the initial weights of a network.

    It has the same attributes as a training, so that an untrained network is pruned and reset like
    a trained one.
    """

    model: Network
    training: ClassVar[None] = None
    sparsifier: ClassVar[Sparsifier] = FIXED

    @cached_property
    def network(self) -> Network:
        return self.model

    @property
    def trained(self) -> Init:
        """The stage itself, because a reset may also start from an unpruned network."""
        return self

    def moment(self, time: str, *, where: str) -> Moment:
        """Return `start`, the only moment of a network that is not trained.

        Raises:
            ValueError: `time` is a later moment.
        """
        if time != "start" and not time.startswith("0"):
            raise ValueError(f"{where}: {time} of a network that is not trained; give 0it")
        return "start"

    def must_save(self, moment: Moment) -> bool:
        """Return False: the weights are drawn again wherever they are needed."""
        return False

    def fields(self) -> dict[str, Any]:
        return self.model.identity()

    def __str__(self) -> str:
        return f"init    {self.model.net}"


def ancestors(stage: Stage) -> Iterator[Stage]:
    """Yield a stage and all stages that it is made from, each once and after its inputs."""
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
