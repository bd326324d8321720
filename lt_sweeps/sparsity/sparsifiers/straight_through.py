"""DNW: compute with the largest weights of a layer, train all of them (arXiv:1906.00586)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.seeds import generator
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier


@dataclass(frozen=True)
class StraightThrough(LearnedSparsifier):
    """Compute with the largest weights of each layer, and train all weights.

    A weight outside the mask gets the gradient that it would have if it were kept, so it may grow
    and return. There are no logits: the magnitude of a weight decides whether it is kept.
    """

    sparsity: float

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (0,)

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        # The detached difference sets the value to the hardened one; the gradient to w stays 1.
        return w + (self.hardened(w, logits) - w).detach()

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        sizes = w.detach().abs().flatten(1)
        count = round(sizes.shape[1] * (1 - self.sparsity))
        order = _order(sizes.shape[1], sizes.device)
        largest = order[sizes[:, order].topk(count, dim=1, sorted=False).indices]
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        return kept.scatter_(1, largest, True).view_as(w)


@functools.cache
def _order(size: int, device: torch.device) -> Tensor:
    """A random order of a layer's weights, to break ties: of equal weights the first stay.

    By their position, the first rows of a layer would stay whole if all weights start with one
    magnitude. The order is the same for all replicates, because a forward pass has no seed; from
    the first update on, no two weights are equal.
    """
    return torch.randperm(size, generator=generator(0, "ties", "dnw")).to(device)
