"""Evaluation: the scores of a stack on all of a split, as sums over its examples.

Sums, so that a score does not depend on how a split is cut into batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lt_sweeps.data.batches import EVALUATE_BATCH, Batches
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.metrics import accuracy
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import in_double, is_one_number, measured

_ACCURACY = CLASSIFICATION.metrics
_TOGETHER = 2**23  # logits that a device scores at once, several copies of each


class Score(NamedTuple):
    """One replicate's mean loss, its accuracy in [0, 1], and whether it is constant.

    `one_class` is true where it predicts one and the same class for every image, or returns the
    same numbers for every example. Where classes are not what is predicted, there is no accuracy;
    `metrics` are all others of the task, by name.
    """

    loss: float
    accuracy: float | None
    one_class: bool
    metrics: Mapping[str, float] = MappingProxyType({})


class Evaluation:
    """Scores a stack on the splits of its data set; leaves batch-norm statistics alone.

    With `captures` a pass over the validation set is one graph, because a training makes many of
    them. A user's task is left out, because its functions may wait for the host, and so are images
    that lie outside of the device. `at_once` images go through the forward pass together.
    """

    def __init__(
        self,
        stack: Stack,
        batches: Batches,
        *,
        captures: bool = False,
        at_once: int = EVALUATE_BATCH,
    ) -> None:
        self._stack, self._batches, self._at_once = stack, batches, at_once
        kind = stack.task_loss.kind
        self._usual = kind.is_default or (kind.has_cross_entropy and kind.metrics == _ACCURACY)
        self.metrics = kind.others
        # Those that need a whole split at once; whether others do is asked of the first batch.
        self._whole = {metric.name for metric in self.metrics if metric.takes_whole_split}
        self._asked = False
        self._accuracy = kind.measures_accuracy
        # The scores of a batch are a dozen small kernels, which take a device hardly less time than
        # those of ten. A CPU rounds the ends of a vector otherwise than its middle, and would give
        # other numbers.
        self._together = 1 if stack.device.type == "cpu" else _TOGETHER
        self._captures = captures and self._usual and not batches.outside("val")
        self._replay: Callable[[], None] | None = None
        self._captured = torch.zeros(3, stack.replicates, dtype=torch.float64, device=stack.device)

    def measure(self, split: str) -> list[Score]:
        """Every replicate's score on the whole of a split."""
        return self.scores(self.totals(split).tolist())

    def scores(self, totals: Sequence[Sequence[float]]) -> list[Score]:
        """The scores that `totals` holds, once they are on the host."""
        names = [metric.name for metric in self.metrics]
        scores = []
        for loss, right, same, *values in zip(*totals, strict=True):
            metrics = dict(zip(names, values, strict=True))
            scores.append(Score(loss, right if self._accuracy else None, bool(same), metrics))
        return scores

    def totals(self, split: str) -> Tensor:
        """`[3 + M, R]`, on the device: what the scores of all replicates are made of."""
        if not self._usual:
            return self._any_pass(split)
        if split != "val" or not self._captures:
            return self._pass(split)
        if self._replay is None:
            self._replay = graphed(self._captured_pass, self._stack.device, renew=self._stack.renew)
        self._replay()
        return self._captured

    def _captured_pass(self) -> None:
        self._captured.copy_(self._pass("val"))

    @torch.no_grad()
    def _pass(self, split: str) -> Tensor:
        stack = self._stack
        loss = torch.zeros(stack.replicates, dtype=torch.float64, device=stack.device)
        correct, count = loss.clone(), 0
        first, same = None, loss == 0
        for logits, y in self._logits(split):
            labels = y.expand(len(logits), -1)
            losses = cross_entropy(logits.mT, labels, reduction="none").double()
            # One sum for each batch, however many batches are scored together.
            for part in losses.split(EVALUATE_BATCH, 1):
                loss += part.sum(1)
            predicted = logits.argmax(2)
            correct += (predicted == labels).double().sum(1)
            first = predicted[:, :1] if first is None else first
            same &= (predicted == first).all(1)
            count += len(y)
        assert count, f"{split} is empty"
        return torch.stack([loss / count, correct / count, same.double()])

    def _logits(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits `[R, B, K]` and labels `[B]` of a split, those of several batches together."""
        outputs: list[Tensor] = []
        labels: list[Tensor] = []
        for x, y in self._batches.evaluation(split):
            outputs += [self._stack.logits(part) for part in x.split(self._at_once)]
            labels.append(y)
            if sum(map(Tensor.numel, outputs)) >= self._together:
                yield _joined(outputs, 1), _joined(labels, 0)
                outputs, labels = [], []
        if labels:
            yield _joined(outputs, 1), _joined(labels, 0)

    @torch.no_grad()
    def _any_pass(self, split: str) -> Tensor:
        """The same of any task, one replicate after another."""
        stack = self._stack
        sums: list[Tensor] = []
        first, same = None, torch.ones(stack.replicates, dtype=torch.bool, device=stack.device)
        kept: list[tuple[Tensor, Tensor]] = []
        for inputs, targets in self._batches.evaluation(split):
            for x, y in zip(inputs.split(self._at_once), targets.split(self._at_once), strict=True):
                outputs = stack.logits(x)
                if not self._asked:
                    parts = (m for m in self.metrics if m.name not in self._whole)
                    self._whole |= {m.name for m in parts if is_one_number(m, outputs[0], y)}
                    self._asked = True
                said = outputs.argmax(2) if self._accuracy else outputs
                first = said[:, :1] if first is None else first
                same &= (said == first).flatten(1).all(1)
                sums.append(torch.stack([self._sums(row, y) for row in outputs], 2))
                if self._whole:
                    kept.append((outputs, y))
        assert sums, f"{split} is empty"
        # One after another, as `_pass` adds: a sum of a stack of them may be in another order.
        total, count = functools.reduce(torch.add, sums).unbind(1)
        loss, right, *means = (total / count).unbind(0)
        for place, metric in enumerate(self.metrics):
            if metric.name in self._whole:
                outputs = torch.cat([part for part, _ in kept], 1)
                y = torch.cat([part for _, part in kept])
                means[place] = torch.stack([_value(measured(metric, row, y)) for row in outputs])
            elif last := getattr(metric.call.function, "then", None):
                means[place] = last(means[place])
        return torch.stack([loss, right, same.double(), *means])

    def _sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum and count `[2 + M, 2]` of loss, accuracy and metrics of one replicate on a batch."""
        loss = self._stack.task_loss.total(outputs, targets)
        unknown = torch.zeros_like(loss)
        right = in_double(accuracy(outputs, targets), targets) if self._accuracy else unknown
        others = [
            unknown if metric.name in self._whole else measured(metric, outputs, targets)
            for metric in self.metrics
        ]
        return torch.stack([loss, right, *others])


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts], dim)


def _value(pair: Tensor) -> Tensor:
    return pair[0] / pair[1]


def mean_scores(scores: Sequence[Sequence[Score]]) -> list[Score]:
    """Each replicate's mean score over several evaluations; that of an ensemble is another."""
    if len(scores) == 1:
        return list(scores[0])
    return [
        Score(
            fmean(score.loss for score in replicate),
            _mean([score.accuracy for score in replicate]),
            all(score.one_class for score in replicate),
            {name: fmean(s.metrics[name] for s in replicate) for name in replicate[0].metrics},
        )
        for replicate in zip(*scores, strict=True)
    ]


def _mean(accuracies: Sequence[float | None]) -> float | None:
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return fmean(known) if known else None
