"""`Prune`: compute a mask. `Logits`: the logits from which a mask is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.plan.stages.stage import Init, Snapshot, Stage
from lt_sweeps.plan.stages.task import Task
from lt_sweeps.plan.stages.work import Work
from lt_sweeps.sparsity.competition import Competition, competitions, group_competitions
from lt_sweeps.sparsity.evidence import LEARNED, ON_DATA, UNTRAINED, Criterion, is_whole_mask
from lt_sweeps.sparsity.group_numbers import groups_of, regrouped
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.weight_groups import Groups

EXAMPLES = 128
"""The number of training images for a gradient, if the criterion does not set `examples`."""


@dataclass(frozen=True, eq=False)
class Logits(Stage):
    """Give a network the logits that a learned mask starts from; all of its weights are kept.

    `given` is a function of one layer that names the evidence it needs: `kept` (the mask of
    `mask`, or of `start`), `logits` (the final logits of `start`), `noise`. With `momentum`, the
    optimizers of weights and logits continue with the momentum that they had at the end of `start`.
    """

    start: Stage
    given: Call
    momentum: bool = False
    mask: Prune | None = None

    @cached_property
    def level(self) -> int:
        """The number of masks learned so far, without a mask that the logits are made from."""
        return self.start.level if self.start.has_logits else 0

    @property
    def calls(self) -> tuple[Call, ...]:
        return (self.given,)

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return () if self.ended is None else (self.ended,)

    @property
    def ended(self) -> Snapshot | None:
        """The end of the previous training, which holds the momentum to continue with."""
        if not self.momentum:
            return None
        assert isinstance(self.start, Work) and self.start.has_logits, "momentum without a round"
        return self.start, self.start.step

    @property
    def has_logits(self) -> bool:
        return True

    @property
    def has_momentum(self) -> bool:
        return self.momentum

    @property
    def continues(self) -> bool:
        return isinstance(self.start, Work) or self.start.continues

    def fields(self) -> dict[str, Any]:
        return {"given": self.given.identity(), **({"momentum": True} if self.momentum else {})}

    def __str__(self) -> str:
        return f"logits  {self.given}"


@dataclass(frozen=True, eq=False)
class Prune(Stage):
    """Score the remaining weights and keep as many as the target states.

    A network that has not been trained is pruned by evidence from its initial weights; `task` then
    has the images on which a gradient is computed.
    """

    trained: Work | Init
    target: Target
    criterion: Criterion
    origin: Work | Init
    task: Task | None = None

    @cached_property
    def level(self) -> int:
        # A training that learns a mask already counts as a level; pruning only makes its mask hard.
        return self.trained.level + (not self.trained.has_logits)

    @property
    def step(self) -> int:
        return self.trained.step

    @property
    def mask_within(self) -> Stage | None:
        return self.trained

    @cached_property
    def evidence(self) -> dict[str, Snapshot | None]:
        """The snapshot for each piece of evidence that the criterion names; None for noise."""
        return {name: self._snapshot(name, time) for name, time in self.criterion.evidence}

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(snapshot for snapshot in self.evidence.values() if snapshot is not None)

    @property
    def calls(self) -> tuple[Call, ...]:
        own = self.criterion.granularity
        extra = () if own is None or own.function is None else (own.function,)
        return (self.criterion.call, *extra)

    @property
    def groups(self) -> Groups | None:
        """The groups of weights that are kept or pruned whole; None for single weights."""
        own = self.criterion.granularity
        return None if own is None else groups_of(own, self.network)

    def runs(self) -> list[tuple[list[str], int, int]]:
        """The layers of each competition, with the minimum and maximum of weights they keep."""
        return [(run.names, *run.bounds) for run in self._competitions()]

    def _competitions(self) -> Sequence[Competition]:
        return competitions(self.target, self.network.layers, self.groups)

    @property
    def granularity(self) -> str | None:
        return str(self.criterion.granularity or "") or None

    @cached_property
    def resolution(self) -> int | None:
        groups = self.groups
        if groups is None:
            return None
        runs = group_competitions(self.target, self.network.layers, groups)
        return sum(run.resolution for run in runs)

    @cached_property
    def target_sparsity(self) -> float | None:
        if is_whole_mask(self.criterion.call) and not self.trained.has_logits:
            return None  # the criterion returns the mask itself, regardless of the schedule
        sparsity = round(self.target.sparsity, 10)
        runs = self._competitions()
        if (goal := sum(run.goal for run in runs)) != sum(run.count for run in runs):
            # Weights outside all groups are always kept, and are counted as with schedule=uniform.
            total = sum(layer.size for layer in self.network.layers)
            sparsity = round(1 - goal / total, 10)
        return sparsity if math.isfinite(sparsity) else None

    @property
    def data(self) -> Task:
        """The task on whose images a gradient is computed."""
        if self._task is None:
            raise ValueError(
                f"method: `{self.criterion.call.target}` takes a gradient of a network that is not "
                "trained; give its pruning the images: Prune(..., task=recipe.task)"
            )
        return self._task

    @property
    def _task(self) -> Task | None:
        training = self.origin.training
        return self.task if training is None else training.task

    def fields(self) -> dict[str, Any]:
        times = dict(self.criterion.evidence)
        moments = {
            name: snapshot and ["origin" if times[name] == "origin" else "trained", snapshot[1]]
            for name, snapshot in self.evidence.items()
        }
        fields: dict[str, Any] = {
            "target": self.target.identity(),
            "criterion": self.criterion.call.identity(),
            "evidence": moments,
            **self._versions,
        }
        if self.task is not None and {*moments} & {*ON_DATA}:
            fields["task"] = self.task.identity()
        if self.criterion.granularity is not None:
            differs = regrouped(self.criterion.granularity, self.network)
            own = self.criterion.granularity.identity()
            fields["granularity"] = {**own, **({"version": 2} if differs else {})}
            # Rows of an output layer form no groups; a user-defined function receives the layer.
            fields |= self.network.told_kinds
        return fields

    @property
    def _versions(self) -> dict[str, int]:
        """The versions of the evidence whose numbers have changed for this network."""
        versions: dict[str, int] = {}
        # Before version 2, the flow through a recurrent layer also passed through its biases.
        recurrent = any(n.rpartition(".")[2].startswith("bias_") for n in self.network.sizes)
        if "flow" in self.evidence and recurrent:
            versions["flow"] = 2
        # Before version 2, the noise of a group was the mean over its weights.
        if "noise" in self.evidence and any(run.shares_noise for run in self._competitions()):
            versions["noise"] = 2
        return versions

    def _snapshot(self, name: str, time: str | None) -> Snapshot | None:
        where = f"mask_criterion.{name}"
        if time is None:
            return None
        if name in ON_DATA:
            self._check_examples()
        if name == "hessian_grad":
            self.data.kind.check_temperature(self.criterion.call.bound().get("temperature", 1.0))
        if name == "flow" and (rounds := self.criterion.call.bound().get("rounds", 1)) < 1:
            raise ValueError(f"mask_criterion.rounds: got {rounds}; give 1 or more")
        if name in ("flow", "channel"):
            self._check_inputs(name)
        if time == "origin":
            return self.origin, "start"
        if self.trained.training is None and (name not in UNTRAINED or time != "start"):
            raise ValueError(
                f"{where}: got {time!r}, and the network is pruned before it is trained; choose a "
                f"criterion that uses only {', '.join(UNTRAINED)} at start, such as "
                "mask_criterion=random"
            )
        learns = self.trained.has_logits
        if (name in LEARNED) != learns and name in (*LEARNED, *ON_DATA, "flow"):
            has = "learns a mask" if learns else "learns no mask"
            raise ValueError(
                f"{where}: `{self.criterion.call.target}` needs {name}, and the training that is "
                f"pruned {has}; {', '.join(LEARNED)} need a learned mask, {', '.join(ON_DATA)} "
                "and flow a training without one"
            )
        return self.trained, self.trained.moment(str(time), where=where)

    def _check_examples(self) -> None:
        count = self.criterion.call.bound().get("examples", EXAMPLES)
        size = self.data.dataset.train_size
        if not 0 < count <= size:
            raise ValueError(
                f"mask_criterion: examples={count}; the training set has {size} images"
            )

    def _check_inputs(self, name: str) -> None:
        task = self._task
        if task is not None and not task.dataset.input_dtype.is_floating_point:
            raise ValueError(
                f"mask_criterion: {name} is measured on an input of ones, and inputs of "
                f"`{task.call.target}` are {task.dataset.input_dtype}; choose another criterion"
            )

    def __str__(self) -> str:
        sparsity = self.target.sparsity
        to = "" if math.isnan(sparsity) else f", to sparsity {sparsity:.4f}"
        by = "" if self.granularity is None else f" by {self.granularity}"
        return f"prune   {self.criterion.call}{by}{to}"
