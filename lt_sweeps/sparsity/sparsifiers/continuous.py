"""Continuous Sparsification: a soft mask that is annealed until it is binary (arXiv:1912.04427)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier, summed

_LOWEST_S0 = -87.0  # a smaller sigmoid is subnormal in float32, which a CPU may flush to 0
Anneal = Literal["epoch", "step", "linear", "constant"]


@dataclass(frozen=True)
class Continuous(LearnedSparsifier):
    """Multiply weights by c sigmoid(beta s); add `lmbda` times the sum of these masks to the loss.

    beta rises from 1 to `final_beta`: exponentially with every epoch (`epoch`, the released code)
    or with every step (`step`, the paper), or linearly with every step (`linear`); with `constant`
    it is `final_beta` throughout. The hard mask keeps the weights with s > 0. c is 1; if
    `scaled_from` gives the initial s, c is 1 / sigmoid(s), so that all masks are 1 at the start.
    """

    lmbda: float = 1e-8
    final_beta: float = 200.0
    anneal: Anneal = "epoch"
    scaled_from: float | None = None
    lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lmbda < 0:
            raise ValueError(f"method: lmbda={self.lmbda}; give 0 or more")
        if not self.final_beta > 0 or (self.anneal != "constant" and self.final_beta < 1):
            raise ValueError(
                f"method: final_beta={self.final_beta}; beta rises from 1, so it ends at 1 or "
                "above, and a constant beta is above 0"
            )
        if self.scaled_from is not None and not self.scaled_from >= _LOWEST_S0:
            raise ValueError(
                f"method: s0={self.scaled_from:g}; scaling divides the mask by sigmoid(s0), which "
                f"is 0 in float32; give {_LOWEST_S0:g} or more, or scaling=false"
            )

    @property
    def scale(self) -> float:
        """c, the factor of a weight whose sigmoid is 1."""
        return 1.0 if self.scaled_from is None else 1 + math.exp(-self.scaled_from)

    def temperature(self, step: int, recipe: Recipe) -> float:
        """beta after `step` optimizer steps."""
        if self.anneal == "constant":
            return self.final_beta
        if self.anneal == "epoch":
            every = recipe.steps_per_epoch
            now, last = step // every, -(-recipe.length // every) - 1
        else:
            now, last = step, recipe.length - 1
        done = now / last if last else 1.0
        if self.anneal == "linear":
            return 1 + (self.final_beta - 1) * done
        return self.final_beta**done

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        return w * self._mask(logits, temperature)

    def penalty(self, w: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
        return self.lmbda * summed(self._mask(logits, temperature))

    def chance(self, step: int, recipe: Recipe) -> tuple[float, float]:
        return self.temperature(step, recipe), 0.0

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return logits > 0

    def value(self, w: Tensor, logits: Tensor) -> Tensor:
        return self.scale * w

    def _mask(self, logits: Tensor, temperature: Tensor) -> Tensor:
        return self.scale * torch.sigmoid(temperature * logits)
