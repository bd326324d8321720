"""Slimming: a penalty on batch-norm scales, so that some channels fade out (arXiv:1708.06519)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier


@dataclass(frozen=True)
class Slimming(Sparsifier):
    """Add `lmbda` times the L1 norm of the batch-norm `scales` (parameter names) to the loss."""

    lmbda: float
    scales: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.lmbda >= 0:
            raise ValueError(f"method: lmbda={self.lmbda:g}; give 0 or more")

    def regularise(self, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> None:
        for name in self.scales:
            grads[name].add_(weights[name].sign(), alpha=self.lmbda)

    def __str__(self) -> str:
        return f"Slimming(lmbda={self.lmbda!r})"
