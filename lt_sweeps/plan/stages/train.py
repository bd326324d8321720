"""Trainings, and what is worked out on data without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from lt_sweeps.config.call import digest, nearest
from lt_sweeps.config.durations import steps
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages.stage import Moment, Stage, network_of
from lt_sweeps.plan.stages.task import Training
from lt_sweeps.sparsity.sparsifiers import FIXED, Sparsifier


@dataclass(frozen=True, eq=False)
class Train(Stage):
    """Train a ticket from its step to the end of the recipe, its mask fixed or in the hands of a
    sparsifier."""

    trains: ClassVar[bool] = True
    start: Stage
    training: Training
    sparsifier: Sparsifier = FIXED
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        prunes = self.sparsifier.prunes or self.sparsifier.learns
        object.__setattr__(self, "_level", self.start.level + prunes)
        if self.sparsifier.learns != self.start.has_logits:
            raise ValueError(
                f"method: {self.sparsifier} on {self.start}; a learned mask goes on from logits, "
                "and nothing else does"
            )
        if self.start.frees and self.sparsifier.holds:
            raise ValueError(
                f"method: {self.sparsifier} holds pruned weights, which are to train after "
                f"{self.start}; that goes with method=imp and one_shot"
            )
        if self.length < 1 and not isinstance(self, Evaluate):
            raise ValueError(
                f"method: a training from step {self.start.step} of a recipe of {self.step} steps; "
                "nothing would be left to train"
            )
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
    def length(self) -> int:
        """Optimizer steps that it takes."""
        return self.step - self.start.step

    @property
    def has_logits(self) -> bool:
        return self.sparsifier.learns

    @property
    def network(self) -> Network:
        return network_of(self.start)

    @property
    def group(self) -> tuple[str, ...]:
        """What trainings have in common that can be stacked, beside their net and their step."""
        kind = digest(self.sparsifier.identity()) if self.sparsifier != FIXED else ""
        return (type(self).__name__, str(self.depth), self.training.key, kind)

    def fields(self) -> dict[str, Any]:
        acts = self.sparsifier != FIXED
        return {
            **self.training.identity(),
            **({"sparsifier": self.sparsifier.identity()} if acts else {}),
        }

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
        acts = f", {self.sparsifier}" if self.sparsifier != FIXED else ""
        return (
            f"train   {self.training.task.call}, {recipe.optimizer} lr {recipe.lr:g}, "
            f"steps {self.start.step} to {recipe.length}{acts}"
        )


@dataclass(frozen=True, eq=False)
class Evaluate(Train):
    """Score a ticket as it is: a training of no steps.

    Batch-norm statistics are estimated anew from `statistics` training batches, where there are
    any: those of another mask, or of another moment, say nothing of this one.
    """

    statistics: int = 200

    @property
    def step(self) -> int:
        return self.start.step

    @property
    def group(self) -> tuple[str, ...]:
        return (*super().group, str(self.statistics))

    def fields(self) -> dict[str, Any]:
        # Of the recipe it is only the batches that count, and only for these statistics.
        batches = self.network.normalised and {"batch_size": self.training.recipe.batch_size}
        return {
            "task": self.training.task.identity(),
            "statistics": batches and {**batches, "batches": self.statistics},
            **({"sparsifier": self.sparsifier.identity()} if self.sparsifier.learns else {}),
        }

    def __str__(self) -> str:
        return f"score   {self.training.task.call}"


@dataclass(frozen=True, eq=False)
class Search(Evaluate):
    """Find a mask by trying masks out, without a step of training; its ticket has that mask."""

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "sparsifier": self.sparsifier.identity()}

    def __str__(self) -> str:
        return f"search  {self.training.task.call}, {self.sparsifier}"
