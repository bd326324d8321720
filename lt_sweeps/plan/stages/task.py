"""`Task`: a data set and what to train for on it. `Training`: a recipe on a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import PRECISIONS, Precision
from lt_sweeps.config.quantities import check_name
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.users_mistakes import raised_in
from lt_sweeps.data import Dataset, content_hash
from lt_sweeps.data.kept_images import read_once
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, TaskKind
from lt_sweeps.storage.atomic_write import passes

Changes = Mapping[str, Any] | Literal["same"]
"""The keys of the recipe that a training changes, with their values; `same` changes none."""


@dataclass(frozen=True)
class Task:
    """A data set and what to train for on it. Its identity holds its content, not its path."""

    call: Call
    data_dir: str = "data"
    kind: TaskKind = CLASSIFICATION

    @cached_property
    def dataset(self) -> Dataset:
        """The data set; its images are read once per process if it is ours or has a fingerprint."""
        dataset = self._called()
        if not isinstance(dataset, Dataset):
            raise ValueError(
                f"dataset: `{self.call.target}` returned {type(dataset).__name__}; give a "
                "`lt_sweeps.data.Dataset`"
            )
        if not (self.call.ours or dataset.fingerprint):
            return dataset
        # The full name of the function, because `mylab.mnist.load` and `mylab.cifar.load` differ.
        name = f"{self.call.target} {self.call} {self.data_dir} {dataset.fingerprint}"
        return replace(dataset, load=partial(read_once, name, dataset.load))

    @property
    def metric_kinds(self) -> tuple[str, ...]:
        """The names of the metrics, the main metric first."""
        names = [metric.name for metric in self.kind.metrics]
        return (self.kind.main, *(name for name in names if name != self.kind.main))

    def identity(self) -> dict[str, Any]:
        fingerprint = _content(self) if self._by_content else self.dataset.fingerprint
        kind = {} if self.kind.is_default else {"kind": self.kind.identity()}
        return {**self.call.identity(files=False), "fingerprint": fingerprint, **kind}

    def prepare(self) -> None:
        """Download or decode the data, and check that they are the same at every call.

        Raises:
            ValueError: a user-defined function returned other images when it was called again.
        """
        self.dataset.prepare()
        if self._by_content and content_hash(self._called()) != _content(self):
            raise ValueError(
                f"dataset: `{self.call.target}` returned other images or labels when it was called "
                "again; draw with a generator that gets the same seed at every call"
            )

    def _called(self) -> Any:
        dataset = self._own(self.call, data_dir=self.data_dir)
        if self.call.ours or not isinstance(dataset, Dataset):
            return dataset
        load, prepare = (partial(self._own, each) for each in (dataset.load, dataset.prepare))
        return replace(dataset, load=load, prepare=prepare)

    def _own(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call a function of the data set. Raises: ValueError: it is user-defined, and failed."""
        try:
            return function(**arguments)
        except Exception as error:
            # A file system that is full or stale is waited for, and memory that is short is said.
            if passes(error) or isinstance(error, MemoryError) or not (told := raised_in(error)):
                raise
            named = [key for key, value in self.call.args.items() if _is_file(value, error)]
            key = ".".join(["dataset", *named[:1]])
            raise ValueError(f"{key}: {self.call} cannot be loaded: {told}") from error

    @property
    def _by_content(self) -> bool:
        """Whether the content identifies the data set: user-defined, without a fingerprint."""
        return not (self.call.ours or self.dataset.fingerprint)


def _is_file(value: Any, error: Exception) -> bool:
    """Whether an argument is the file that could not be read."""
    return isinstance(error, OSError) and error.filename is not None and error.filename == value


@cache
def _content(task: Task) -> str:
    """Hash the content of a data set. Cached: each cell needs the hash, and it loads the data."""
    return content_hash(task.dataset)


@dataclass(frozen=True)
class Training:
    """A recipe on a task, in a precision. Two trainings must share all three to be stacked.

    A training also evaluates in its own precision.
    """

    task: Task
    recipe: Recipe
    call: Call | None = None  # the yaml that the recipe was made from
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        self.task.kind.check_smoothing(self.recipe.label_smoothing)
        shape = tuple(self.task.dataset.input_shape)
        augment = self.recipe.augment
        if augment != "none" and len(shape) != 3:
            given = augment if isinstance(augment, str) else ", ".join(map(str, augment))
            raise ValueError(
                f"recipe.augment: got {given}, which is for images, and inputs of "
                f"`{self.task.call.target}` are {list(shape)}; give none"
            )
        check_name("precision", self.precision, PRECISIONS)

    @classmethod
    def of(
        cls,
        task: Task,
        config: Mapping[str, Any],
        *,
        where: str = "recipe",
        precision: Precision = "float32",
    ) -> Training:
        """Create the training that a recipe yaml describes."""
        call = Call.of(config, where=where, supplied=("train_size",))
        return cls(task, call(train_size=task.dataset.train_size), call, precision)

    def changed(self, keys: Changes, *, where: str) -> Training:
        """Return this training with other values for some keys of the recipe.

        Raises:
            ValueError: the recipe has no such key, or refuses a value.
        """
        return self.on(self.task, keys, where=where)

    def on(self, task: Task, keys: Changes, *, where: str) -> Training:
        """Return this training on another task, whose size sets its epochs, with keys changed."""
        assert self.call is not None, "a training made without a recipe yaml"
        changes = {} if keys == "same" else keys
        config = {"_target_": self.call.target, **self.call.args, **changes}
        return Training.of(task, config, where=where, precision=self.precision)

    def identity(self) -> dict[str, Any]:
        identity = {
            "task": self.task.identity(),
            "recipe": self.recipe.identity(),
            **self.arithmetic(),
        }
        if self.call is not None and not self.call.ours:  # it may do more than its fields say
            identity["call"] = self.call.identity()
        return identity

    def arithmetic(self) -> dict[str, str]:
        """The entry of the precision in an identity; none for float32."""
        return {} if self.precision == "float32" else {"precision": self.precision}

    @cached_property
    def key(self) -> str:
        return digest(self.identity())
