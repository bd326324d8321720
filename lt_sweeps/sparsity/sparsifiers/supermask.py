"""Learned supermasks: a chance per weight to be kept, trained with the weights as they were drawn.

(arXiv:1905.01067, section 5.2.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier, per_replicate, summed


@dataclass(frozen=True)
class Supermask(LearnedSparsifier):
    """Keep a weight with probability sigmoid(logit), drawn anew in every forward pass.

    The gradient passes the draw straight through, as if it were the probability. `rescale` is
    dynamic weight rescaling: a layer's kept weights are multiplied by the inverse of the fraction
    that is kept. `rounding` trains without draws: a random half of the weights is rounded in each
    forward pass, the other half is multiplied by its probability; a test rounds them all.
    """

    rescale: bool = False
    rounding: bool = False
    lr: float = 1.0

    trains_weights: ClassVar[bool] = False
    draws: ClassVar[bool] = True
    samples: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"method: mask_lr={self.lr}; give a positive multiple")

    @property
    def lr_scale(self) -> float:
        return self.lr

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        chance = torch.sigmoid(logits)
        fixed = chance.detach()
        if self.rounding:
            drawn = torch.where(noise < 0.5, (fixed > 0.5).to(w), fixed)
        else:
            drawn = (noise < fixed).to(w)
        return self._scaled(w, drawn + (chance - fixed))

    def deployed(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        if self.rounding:
            return self.hardened(w, logits)
        return self._scaled(w, (noise < torch.sigmoid(logits)).to(w))

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return logits > 0

    def hardened(self, w: Tensor, logits: Tensor) -> Tensor:
        return self._scaled(w, self.keeps(w, logits).to(w))

    def chance(self, temperature: float) -> tuple[float, float]:
        return 1.0, 0.0

    def density(self, w: Tensor, logits: Tensor) -> Tensor:
        return self.keeps(w, logits).to(w) if self.rounding else torch.sigmoid(logits)

    def _scaled(self, w: Tensor, mask: Tensor) -> Tensor:
        if not self.rescale:
            return w * mask
        kept = summed(mask).clamp(min=1)  # nothing kept is nothing, however it is scaled
        return w * mask * per_replicate(w[0].numel() / kept, w)
