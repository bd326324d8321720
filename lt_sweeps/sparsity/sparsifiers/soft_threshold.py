"""STR: soft thresholding of weights, with one learned threshold per layer (arXiv:2002.03231)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.mask_logits import grained
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier


@dataclass(frozen=True)
class SoftThreshold(LearnedSparsifier):
    """sign(w) relu(|w| - sigmoid(s)), with one s for each layer.

    s starts far below 0, where sigmoid(s) and its gradient are 0. From there only its weight decay,
    `threshold_decay`, raises it. So the initial s and `threshold_decay` decide when sparsity sets
    in.
    """

    threshold_decay: float = 5e-4
    lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold_decay < 0:
            raise ValueError(f"method: threshold_decay={self.threshold_decay}; give 0 or more")

    @property
    def decay(self) -> float:
        return self.threshold_decay

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return grained(layer.shape, "layer")

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        return self.value(w, logits)

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return w.abs() > torch.sigmoid(logits)

    def value(self, w: Tensor, logits: Tensor) -> Tensor:
        return w.sign() * (w.abs() - torch.sigmoid(logits)).relu()
