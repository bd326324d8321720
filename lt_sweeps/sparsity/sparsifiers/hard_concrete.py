"""L0: gates drawn from the hard concrete distribution (arXiv:1712.01312)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.mask_logits import Grain, first, grained
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier, summed

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
CLOSED = math.log(-GAMMA / ZETA)  # log alpha below which the gate of a test is 0
_EDGE = 1e-6
_SHIFT = -BETA * CLOSED  # P(gate is not 0) is sigmoid(log alpha + this)
_LOWEST, _HIGHEST = math.log(1e-2), math.log(1e2)  # range of log alpha in the authors' code


@dataclass(frozen=True)
class HardConcrete(LearnedSparsifier):
    """Multiply weights by gates in [0, 1]: drawn in every training forward pass, fixed in a test.

    A logit is log alpha. Added to the loss are `lmbda` times the expected number of nonzero
    weights, and `l2` times half the expected sum of their squares. `grain` says whether each weight
    has its own gate, or the weights of a channel share one.
    """

    lmbda: float = 0.0
    l2: float = 0.0
    grain: Grain = "weight"
    lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lmbda < 0 or self.l2 < 0:
            raise ValueError(f"method: lmbda={self.lmbda}, l2={self.l2}; give 0 or more")
        if self.grain == "layer":
            raise ValueError("method: grain='layer'; give weight or channel")

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return grained(layer.shape, self.grain)

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        return w * gate(logits, first(noise, logits.shape[1:]))

    def deployed(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        return self.value(w, logits)

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return (fixed_gate(logits) > 0).expand_as(w)

    def sampled(self, w: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        return (gate(logits, first(noise, logits.shape[1:])) > 0).expand_as(w)

    def value(self, w: Tensor, logits: Tensor) -> Tensor:
        return w * fixed_gate(logits)

    def chance(self, step: int, recipe: Recipe) -> tuple[float, float]:
        return 1.0, _SHIFT

    def penalty(self, w: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
        costs = self.lmbda + self.l2 / 2 * w.square() if self.l2 else self.lmbda
        return summed(costs * open_chance(logits).expand_as(w))

    def after_step(self, logits: Tensor) -> None:
        logits.clamp_(_LOWEST, _HIGHEST)


def gate(logits: Tensor, noise: Tensor) -> Tensor:
    """The gate drawn by uniform noise in [0, 1)."""
    u = _EDGE + (1 - 2 * _EDGE) * noise
    return _stretched(torch.sigmoid((torch.logit(u) + logits) / BETA))


def fixed_gate(logits: Tensor) -> Tensor:
    """The gate in a test: 0 for log alpha below -log 11, and 1 above log 11."""
    return _stretched(torch.sigmoid(logits))


def open_chance(logits: Tensor) -> Tensor:
    """P(gate is not 0)."""
    return torch.sigmoid(logits + _SHIFT)


def _stretched(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
