"""`TrainingHistory`: the evaluations of a training so far, and the weights at the best of them."""

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
    """Per replicate: a row for each evaluation, and `best`, what was trained at the lowest loss.

    `trained` are the tensors `[R, ...]` that the training changes; they must stay where they are.
    `train_loss` sums the losses of the steps since the last evaluation.
    """

    def __init__(self, trained: Mapping[str, Tensor], step: int) -> None:
        self._trained = trained
        self.best = {name: tensor.clone() for name, tensor in trained.items()}
        first = next(iter(trained.values()))
        self.train_loss = torch.zeros(len(first), dtype=first.dtype, device=first.device)
        self.best_step = [step] * len(first)
        self.rows: list[list[dict[str, float]]] = [[] for _ in range(len(first))]
        self._mask_since = -1  # evaluations up to this step were of another mask

    @property
    def step(self) -> int:
        """The step of the last evaluation, -1 before the first."""
        return int(self.rows[0][-1]["step"]) if self.rows[0] else -1

    def add(self, step: int, scores: Sequence[Score]) -> None:
        """Add an evaluation on the validation set; keep the weights where it is the best."""
        train_losses = (self.train_loss / max(1, step - max(self.step, 0))).tolist()
        for r, score in enumerate(scores):
            losses = [row["val_loss"] for row in self.rows[r] if row["step"] > self._mask_since]
            # The first evaluation is the best so far, whatever it is: NaN is below nothing.
            if not losses or score.loss < min(losses):
                self.best_step[r] = step
                for name, tensor in self.best.items():
                    tensor[r] = self._trained[name][r]
            row = {"step": step, "val_loss": score.loss, "val_accuracy": score.accuracy}
            self.rows[r].append(row | {"train_loss": train_losses[r]})
        self.train_loss.zero_()

    def mask_changed(self, step: int) -> None:
        """The mask changes at `step`: evaluations up to it are of another network."""
        self._mask_since = step

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """Within the context what is trained is as it was at its best."""
        now = {name: tensor.clone() for name, tensor in self._trained.items()}
        _copy(self.best, self._trained)
        try:
            yield
        finally:
            _copy(now, self._trained)

    def results(self, r: int, best: Score, end: Score) -> dict[str, Any]:
        """One replicate's results: the validation scores of the history, and the test scores."""
        last = self.rows[r][-1]
        at_best = next(row for row in self.rows[r] if row["step"] == self.best_step[r])
        floats = [t[r] for t in self._trained.values() if t.is_floating_point()]
        finite = all(bool(t.isfinite().all()) for t in floats) and math.isfinite(last["val_loss"])
        return {
            "finite": finite,
            "best_step": self.best_step[r],
            **_named("best", at_best, best),
            **_named("end", last, end),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds, `[R, ...]` by name."""
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        return {"train_loss": self.train_loss, **best}

    def metadata(self, r: int) -> dict[str, Any]:
        """What else a checkpoint holds of one replicate."""
        history = {"history": [*self.rows[r]], "best_step": self.best_step[r]}
        return {**history, "since": self._mask_since}

    def restore(self, r: int, metadata: Mapping[str, str]) -> None:
        self.rows[r] = json.loads(metadata["history"])
        self.best_step[r] = int(metadata["best_step"])
        self._mask_since = int(metadata["since"])


def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])


def _named(when: str, validation: Mapping[str, float], test: Score) -> dict[str, Any]:
    return {
        f"{when}_val_loss": validation["val_loss"],
        f"{when}_val_accuracy": validation["val_accuracy"],
        f"{when}_test_loss": test.loss,
        f"{when}_test_accuracy": test.accuracy,
        f"{when}_one_class": test.one_class,
    }
