"""What to train on, and how."""

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
    call: Call | None = field(default=None, compare=False)  # what the recipe was made by

    @classmethod
    def of(cls, task: Task, config: Mapping[str, Any], *, where: str = "recipe") -> Training:
        """The training that a recipe yaml describes."""
        call = Call.of(config, where=where, supplied=("train_size",))
        return cls(task, call(train_size=task.dataset.train_size), call)

    def changed(self, keys: Changes, *, where: str) -> Training:
        """The same but for some keys of the recipe, times in epochs among them.

        Raises:
            ValueError: a key that the recipe has not, or a value that it refuses.
        """
        return self.on(self.task, keys, where=where)

    def on(self, task: Task, keys: Changes, *, where: str) -> Training:
        """The same on another task, but for some keys."""
        assert self.call is not None, "a training that no recipe was made for"
        given = {} if keys == "same" else keys
        config = {"_target_": self.call.target, **self.call.args, **given}
        return Training.of(task, config, where=where)

    def identity(self) -> dict[str, Any]:
        return {"task": self.task.identity(), "recipe": self.recipe.identity()}

    @cached_property
    def key(self) -> str:
        return digest(self.identity())
