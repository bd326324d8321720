"""DNW: the largest weights of a layer forward, a gradient to all of them (arXiv:1906.00586)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier


@dataclass(frozen=True)
class StraightThrough(LearnedSparsifier):
    """Compute with the largest weights of each layer; train them all, as if none were left out.

    It has no logits: a weight's own magnitude decides, and one that was left out may return.
    """

    sparsity: float

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (0,)

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        # The difference is 0 in the forward pass where a weight is kept, and its negative else.
        return w + (self.hardened(w, logits) - w).detach()

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        sizes = w.detach().abs().flatten(1)
        count = round(sizes.shape[1] * (1 - self.sparsity))
        largest = sizes.topk(count, dim=1, sorted=False).indices
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        return kept.scatter_(1, largest, True).view_as(w)
