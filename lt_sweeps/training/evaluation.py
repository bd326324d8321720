"""`Evaluation`: the scores of a stack on a whole split, computed from sums over its examples.

Because of the sums, a score does not depend on how the split is divided into batches.
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
_GPU_LOGITS = 2**23  # scored at once on a GPU; scoring needs several copies of them


class Score(NamedTuple):
    """One replicate's mean loss, its accuracy in [0, 1], and whether its prediction is constant.

    `one_class` is True if the replicate predicts the same class for every example. A task that does
    not measure accuracy has `accuracy` None, and `one_class` is True if the replicate returns the
    same numbers for every example. `metrics` are the task's other metrics, by name.
    """

    loss: float
    accuracy: float | None
    one_class: bool
    metrics: Mapping[str, float] = MappingProxyType({})


class Evaluation:
    """Scores a stack on the splits of its data set, without changing batch-norm statistics.

    With `captures`, the pass over the validation set is captured as a CUDA graph, because a
    training makes this pass many times. Two cases are not captured: images that are not on the
    device, and tasks that use anything but cross entropy and accuracy, because the host may wait
    for the device in their functions. The forward pass gets `at_once` images at a time.
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
        # Whether the task has only cross entropy and accuracy, which `_pass` computes faster.
        self._is_usual = kind.has_cross_entropy and kind.metrics == _ACCURACY
        self.metrics = kind.others
        # Names of the metrics that need a whole split at once. The first batch may add more names:
        # those of metrics that return a single number for it.
        self._whole = {metric.name for metric in self.metrics if metric.takes_whole_split}
        self._first_batch_seen = False
        self._accuracy = kind.measures_accuracy
        # To score one batch, a GPU runs a dozen small kernels; ten batches together take hardly
        # longer. A CPU scores each batch separately: it rounds the ends of a vector differently
        # from its middle, so joined batches would give different numbers.
        self._logits_at_once = 1 if stack.device.type == "cpu" else _GPU_LOGITS
        self._captures = captures and self._is_usual and not batches.outside("val")
        self._replay: Callable[[], None] | None = None
        self._captured = torch.zeros(3, stack.replicates, dtype=torch.float64, device=stack.device)

    def measure(self, split: str) -> list[Score]:
        """The score of each replicate on a whole split."""
        return self.scores(self.totals(split).tolist())

    def scores(self, totals: Sequence[Sequence[float]]) -> list[Score]:
        """Convert the numbers of `totals`, moved to the host, to a score for each replicate."""
        names = [metric.name for metric in self.metrics]
        scores = []
        for loss, right, same, *values in zip(*totals, strict=True):
            metrics = dict(zip(names, values, strict=True))
            scores.append(Score(loss, right if self._accuracy else None, bool(same), metrics))
        return scores

    def totals(self, split: str) -> Tensor:
        """The numbers of all scores `[3 + M, R]`, on the device.

        The rows are loss, accuracy, whether predictions are constant, and the M other metrics.
        """
        if not self._is_usual:
            return self._general_pass(split)
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
            # One sum for each batch, so that the result does not depend on `_logits_at_once`.
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
        """Yield logits `[R, B, K]` and labels `[B]` of a split, several batches joined together."""
        outputs: list[Tensor] = []
        labels: list[Tensor] = []
        for x, y in self._batches.evaluation(split):
            outputs += [self._stack.logits(part) for part in x.split(self._at_once)]
            labels.append(y)
            if sum(map(Tensor.numel, outputs)) >= self._logits_at_once:
                yield _joined(outputs, 1), _joined(labels, 0)
                outputs, labels = [], []
        if labels:
            yield _joined(outputs, 1), _joined(labels, 0)

    @torch.no_grad()
    def _general_pass(self, split: str) -> Tensor:
        """Compute the totals for any kind of task, one replicate after another."""
        stack = self._stack
        sums: list[Tensor] = []
        first, same = None, torch.ones(stack.replicates, dtype=torch.bool, device=stack.device)
        all_batches: list[tuple[Tensor, Tensor]] = []
        for inputs, targets in self._batches.evaluation(split):
            for x, y in zip(inputs.split(self._at_once), targets.split(self._at_once), strict=True):
                outputs = stack.logits(x)
                if not self._first_batch_seen:
                    parts = (m for m in self.metrics if m.name not in self._whole)
                    self._whole |= {m.name for m in parts if is_one_number(m, outputs[0], y)}
                    self._first_batch_seen = True
                prediction = outputs.argmax(2) if self._accuracy else outputs
                first = prediction[:, :1] if first is None else first
                same &= (prediction == first).flatten(1).all(1)
                sums.append(torch.stack([self._sums(row, y) for row in outputs], 2))
                if self._whole:
                    all_batches.append((outputs, y))
        assert sums, f"{split} is empty"
        # The sums are added one after another, as in `_pass`: `sum` of their stack may use another
        # order, and then rounds differently.
        total, count = functools.reduce(torch.add, sums).unbind(1)
        loss, right, *means = (total / count).unbind(0)
        for index, metric in enumerate(self.metrics):
            if metric.name in self._whole:
                outputs = torch.cat([part for part, _ in all_batches], 1)
                y = torch.cat([part for _, part in all_batches])
                pairs = (measured(metric, row, y) for row in outputs)
                means[index] = torch.stack([total / count for total, count in pairs])
            elif finish := getattr(metric.call.function, "then", None):
                means[index] = finish(means[index])
        return torch.stack([loss, right, same.double(), *means])

    def _sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sums and counts `[2 + M, 2]` of one replicate's loss, accuracy and metrics on a batch."""
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


def mean_scores(scores: Sequence[Sequence[Score]]) -> list[Score]:
    """The mean of each replicate's scores over several evaluations (not an ensemble's score)."""
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
