"""`TrainingHistory`: the evaluations of a training so far, and the weights at the best one."""

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
    """For each replicate, a row per evaluation, and its tensors at the lowest validation loss.

    `trained` are the tensors `[R, ...]` that the training changes in place; `best` holds copies of
    them from each replicate's best evaluation. `train_loss` `[R]` is the sum of the training losses
    since the last evaluation.
    """

    def __init__(self, trained: Mapping[str, Tensor], step: int) -> None:
        self._trained = trained
        self.best = {name: tensor.clone() for name, tensor in trained.items()}
        first = next(iter(trained.values()))
        self.train_loss = torch.zeros(len(first), dtype=first.dtype, device=first.device)
        self._begun = step
        self.best_step = [step] * len(first)
        self.rows: list[list[dict[str, float | None]]] = [[] for _ in range(len(first))]
        self._mask_since = -1  # evaluations up to this step were of another mask
        self._lowest: list[float | None] = [None] * len(first)  # validation losses of this mask

    @property
    def step(self) -> int:
        """The step of the last evaluation; -1 before the first one."""
        return int(self.rows[0][-1]["step"] or 0) if self.rows[0] else -1

    def mean_train_loss(self, step: int) -> Tensor:
        """The mean training loss `[R]` since the last evaluation, or since the start."""
        return self.train_loss / max(1, step - max(self.step, self._begun))

    def add(self, step: int, scores: Sequence[Score], train_losses: Sequence[float]) -> None:
        """Add an evaluation on the validation set; copy the tensors of replicates at their best."""
        better = []
        for r, score in enumerate(scores):
            # The first evaluation under a mask is the best so far, even if its loss is NaN.
            lowest, loss = self._lowest[r], _ranked(score.loss)
            if lowest is None or loss < lowest:
                better.append(r)
                self.best_step[r], self._lowest[r] = step, loss
            row = {"step": step, "val_loss": score.loss, "val_accuracy": score.accuracy}
            row |= {f"val_{name}": value for name, value in score.metrics.items()}
            self.rows[r].append(row | {"train_loss": train_losses[r]})
        copy_rows(self._trained, self.best, better)
        self.train_loss.zero_()

    def mask_changed(self, step: int) -> None:
        """Record that the mask changes at `step`; evaluations up to it no longer count as best."""
        self._mask_since = step
        self._lowest = [self._lowest_of(rows) for rows in self.rows]

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """Within the context, the trained tensors have their values of the best evaluation."""
        current = {name: tensor.clone() for name, tensor in self._trained.items()}
        _copy(self.best, self._trained)
        try:
            yield
        finally:
            _copy(current, self._trained)

    def results(self, r: int, best: Score, end: Score) -> dict[str, Any]:
        """One replicate's results: validation scores from the history, and the given test scores.

        `finite` is False if the weights or the last validation loss contain NaN or infinity.
        """
        last, at_best = self.validated(r, "end"), self.validated(r, "best")
        floats = [t[r] for t in self._trained.values() if t.is_floating_point()]
        finite = all(bool(t.isfinite().all()) for t in floats) and math.isfinite(last["val_loss"])
        return {
            "finite": finite,
            "best_step": self.best_step[r],
            **_named("best", at_best, best),
            **_named("end", last, end),
        }

    def validated(self, r: int, when: str) -> Mapping[str, Any]:
        """One replicate's row at the `end`, or at its `best` evaluation."""
        if when == "end":
            return self.rows[r][-1]
        return next(row for row in self.rows[r] if row["step"] == self.best_step[r])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds, `[R, ...]` by name."""
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        return {"train_loss": self.train_loss, **best}

    def metadata(self, r: int) -> dict[str, Any]:
        """The metadata of one replicate's checkpoint, besides its tensors."""
        history = {"history": [*self.rows[r]], "best_step": self.best_step[r]}
        return {**history, "since": self._mask_since}

    def restore(self, r: int, metadata: Mapping[str, str]) -> None:
        self.rows[r] = json.loads(metadata["history"])
        self.best_step[r] = int(metadata["best_step"])
        self._mask_since = int(metadata["since"])
        self._lowest[r] = self._lowest_of(self.rows[r])

    def _lowest_of(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The lowest validation loss under the current mask; None before its first evaluation."""
        if not rows or rows[-1]["step"] <= self._mask_since:
            return None
        return min(_ranked(row["val_loss"]) for row in rows if row["step"] > self._mask_since)


def _ranked(loss: float) -> float:
    """A loss for comparisons: NaN counts as infinity, because no number is below NaN."""
    return math.inf if math.isnan(loss) else loss


def copy_rows(values: Mapping[str, Tensor], into: Mapping[str, Tensor], rows: list[int]) -> None:
    """Copy the given rows of named tensors `[R, ...]` into other tensors, in place.

    On a GPU this takes one kernel per tensor, and not one per row: a ResNet-20 has 58 tensors.
    """
    if not rows:
        return
    first = next(iter(into.values()))
    if first.device.type == "cpu":
        for name, tensor in into.items():
            for r in rows:
                tensor[r] = values[name][r]
    else:
        select_rows(values, into, torch.tensor([r in rows for r in range(len(first))]))


def select_rows(values: Mapping[str, Tensor], into: Mapping[str, Tensor], chosen: Tensor) -> None:
    """Copy the rows where the bool `chosen` `[R]` is True, in place.

    On a CPU this is six times as slow as copying single rows.
    """
    chosen = chosen.to(next(iter(into.values())).device)
    for name, tensor in into.items():
        where = chosen.view(-1, *[1] * (tensor.ndim - 1))
        torch.where(where, values[name], tensor, out=tensor)


def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])


def _named(when: str, validation: Mapping[str, Any], test: Score) -> dict[str, Any]:
    return {
        f"{when}_val_loss": validation["val_loss"],
        f"{when}_val_accuracy": validation["val_accuracy"],
        f"{when}_test_loss": test.loss,
        f"{when}_test_accuracy": test.accuracy,
        f"{when}_one_class": test.one_class,
    }
