"""`Reset`: the weights that a pruned network restarts from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.config.durations import steps
from lt_sweeps.plan.stages.prune import Prune
from lt_sweeps.plan.stages.stage import Init, Moment, Snapshot, Stage
from lt_sweeps.plan.stages.task import Training
from lt_sweeps.plan.stages.work import Train, Work
from lt_sweeps.sparsity.sparsifiers import FIXED, Free


@dataclass(frozen=True, eq=False)
class Reset(Stage):
    """Set kept weights to the values that they restart from, and pin pruned weights.

    `pruned` may also be an unpruned network, all of whose weights are kept. `origin` is the dense
    run, to which a reset with `to` goes back.
    """

    pruned: Prune | Work | Init
    reset: Call
    freeze: Call
    origin: Work | Init

    def __post_init__(self) -> None:
        if "origin" in self.names and self.to is None:
            raise ValueError(
                f"freeze: `{self.freeze.target}` needs `origin`, which a freeze does not get with "
                f"the reset `{self.reset.target}`; it gets `init` and `final`"
            )
        if self.to == "end":
            raise ValueError(
                f"reset.to: {self.reset.bound()['to']} is the end of the training; nothing would "
                "be left to train"
            )
        if self.to == "best":
            raise ValueError(
                "reset.to: `best` has no step to go on from; give a time (`500it`, `2ep`)"
            )
        if "masked" in self.names and not self.trained.has_logits:
            raise ValueError(
                f"reset: `{self.reset.target}` starts from the weights under a learned mask, and "
                "no mask was learned; reset=keep starts from the weights"
            )
        if self.frees and self.freeze.target != "lt_sweeps.sparsity.freezes.zero":
            raise ValueError(
                f"freeze: {self.freeze}; `{self.reset.target}` starts pruned weights at 0 and "
                "trains them, so nothing is frozen; give freeze=zero"
            )
        super().__post_init__()

    @cached_property
    def to(self) -> Moment | None:
        """The moment of `origin` to which the reset goes back; None for a reset without `to`."""
        time = self.reset.bound().get("to")
        return None if time is None else self.origin.moment(time, where="reset.to")

    @cached_property
    def at(self) -> int | None:
        """The step of the recipe that the reset's `at` sets for the next training, or None."""
        time, training = self.reset.bound().get("at"), self.origin.training
        if time is None:
            return None
        if training is None:
            raise ValueError(f"reset.at: {time} of a network that is not trained; leave it out")
        return steps(time, training.recipe.steps_per_epoch, where="reset.at")

    @property
    def step(self) -> int:
        if self.at is not None:
            return self.at
        restarts = self.reset.bound().get("restart")
        return self.to if isinstance(self.to, int) and not restarts else 0

    @property
    def trained(self) -> Work | Init:
        """The network that was pruned."""
        return self.pruned.trained

    @property
    def mask_within(self) -> Stage | None:
        return self.pruned

    @property
    def before(self) -> Reset | None:
        """The reset from which the previous training started, if any."""
        return next((stage for stage in self.trained.inputs if isinstance(stage, Reset)), None)

    @property
    def base(self) -> Snapshot:
        """The snapshot whose biases, normalisation and momentum the next training starts from."""
        if self.to is not None:
            return self.origin, self.to
        return self.trained, self.trained.step if self.has_momentum else "end"

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        return (self.base,)

    @property
    def calls(self) -> tuple[Call, ...]:
        return (self.reset, self.freeze)

    @property
    def names(self) -> set[str]:
        """The names of the evidence that the reset and the freeze need."""
        return {*self.reset.names, *self.freeze.names}

    @property
    def has_logits(self) -> bool:
        return self.pruned.has_logits

    @property
    def has_momentum(self) -> bool:
        return bool(self.reset.bound().get("momentum"))

    @property
    def continues(self) -> bool:
        return isinstance(self.trained, Work) and bool({*self.reset.names} & {"final", "masked"})

    @property
    def frees(self) -> bool:
        return bool(self.reset.bound().get("frees"))

    def fields(self) -> dict[str, Any]:
        reset = self.reset.identity()
        if self.to is not None:
            reset["args"]["to"] = self.to
        if self.at is not None:
            reset["args"]["at"] = self.at
        return {"reset": reset, "freeze": self.freeze.identity()}

    def __str__(self) -> str:
        return f"reset   {self.reset}, {self.freeze}"


def retrain(start: Reset, training: Training) -> Train:
    """Train after a reset; the mask is fixed unless the reset frees pruned weights."""
    return Train(start, training, Free() if start.frees else FIXED)
