"""`TrainingHistory`: a training, evaluation by evaluation, and its best weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.training.evaluation import Score


class TrainingHistory:
    """Per replicate: the history of evaluations, and `best`, what was trained at the lowest loss.

    `trained` are the tensors `[R, ...]` that the training changes; they must stay where they are.
    """

    def __init__(self, trained: Mapping[str, Tensor], step: int) -> None:
        self._trained = trained
        self.best = {name: tensor.clone() for name, tensor in trained.items()}
        first = next(iter(trained.values()))
        self.train_loss = torch.zeros(len(first), dtype=first.dtype, device=first.device)
        self.best_step = [step] * len(first)
        self.since = -1  # evaluations up to this step were of another mask
        self.history: list[list[dict[str, float]]] = [[] for _ in range(len(first))]

    @property
    def step(self) -> int:
        """The step of the last evaluation, -1 before the first."""
        return int(self.history[0][-1]["step"]) if self.history[0] else -1

    def add(self, step: int, scores: Sequence[Score]) -> None:
        """Remember an evaluation on the validation set, and the weights where they are the best."""
        train = (self.train_loss / max(1, step - max(self.step, 0))).tolist()
        for r, score in enumerate(scores):
            # The first evaluation is the best so far, whatever it is: NaN is below nothing.
            before = [row["val_loss"] for row in self.history[r] if row["step"] > self.since]
            lowest, first = min(before, default=math.inf), not before
            row = {"step": step, "val_loss": score.loss, "val_accuracy": score.accuracy}
            self.history[r].append(row | {"train_loss": train[r]})
            if first or score.loss < lowest:
                self.best_step[r] = step
                for name, tensor in self.best.items():
                    tensor[r] = self._trained[name][r]
        self.train_loss.zero_()

    def forget(self, step: int) -> None:
        """The mask changes at `step`: what was best before it tells of another network."""
        self.since = step

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """What is trained as it was at its best, and as it is again afterwards."""
        now = {name: tensor.clone() for name, tensor in self._trained.items()}
        _put(self._trained, self.best)
        try:
            yield
        finally:
            _put(self._trained, now)

    def results(self, r: int, best: Score, end: Score) -> dict[str, Any]:
        """One replicate's results: validation as remembered, test as given."""
        last = self.history[r][-1]
        at_best = next(row for row in self.history[r] if row["step"] == self.best_step[r])
        floats = [t[r] for t in self._trained.values() if t.is_floating_point()]
        finite = all(bool(t.isfinite().all()) for t in floats) and math.isfinite(last["val_loss"])
        return {
            "finite": finite,
            "best_step": self.best_step[r],
            **_named("best", at_best, best),
            **_named("end", last, end),
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it, `[R, ...]` by name."""
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        return {"train_loss": self.train_loss, **best}

    def about(self, r: int) -> dict[str, Any]:
        about = {"history": self.history[r], "best_step": self.best_step[r]}
        return {**about, "since": self.since}

    def restore(self, r: int, about: Mapping[str, str]) -> None:
        self.history[r] = json.loads(about["history"])
        self.best_step[r] = int(about["best_step"])
        self.since = int(about["since"])


def _put(trained: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in trained.items():
        tensor.copy_(values[name])


def _named(when: str, at: Mapping[str, float], test: Score) -> dict[str, Any]:
    return {
        f"{when}_val_loss": at["val_loss"],
        f"{when}_val_accuracy": at["val_accuracy"],
        f"{when}_test_loss": test.loss,
        f"{when}_test_accuracy": test.accuracy,
        f"{when}_one_class": test.one_class,
    }
