"""`Work`: the stages that a device computes, stacked, and whose results are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

from lt_sweeps.config.durations import steps
from lt_sweeps.config.identity import digest, identity_of
from lt_sweeps.config.spelling import listed, nearest
from lt_sweeps.plan.stages.stage import Moment, Stage, ancestors
from lt_sweeps.plan.stages.task import Training
from lt_sweeps.sparsity.sparsifiers import FIXED, Sparsifier


@dataclass(frozen=True, eq=False)
class Work(Stage):
    """The base of the stages that process a ticket on a task: a training, a score or a search."""

    stores_ticket: ClassVar[bool] = True  # if False, the ticket of `start` serves
    start: Stage
    training: Training
    sparsifier: Sparsifier = FIXED

    def __post_init__(self) -> None:
        start = " ".join(str(self.start).split())  # a plan pads the kind to a column
        if self.sparsifier.learns != self.start.has_logits:
            raise ValueError(
                f"method: {self.sparsifier} after {start}; a sparsifier that learns a mask "
                "starts from logits, and no other sparsifier does"
            )
        if self.start.frees and self.sparsifier.holds:
            raise ValueError(
                f"method: {self.sparsifier} holds pruned weights at their values, and "
                f"{start} lets them train; use that reset with method=imp or one_shot"
            )
        super().__post_init__()

    @cached_property
    def level(self) -> int:
        return self.start.level + (self.sparsifier.prunes or self.sparsifier.learns)

    @cached_property
    def depth(self) -> int:
        return self.start.depth + 1

    @property
    def step(self) -> int:
        return self.start.step

    @property
    def length(self) -> int:
        """The number of optimizer steps."""
        return self.step - self.start.step

    @property
    def again(self) -> int | None:
        """The number of earlier pieces of work, if this one goes on training their weights.

        Such a training draws its batches by this number. If it repeated the batches that its
        weights have seen, in the same order and with the same crops, methods that begin with early
        weights would have an advantage.
        """
        return None

    @property
    def batch_index(self) -> tuple[int | str, ...]:
        """The index, besides seed and epoch, by which the batches of an epoch are drawn."""
        if self.again is not None:
            return "again", self.again
        return (self.level,) if self.training.recipe.order == "fresh" else ()

    @property
    def noise_index(self) -> tuple[int | str, ...]:
        """The index, besides seed and step, by which noise in the forward pass (dropout) is drawn.

        The level alone does not distinguish a search from the fine-tuning after it.
        """
        return (self.level,) if self.again is None else self.batch_index

    @property
    def statistics_batches(self) -> int:
        """The number of training batches that re-estimate batch-norm statistics at the start."""
        return 0

    @property
    def has_batch_of_one(self) -> bool:
        """Whether a training, or a score's estimate of statistics, has a batch of one example."""
        recipe, examples = self.training.recipe, self.training.task.dataset.train_size
        first, end = self.start.step, self.step
        if not self.length:
            first, end = 0, self.statistics_batches
        if recipe.batch_size == 1:
            return first < end
        alone = not recipe.drop_last and examples % recipe.batch_size == 1
        return alone and first // recipe.steps_per_epoch < end // recipe.steps_per_epoch

    @property
    def trained(self) -> Work:
        """The stage itself, because a reset may also start from an unpruned network."""
        return self

    @property
    def _precision(self) -> str:
        return "".join(f", in {name}" for name in self.training.arithmetic().values())

    @property
    def has_logits(self) -> bool:
        return self.sparsifier.learns

    @property
    def mask_within(self) -> Stage | None:
        return None if self.sparsifier.changes_mask else self.start

    @property
    def target_sparsity(self) -> float | None:
        kept = self.sparsifier.kept_at_end
        if kept is None and self.sparsifier.learns:
            return None  # how many weights a trained mask keeps is not known beforehand
        if kept is None:
            return self.start.target_sparsity
        return round(1 - kept / sum(layer.size for layer in self.network.layers), 10)

    @property
    def group(self) -> tuple[str, ...]:
        """Values that must be equal for units to be stacked, besides their network and step."""
        kind = digest(self.sparsifier.identity()) if self.sparsifier != FIXED else ""
        statistics = str(self.statistics_batches)
        return (type(self).__name__, str(self.depth), self.training.key, kind, statistics)

    def moment(self, time: str, *, where: str) -> Moment:
        """Return the moment of this training that `time` names in a config.

        Raises:
            ValueError: `time` does not name a moment, or the moment is outside the training.
        """
        if time in ("start", "end", "best"):
            return time
        recipe = self.training.recipe
        if not time[:1].isdigit():
            names = ["start", "origin", "end", "best"]
            raise ValueError(
                f"{where}: got {time!r}; give one of {listed(names)} or a time (`500it`, `2ep`)"
                + nearest(time, names)
            )
        step = steps(time, recipe.steps_per_epoch, where=where)
        first = self.start.step
        if not first <= step <= recipe.length:
            raise ValueError(
                f"{where}: {time} is step {step}, outside the training (steps {first} to "
                f"{recipe.length})"
            )
        return {first: "start", recipe.length: "end"}.get(step, step)

    def must_save(self, moment: Moment) -> bool:
        """Whether a snapshot at `moment` must be requested for the stages that need it.

        The end is always saved, and the first training starts from an initialisation, which is
        drawn again.
        """
        return moment != "end" and (moment != "start" or bool(self.start.inputs))


