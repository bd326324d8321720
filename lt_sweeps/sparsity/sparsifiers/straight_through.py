"""DNW: the largest weights of a layer forward, a gradient to all of them (arXiv:1906.00586)."""

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

    A weight that is left out gets the gradient that it would have if it were kept, so it may grow
    and return. There are no logits: the magnitude of a weight decides.
    """

    sparsity: float

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (0,)

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        # The difference is detached: it sets w to its hardened value, and the gradient to w is 1.
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
    """One order of a layer's weights, drawn at random: of equal weights the first stay.

    In their own order the first rows of a layer would stay whole where all weights start with one
    magnitude. It is the same for all replicates, because a forward pass knows no seed; from the
    first update on no two weights are equal.
    """
    return torch.randperm(size, generator=generator(0, "ties", "dnw")).to(device)
