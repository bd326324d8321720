"""Resets: what a pruned network restarts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.config.durations import steps
from lt_sweeps.plan.stages.prune import Prune
from lt_sweeps.plan.stages.stage import Init, Moment, Stage
from lt_sweeps.plan.stages.task import Training
from lt_sweeps.plan.stages.train import Train
from lt_sweeps.sparsity.sparsifiers import FIXED, Free


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
        if "masked" in self._names and not self.trained.has_logits:
            raise ValueError(
                f"reset: `{self.reset.target}` starts from what a learned mask made of weights, "
                "and no mask was learned; reset=keep starts from the weights"
            )
        if self.frees and self.freeze.target != "lt_sweeps.sparsity.freezes.zero":
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
    def has_logits(self) -> bool:
        return self.pruned.has_logits

    @property
    def frees(self) -> bool:
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


def retrain(start: Reset, training: Training) -> Train:
    """The training after a reset: its mask is fixed, unless the reset frees what is pruned."""
    return Train(start, training, Free() if start.frees else FIXED)
