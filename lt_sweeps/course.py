"""`Course`: what a training has been through, evaluation by evaluation, and its best weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.evaluation import Score
from lt_sweeps.stack import Stack


class Course:
    """Per replicate: the history of evaluations, and the weights at the lowest validation loss."""

    def __init__(self, stack: Stack, step: int) -> None:
        self._stack = stack
        self.best = stack.weights.clone()
        self.best_buffers = {name: each.clone() for name, each in stack.buffers.items()}
        self.train_loss = torch.zeros(
            stack.replicates, dtype=stack.weights.dtype, device=stack.device
        )
        self.best_step = [step] * stack.replicates
        self.history: list[list[dict[str, float]]] = [[] for _ in range(stack.replicates)]

    @property
    def step(self) -> int:
        """The step of the last evaluation, -1 before the first."""
        return int(self.history[0][-1]["step"]) if self.history[0] else -1

    def add(self, step: int, scores: Sequence[Score]) -> None:
        """Remember an evaluation on the validation set, and the weights where they are the best."""
        train = (self.train_loss / max(1, step - max(self.step, 0))).tolist()
        for r, score in enumerate(scores):
            # The first evaluation is the best so far, whatever it is: NaN is below nothing.
            lowest = min((row["val_loss"] for row in self.history[r]), default=math.inf)
            first = not self.history[r]
            row = {"step": step, "val_loss": score.loss, "val_accuracy": score.accuracy}
            self.history[r].append(row | {"train_loss": train[r]})
            if first or score.loss < lowest:
                self.best_step[r] = step
                self.best[r] = self._stack.weights[r]
                for name, buffer in self.best_buffers.items():
                    buffer[r] = self._stack.buffers[name][r]
        self.train_loss.zero_()

    def results(self, r: int, best: Score, end: Score) -> dict[str, Any]:
        """One replicate's results: validation as remembered, test as given."""
        last = self.history[r][-1]
        at_best = next(row for row in self.history[r] if row["step"] == self.best_step[r])
        finite = bool(self._stack.weights[r].isfinite().all()) and math.isfinite(last["val_loss"])
        return {
            "finite": finite,
            "best_step": self.best_step[r],
            **_named("best", at_best, best),
            **_named("end", last, end),
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it, `[R, ...]` by name."""
        buffers = {f"best_buffers/{name}": each for name, each in self.best_buffers.items()}
        return {"best": self.best, "train_loss": self.train_loss, **buffers}

    def about(self, r: int) -> dict[str, Any]:
        return {"history": self.history[r], "best_step": self.best_step[r]}

    def restore(self, r: int, about: Mapping[str, str]) -> None:
        self.history[r] = json.loads(about["history"])
        self.best_step[r] = int(about["best_step"])


def _named(when: str, at: Mapping[str, float], test: Score) -> dict[str, Any]:
    return {
        f"{when}_val_loss": at["val_loss"],
        f"{when}_val_accuracy": at["val_accuracy"],
        f"{when}_test_loss": test.loss,
        f"{when}_test_accuracy": test.accuracy,
        f"{when}_one_class": test.one_class,
    }
