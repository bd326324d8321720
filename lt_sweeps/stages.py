"""Stages: what to do, and to which stages' tickets, as frozen values.

A stage's `key` is the hash of its kind, its version, its fields and its inputs' keys. Two stages
with one key compute the same thing, whoever asks. Seeds, device, stack size and paths are not in
it: they change speed, never what is drawn or computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from lt_sweeps.call import Call, digest, nearest
from lt_sweeps.datasets import Dataset
from lt_sweeps.evidence import Criterion
from lt_sweeps.network import Network
from lt_sweeps.recipes import Recipe
from lt_sweeps.schedules import Target
from lt_sweeps.times import steps

Moment = int | str
"""When within a training: a step, or `start`, `end`, `best` (lowest validation loss)."""


@dataclass(frozen=True)
class Task:
    """A data set to train on. Where it lies on disk is no part of what it is."""

    call: Call
    data_dir: str = field(default="data", compare=False)

    @cached_property
    def dataset(self) -> Dataset:
        return self.call(data_dir=self.data_dir)

    def identity(self) -> dict[str, Any]:
        return {**self.call.identity(), "fingerprint": self.dataset.fingerprint}


@dataclass(frozen=True)
class Training:
    """A recipe on a task: what two trainings must share to be stacked."""

    task: Task
    recipe: Recipe

    def identity(self) -> dict[str, Any]:
        return {"task": self.task.identity(), "recipe": self.recipe.identity()}

    @cached_property
    def key(self) -> str:
        return digest(self.identity())


@dataclass(frozen=True, eq=False)
class Stage:
    """The base of all stages; equal by key."""

    version: ClassVar[int] = 1
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, eq=False)
class Train(Stage):
    """Train a ticket from its step to the end of the recipe, its mask fixed."""

    start: Stage
    training: Training
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_level", self.start.level)
        super().__post_init__()

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.start,)

    @property
    def level(self) -> int:
        return self._level

    @property
    def step(self) -> int:
        return self.training.recipe.length

    @property
    def network(self) -> Network:
        return next(s.network for s in ancestors(self) if isinstance(s, Init))

    def fields(self) -> dict[str, Any]:
        return self.training.identity()

    def moment(self, time: str, *, where: str) -> Moment:
        """The moment that a person's `time` names within this training.

        Raises:
            ValueError: it is no time, or lies outside the training.
        """
        if time in ("start", "end", "best"):
            return time
        recipe = self.training.recipe
        if not time[:1].isdigit():
            named = ["start", "origin", "end", "best"]
            raise ValueError(
                f"{where}: {time!r} is no moment; give one of {named} or a time (`500it`, `2ep`)"
                + nearest(time, named)
            )
        step = steps(time, recipe.steps_per_epoch, where=where)
        first = self.start.step
        if not first <= step <= recipe.length:
            raise ValueError(
                f"{where}: {time} is step {step}, outside the training (steps {first} to "
                f"{recipe.length})"
            )
        return {first: "start", recipe.length: "end"}.get(step, step)

    def __str__(self) -> str:
        recipe = self.training.recipe
        return (
            f"train   {self.training.task.call}, {recipe.optimizer} lr {recipe.lr:g}, "
            f"steps {self.start.step} to {recipe.length}"
        )


@dataclass(frozen=True, eq=False)
class Prune(Stage):
    """Score the weights that are left and keep as many as the target says."""

    trained: Train
    target: Target
    criterion: Criterion
    origin: Train
    evidence: tuple[tuple[str, tuple[Train, Moment] | None], ...] = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_level", self.trained.level + 1)
        found = tuple((n, self._find(n, time)) for n, time in self.criterion.evidence)
        object.__setattr__(self, "evidence", found)
        super().__post_init__()

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.trained, self.origin)

    @property
    def level(self) -> int:
        return self._level

    @property
    def step(self) -> int:
        return self.trained.step

    def fields(self) -> dict[str, Any]:
        moments = {
            name: found and ["origin" if time == "origin" else "trained", found[1]]
            for (name, time), (_, found) in zip(self.criterion.evidence, self.evidence, strict=True)
        }
        return {
            "target": self.target.identity(),
            "criterion": self.criterion.call.identity(),
            "evidence": moments,
        }

    def _find(self, name: str, time: str | None) -> tuple[Train, Moment] | None:
        if time is None:
            return None
        if time == "origin":
            return self.origin, "start"
        return self.trained, self.trained.moment(str(time), where=f"mask_criterion.{name}")

    def __str__(self) -> str:
        return f"prune   {self.criterion.call}, to sparsity {self.target.sparsity:.4f}"


@dataclass(frozen=True, eq=False)
class Reset(Stage):
    """Put kept weights where they restart from and pin the pruned ones."""

    pruned: Prune
    reset: Call
    freeze: Call
    origin: Train
    to: Moment | None = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_level", self.pruned.level)
        time = self.reset.bound().get("to")
        if "origin" in self._names and time is None:
            raise ValueError(
                f"freeze: `{self.freeze.target}` names `origin`, which `{self.reset.target}` "
                "does not go back to; it has `init` and `final`"
            )
        to = None if time is None else self.origin.moment(time, where="reset.to")
        if to in ("end", "best"):
            raise ValueError(
                f"reset.to: {time} is the end of the training; nothing would be left to train"
                if to == "end"
                else "reset.to: `best` has no step to go on from; give a time (`500it`, `2ep`)"
            )
        object.__setattr__(self, "to", to)
        super().__post_init__()

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.pruned, self.origin)

    @property
    def level(self) -> int:
        return self._level

    @property
    def step(self) -> int:
        return self.to if isinstance(self.to, int) else 0

    @property
    def evidence(self) -> dict[str, tuple[Train, Moment]]:
        """Which snapshots the reset and the freeze need, by the name they call them."""
        names = self._names
        found: dict[str, tuple[Train, Moment]] = {"final": (self.pruned.trained, "end")}
        if self.to is not None:
            found["origin"] = (self.origin, self.to)
        if "init" in names:
            found["init"] = (self.pruned.trained, "start")
        return found

    @property
    def _names(self) -> set[str]:
        return {*self.reset.names, *self.freeze.names}

    def fields(self) -> dict[str, Any]:
        reset = self.reset.identity()
        if self.to is not None:
            reset["args"]["to"] = self.to
        return {"reset": reset, "freeze": self.freeze.identity()}

    def __str__(self) -> str:
        return f"reset   {self.reset}, {self.freeze}"


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
