"""Slimming: a penalty on batch-norm scales, for channels to be told apart by (arXiv:1708.06519)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier


@dataclass(frozen=True)
class Slimming(Sparsifier):
    """The L1 norm of `scales`, which are parameter names, times `lmbda` is added to the loss."""

    lmbda: float
    scales: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.lmbda >= 0:
            raise ValueError(f"method: lmbda={self.lmbda:g}; a penalty is not negative")

    def regularise(self, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> None:
        for name in self.scales:
            grads[name].add_(weights[name].sign(), alpha=self.lmbda)

    def __str__(self) -> str:
        return f"Slimming(lmbda={self.lmbda!r})"
