"""Learned supermasks: each weight's probability to be kept is trained, not the weight itself.

(arXiv:1905.01067, section 5.2.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier, per_replicate, summed


@dataclass(frozen=True)
class Supermask(LearnedSparsifier):
    """Keep a weight with probability sigmoid(logit), drawn in every forward pass.

    The gradient passes through the draw as if it were the probability. With `rescale` (dynamic
    weight rescaling), a layer's kept weights are divided by the fraction that is kept. With
    `rounding` no mask is drawn: in each forward pass the probabilities of a random half of the
    weights are rounded to 0 or 1 and get no gradient, and the others multiply their weights
    unrounded. A test rounds all of them. (`get_effective_mask` of the released code does the same.)
    """

    rescale: bool = False
    rounding: bool = False
    lr: float = 1.0

    samples: ClassVar[int] = 10
    trains_weights: ClassVar[bool] = False  # they stay as they were drawn

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        chance = torch.sigmoid(logits)
        if self.rounding:
            return self._scaled(w, torch.where(noise < 0.5, (chance > 0.5).to(w), chance))
        fixed = chance.detach()
        return self._scaled(w, (noise < fixed).to(w) + (chance - fixed))

    def identity(self) -> dict[str, Any]:
        # Before version 2 the gradient passed through rounded probabilities as well.
        return {**super().identity(), **({"version": 2} if self.rounding else {})}

    def deployed(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        if self.rounding:
            return self.hardened(w, logits)
        return self._scaled(w, self.sampled(w, logits, noise).to(w))

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return logits > 0

    def sampled(self, w: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        return noise < torch.sigmoid(logits)

    def hardened(self, w: Tensor, logits: Tensor) -> Tensor:
        return self._scaled(w, self.keeps(w, logits).to(w))

    def chance(self, step: int, recipe: Recipe) -> tuple[float, float]:
        return 1.0, 0.0

    def density(self, w: Tensor, logits: Tensor) -> Tensor:
        return self.keeps(w, logits).to(w) if self.rounding else torch.sigmoid(logits)

    def _scaled(self, w: Tensor, mask: Tensor) -> Tensor:
        if not self.rescale:
            return w * mask
        kept = summed(mask).clamp(min=1)  # a layer that keeps nothing stays 0
        return w * mask * per_replicate(w[0].numel() / kept, w)
