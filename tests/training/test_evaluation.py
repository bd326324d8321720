"""Evaluation: the scores of a whole split do not depend on its batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lt_sweeps.data.batches import EVALUATE_BATCH, Batches
from lt_sweeps.training.evaluation import Evaluation
from lt_sweeps.training.stack import Stack


class Drawn:
    """A split of a given number of random examples, in batches."""

    def __init__(self, count: int) -> None:
        draws = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, 8, generator=draws)
        self.classes = torch.randint(3, (count,), generator=draws)

    def outside(self, split: str) -> bool:
        return False

    def evaluation(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        parts = (tensor.split(EVALUATE_BATCH) for tensor in (self.inputs, self.classes))
        return zip(*parts, strict=True)


class Counted(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("together", [4 * EVALUATE_BATCH, 10**9])
def test_batches_that_are_scored_together_score_as_each_alone_in_fewer_operations(
    together: int,
) -> None:
    torch.manual_seed(0)
    stack = Stack(nn.Sequential(nn.Linear(8, 3)), 2)
    batches = cast(Batches, Drawn(7 * EVALUATE_BATCH + 9))
    alone, joined = Evaluation(stack, batches), Evaluation(stack, batches)
    joined._logits_at_once = 2 * 3 * together  # numbers: replicates, classes, examples
    with Counted() as first:
        expected = alone.totals("val")
    with Counted() as second:
        totals = joined.totals("val")
    assert totals.tolist() == [pytest.approx(row, rel=1e-7) for row in expected.tolist()]
    assert second.calls < 0.7 * first.calls
    by_hand = stack.logits(batches.inputs).argmax(2) == batches.classes  # type: ignore[attr-defined]
    assert totals[1].tolist() == pytest.approx(by_hand.double().mean(1).tolist())
