"""Stages: what to do, and to which stages' tickets, as frozen values.

A stage's `key` is the hash of its kind, its version, its fields and its inputs' keys. Two stages
with one key compute the same thing, whoever asks. Seeds, device, stack size and paths are not in
it: they change speed, never what is drawn or computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from lt_sweeps.call import Call, digest, nearest
from lt_sweeps.datasets import Dataset
from lt_sweeps.evidence import LEARNED, ON_DATA, UNTRAINED, Criterion
from lt_sweeps.network import Network
from lt_sweeps.recipes import Recipe
from lt_sweeps.schedules import Target
from lt_sweeps.sparsifiers import FIXED, Free, Sparsifier
from lt_sweeps.times import steps

EXAMPLES = 128
"""Training images that a gradient is computed on, where a criterion does not say."""

Changes = Mapping[str, Any] | Literal["same"]
"""The keys of a recipe in which a training differs."""

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
        if self.sparsifier.learns != has_logits(self.start):
            raise ValueError(
                f"method: {self.sparsifier} on {self.start}; a learned mask goes on from logits, "
                "and nothing else does"
            )
        if isinstance(self.start, Reset) and self.start.frees and self.sparsifier.holds:
            raise ValueError(
                f"reset: {self.start.reset} trains pruned weights, which this method holds; it "
                "goes with method=imp and one_shot"
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
        return self.start.level if has_logits(self.start) else 0

    @property
    def step(self) -> int:
        return 0

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
        object.__setattr__(self, "_level", self.trained.level + (not has_logits(self.trained)))
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


@dataclass(frozen=True, eq=False)
class Reset(Stage):
    """Put kept weights where they restart from and pin the pruned ones.

    `pruned` may also be a network that nothing was pruned of: then all of it is kept.
    """

    pruned: Prune | Train | Init
    reset: Call
    freeze: Call
    origin: Train | Init
    to: Moment | None = field(init=False, repr=False)
    at: int | None = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_level", self.pruned.level)
        time = self.reset.bound().get("to")
        if "origin" in self._names and time is None:
            raise ValueError(
                f"freeze: `{self.freeze.target}` names `origin`, which `{self.reset.target}` "
                "does not go back to; it has `init` and `final`"
            )
        to = None if time is None else self._moment(time)
        if to in ("end", "best"):
            raise ValueError(
                f"reset.to: {time} is the end of the training; nothing would be left to train"
                if to == "end"
                else "reset.to: `best` has no step to go on from; give a time (`500it`, `2ep`)"
            )
        if "masked" in self._names and not has_logits(self.trained):
            raise ValueError(
                f"reset: `{self.reset.target}` starts from what a learned mask made of weights, "
                "and no mask was learned; reset=keep starts from the weights"
            )
        if self.frees and self.freeze.target != "lt_sweeps.freezes.zero":
            raise ValueError(
                f"freeze: {self.freeze}; `{self.reset.target}` starts pruned weights at 0 and "
                "trains them, so nothing is frozen; it goes with freeze=zero"
            )
        object.__setattr__(self, "to", to)
        object.__setattr__(self, "at", self._at(self.reset.bound().get("at")))
        super().__post_init__()

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.pruned, self.origin)

    @property
    def level(self) -> int:
        return self._level

    @property
    def step(self) -> int:
        if self.at is not None:
            return self.at
        restarts = self.reset.bound().get("restart")
        return self.to if isinstance(self.to, int) and not restarts else 0

    @property
    def trained(self) -> Train | Init:
        """The network as it was when it was pruned."""
        return self.pruned.trained if isinstance(self.pruned, Prune) else self.pruned

    @property
    def frees(self) -> bool:
        """Whether the pruned weights train with the others, from 0."""
        return bool(self.reset.bound().get("frees"))

    @property
    def evidence(self) -> dict[str, tuple[Train | Init, Moment]]:
        """Which snapshots the reset and the freeze need, by the name they call them."""
        found: dict[str, tuple[Train | Init, Moment]] = {"final": (self.trained, "end")}
        if self.to is not None:
            found["origin"] = (self.origin, self.to)
        elif self.reset.bound().get("momentum"):  # which only a snapshot holds
            found["final"] = (self.trained, self.trained.step)
        return found

    @property
    def _names(self) -> set[str]:
        return {*self.reset.names, *self.freeze.names}

    def _moment(self, time: str) -> Moment:
        if isinstance(self.origin, Init):
            if not time.startswith("0"):
                raise ValueError(f"reset.to: {time} of a network that is not trained; give 0it")
            return "start"
        return self.origin.moment(time, where="reset.to")

    def _at(self, time: str | None) -> int | None:
        """The step of the recipe that a reset goes on from, where it says so."""
        if time is None:
            return None
        if isinstance(self.origin, Init):
            raise ValueError(f"reset.at: {time} of a network that is not trained; leave it out")
        return steps(time, self.origin.training.recipe.steps_per_epoch, where="reset.at")

    def fields(self) -> dict[str, Any]:
        reset = self.reset.identity()
        if self.to is not None:
            reset["args"]["to"] = self.to
        if self.at is not None:
            reset["args"]["at"] = self.at
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


def retrain(start: Reset, training: Training) -> Train:
    """The training after a reset: its mask is fixed, unless the reset frees what is pruned."""
    return Train(start, training, Free() if start.frees else FIXED)


def has_logits(stage: Stage) -> bool:
    """Whether a stage's tickets hold the logits of a learned mask."""
    if isinstance(stage, Train):
        return stage.sparsifier.learns
    return isinstance(stage, Logits) or (isinstance(stage, Reset) and has_logits(stage.pruned))


def network_of(stage: Stage) -> Network:
    """The network that a stage's tickets are of: a stage's first input has the same."""
    while not isinstance(stage, Init):
        stage = stage.inputs[0]
    return stage.network