@dataclass(frozen=True, eq=False)
class Train(Work):
    """Train a ticket from its step to the end of the recipe; the sparsifier may change its mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(
                f"method: a training from step {self.start.step} of a recipe of {self.step} steps; "
                "nothing would be left to train"
            )

    @property
    def step(self) -> int:
        return self.training.recipe.length

    @property
    def again(self) -> int | None:
        return self.depth - 1 if self.start.continues else None

    def fields(self) -> dict[str, Any]:
        acts = self.sparsifier != FIXED
        # Before version 2, the first training loss was wrong after a start between evaluations.
        between = bool(self.start.step % self.training.recipe.evaluate_every)
        # Before version 2, weight decay changed the parameters that a module itself freezes.
        recipe = self.training.recipe
        decays = bool(recipe.weight_decay) or not isinstance(recipe.optimizer, str)
        # Before version 2, gradients of weights that are not trained counted in a clipping norm.
        clips_logits = recipe.clip is not None and not self.sparsifier.trains_weights
        return {
            **self.training.identity(),
            **({"history": 2} if between else {}),
            **({"untrained": 2} if decays and self.network.untrained else {}),
            **({"clipped": 2} if clips_logits else {}),
            **({} if self.again is None else {"again": self.again}),
            **({"sparsifier": self.sparsifier.identity()} if acts else {}),
            **(self.network.told_kinds if identity_of(type(self.sparsifier)) else {}),
        }

    def __str__(self) -> str:
        recipe, kind = self.training.recipe, self.training.task.kind
        acts = f", {self.sparsifier}" if self.sparsifier != FIXED else ""
        if (updates := self.sparsifier.mask_updates) is not None:
            acts += f": {len(updates)} mask update{'s' * (len(updates) != 1)}"
        aim = "" if kind.is_default else f", {kind}"
        return (
            f"train   {self.training.task.call}{aim}, {recipe.optimizer} lr {recipe.lr:g}, "
            f"steps {self.start.step} to {recipe.length}{self._precision}{acts}"
        )


@dataclass(frozen=True, eq=False)
class Evaluate(Work):
    """Score a ticket without training it.

    The statistics of batch norms are re-estimated from `statistics` training batches, because the
    ticket's statistics were measured under another mask or at another moment.
    """

    stores_ticket: ClassVar[bool] = False
    statistics: int = 200

    @property
    def statistics_batches(self) -> int:
        return self.statistics if self.network.normalised else 0

    def fields(self) -> dict[str, Any]:
        # A score depends on the recipe only through the batches for these statistics and, with a
        # learned mask, through the temperature of the mask, which may depend on any key.
        scored, learns = self.training, self.sparsifier.learns
        batches = {**scored.recipe.batches(), "batches": self.statistics}
        # Before version 2, the new statistics still held some of the old ones.
        if self.statistics_batches and self.network.lingering(self.statistics):
            batches["statistics"] = 2
        own = {"task": scored.task.identity(), **scored.arithmetic()}
        return {
            **(scored.identity() if learns else own),
            "statistics": batches if self.network.normalised else False,
            **({"sparsifier": self.sparsifier.identity()} if learns else {}),
        }

    def __str__(self) -> str:
        return f"score   {self.training.task.call}{self._precision}"


@dataclass(frozen=True, eq=False)
class Search(Evaluate):
    """Find a mask by scoring many, without training; the stage's ticket has the mask found."""

    stores_ticket: ClassVar[bool] = True

    def fields(self) -> dict[str, Any]:
        # A search passes layers with their kinds, and a user-defined sparsifier may read them.
        kinds = self.network.told_kinds
        return {**super().fields(), "sparsifier": self.sparsifier.identity(), **kinds}

    def __str__(self) -> str:
        return f"search  {self.training.task.call}{self._precision}, {self.sparsifier}"


@cache
def trainings(*lasts: Work) -> tuple[Work, ...]:
    """Return all `Work` stages up to `lasts`, each once, and after the stage it starts from."""
    work = (stage for last in lasts for stage in ancestors(last) if isinstance(stage, Work))
    return tuple({stage.key: stage for stage in work}.values())


@cache
def needs(stage: Work) -> tuple[Work, ...]:
    """The work whose stored tickets a stage reads directly, not the work before that."""
    stored: dict[str, Work] = {}
    waiting = list(stage.inputs)
    while waiting:
        current = waiting.pop()
        if isinstance(current, Work) and current.stores_ticket:
            stored[current.key] = current
        else:  # a score stores no ticket; its start has one
            waiting += current.inputs
    return tuple(stored.values())
