"""`InBatch` and `InChannels`: two ways to fold R replicates into one forward pass.

Each folds the inputs of a whole stack, computes the three kinds of layers that have weights or mix
the examples of a batch (linear, convolution, norm), and unfolds the outputs. All other operations
of a forward pass (ReLU, pooling, flatten, additions) work on folded tensors as on those of one
replicate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Mean, variance, weight and bias of a norm, each [R, C] or absent.
Rows = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class NotFolded(ValueError):
    """A forward pass cannot be folded in this way, or cannot be tried."""


class Folding(ABC):
    """The dimension in which replicates are folded, and the layers on tensors folded like that."""

    count: int
    name: str  # the backend's name

    def __init__(self, count: int) -> None:
        self.count = count

    @abstractmethod
    def fold(self, x: Tensor) -> Tensor:
        """Fold inputs `[R, B, C, ...]` for the forward pass."""

    @abstractmethod
    def unfold(self, outputs: Tensor) -> Tensor:
        """Unfold outputs of the forward pass to `[R, B, K, ...]`."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...

    @abstractmethod
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor: ...

    @abstractmethod
    def norm(self, x: Tensor, rows: Rows, options: Any) -> Tensor: ...

    @abstractmethod
    def refusal(self) -> NotFolded:
        """The error for a forward pass that mixes replicates when they are folded in this way."""

    def untried(self, reason: str) -> NotFolded:
        """The error for a forward pass that cannot be tried."""
        return NotFolded(
            f"backend: `{self.name}` tries a model in float64 first, and this one fails in it "
            f"({reason}); `loop` can compute it"
        )


class InBatch(Folding):
    """Folded to `[R * B, C, ...]`: one product for linear layers, others replicate by replicate."""

    name = "stacked"

    def fold(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def unfold(self, outputs: Tensor) -> Tensor:
        return outputs.unflatten(0, (self.count, -1))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.unflatten(0, (self.count, -1)).flatten(1, -2)
        return _product(rows, weight, bias).mT.reshape(*x.shape[:-1], -1)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        biases = [None] * self.count if bias is None else bias
        parts = zip(x.chunk(self.count), weight, biases, strict=True)
        return torch.cat([F.conv2d(part, w, b, **options) for part, w, b in parts])

    def norm(self, x: Tensor, rows: Rows, options: Any) -> Tensor:
        lone = zip(*([None] * self.count if row is None else row for row in rows), strict=True)
        parts = zip(x.chunk(self.count), lone, strict=True)
        return torch.cat([F.batch_norm(part, *row, **options) for part, row in parts])

    def refusal(self) -> NotFolded:
        return NotFolded(
            "backend: `stacked` needs a forward pass that treats every example by itself, "
            "and this model's does not; `loop` and `vmap` take any"
        )


class InChannels(Folding):
    """Folded to `[B, R * C, ...]`: one call per layer, a convolution with R times as many groups.

    No data is rearranged between two layers. If images are channels_last, a GPU computes most of
    these convolutions faster than R small ones side by side.
    """

    name = "grouped"

    def fold(self, x: Tensor) -> Tensor:
        # Contiguous even if C is 1, for a forward pass that views its images as rows.
        return x.transpose(0, 1).flatten(1, 2).contiguous()

    def unfold(self, outputs: Tensor) -> Tensor:
        return outputs.unflatten(1, (self.count, -1)).transpose(0, 1)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.count * weight.shape[2]:
            raise self.refusal()
        rows = x.unflatten(1, (self.count, -1)).transpose(0, 1)
        return _product(rows, weight, bias).permute(2, 0, 1).flatten(1)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        options = {**options, "groups": self.count * options["groups"]}
        bias = bias if bias is None else bias.flatten()
        return F.conv2d(x, weight.flatten(0, 1), bias, **options)

    def norm(self, x: Tensor, rows: Rows, options: Any) -> Tensor:
        # `batch_norm` writes to the statistics, so their reshaped rows must be views; the rows of
        # weight and bias may be copies.
        mean, var, weight, bias = (row if row is None else row.reshape(-1) for row in rows)
        return F.batch_norm(x, mean, var, weight, bias, **options)

    def refusal(self) -> NotFolded:
        return NotFolded(
            "backend: `grouped` needs a forward pass that treats every channel by itself between "
            "convolutions, linear layers and norms, and this model's does not; `loop` can compute "
            "it"
        )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs `[R, O, N]` of inputs `[R, N, I]`."""
    # The weight is the first factor, because its gradient then has the weight's layout in memory.
    if bias is None:
        return torch.bmm(weight, rows.mT)
    return torch.baddbmm(bias[..., None], weight, rows.mT)
