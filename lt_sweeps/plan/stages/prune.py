"""Prunings: a mask, or what a learned one starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages.stage import Init, Moment, Stage
from lt_sweeps.plan.stages.task import Task
from lt_sweeps.plan.stages.train import Train
from lt_sweeps.sparsity.evidence import LEARNED, ON_DATA, UNTRAINED, Criterion
from lt_sweeps.sparsity.schedules import Target

EXAMPLES = 128
"""Training images that a gradient is computed on, where a criterion does not say."""


@dataclass(frozen=True, eq=False)
class Logits(Stage):
    """Give a network the logits that a learned mask starts from; all of its weights are kept.

    `given` is a function of one layer that names the evidence it needs: `kept` (the mask of
    `start`), `logits` (those it ended with), `noise`.
    """

    start: Stage
    given: Call

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.start,)

    @property
    def level(self) -> int:
        """The masks that were learned so far: one that it starts from is only a beginning."""
        return self.start.level if self.start.has_logits else 0

    @property
    def step(self) -> int:
        return 0

    @property
    def has_logits(self) -> bool:
        return True

    def fields(self) -> dict[str, Any]:
        return {"given": self.given.identity()}

    def __str__(self) -> str:
        return f"logits  {self.given}"


@dataclass(frozen=True, eq=False)
class Prune(Stage):
    """Score the weights that are left and keep as many as the target says.

    A network that has not been trained is pruned by what its start has; then `task` has the images
    of a gradient.
    """

    trained: Train | Init
    target: Target
    criterion: Criterion
    origin: Train | Init
    task: Task | None = None
    evidence: tuple[tuple[str, tuple[Train | Init, Moment] | None], ...] = field(
        init=False, repr=False
    )
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A learned mask counts as a level by itself: here it only becomes hard.
        object.__setattr__(self, "_level", self.trained.level + (not self.trained.has_logits))
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
        task = {}
        if self.task is not None and {*moments} & {*ON_DATA}:
            task = {"task": self.task.identity()}
        return {
            "target": self.target.identity(),
            "criterion": self.criterion.call.identity(),
            "evidence": moments,
            **task,
        }

    def _find(self, name: str, time: str | None) -> tuple[Train | Init, Moment] | None:
        where = f"mask_criterion.{name}"
        if time is None:
            return None
        if name in ON_DATA:
            self._check_examples()
        if time == "origin":
            return self.origin, "start"
        if isinstance(self.trained, Init):
            return self._untrained(name, time)
        learns = self.trained.sparsifier.learns
        if (name in LEARNED) != learns and name in (*LEARNED, *ON_DATA, "flow"):
            has = "learns a mask" if learns else "learns no mask"
            raise ValueError(
                f"{where}: `{self.criterion.call.target}` needs {name}, and the training that is "
                f"pruned {has}; a learned mask is cut by its logits, any other by the rest"
            )
        return self.trained, self.trained.moment(str(time), where=where)

    @property
    def data(self) -> Task:
        """The task whose images a gradient is of."""
        task = self.task if isinstance(self.origin, Init) else self.origin.training.task
        assert task is not None, "a gradient of a network that nothing was said to train on"
        return task

    def _check_examples(self) -> None:
        count = self.criterion.call.bound().get("examples", EXAMPLES)
        size = self.data.dataset.train_size
        if not 0 < count <= size:
            raise ValueError(
                f"mask_criterion: examples={count}; the training set has {size} images"
            )

    def _untrained(self, name: str, time: str) -> tuple[Train | Init, Moment]:
        if name not in UNTRAINED or time != "start":
            raise ValueError(
                f"mask_criterion.{name}: {time!r} of a network that is pruned before it is "
                f"trained; such a criterion can have {list(UNTRAINED)}, at start"
            )
        return self.trained, "start"

    def __str__(self) -> str:
        asked = self.target.sparsity
        to = "" if math.isnan(asked) else f", to sparsity {asked:.4f}"
        return f"prune   {self.criterion.call}{to}"
