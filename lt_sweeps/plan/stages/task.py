"""`Task` and `Training`: the data set to train on, and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lt_sweeps.config.call import Call, digest
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.data import Dataset

Changes = Mapping[str, Any] | Literal["same"]
"""The keys of a recipe in which a training differs."""


@dataclass(frozen=True)
class Task:
    """A data set to train on. The folder that it lies in does not count in its identity."""

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
    call: Call | None = field(default=None, compare=False)  # the yaml that the recipe was made from

    @classmethod
    def of(cls, task: Task, config: Mapping[str, Any], *, where: str = "recipe") -> Training:
        """The training that a recipe yaml describes."""
        call = Call.of(config, where=where, supplied=("train_size",))
        return cls(task, call(train_size=task.dataset.train_size), call)

    def changed(self, keys: Changes, *, where: str) -> Training:
        """The same with other values for some keys of the recipe.

        Raises:
            ValueError: the recipe has no such key, or refuses the value.
        """
        return self.on(self.task, keys, where=where)

    def on(self, task: Task, keys: Changes, *, where: str) -> Training:
        """The same on another task, with other values for some keys; epochs count in its images."""
        assert self.call is not None, "a training made without a recipe yaml"
        changes = {} if keys == "same" else keys
        config = {"_target_": self.call.target, **self.call.args, **changes}
        return Training.of(task, config, where=where)

    def identity(self) -> dict[str, Any]:
        return {"task": self.task.identity(), "recipe": self.recipe.identity()}

    @cached_property
    def key(self) -> str:
        return digest(self.identity())
