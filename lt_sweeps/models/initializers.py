"""Initializers: each fills a whole module in place, biases with 0 and norm scales with 1."""

import math
from collections.abc import Callable

from torch import Tensor, nn

# Standard deviation of a unit normal truncated at two sigma: dividing by it restores the variance.
_TRUNCATED_STD = 0.87962566103423978
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)


def glorot_normal(module: nn.Module) -> None:
    """Truncated normal whose std is exactly sqrt(2 / (fan_in + fan_out)), as in arXiv 1905.01067.

    Truncated at two standard deviations of the normal it is cut from (Keras' `glorot_normal`).
    """

    def draw(weight: Tensor) -> None:
        outputs, inputs, *kernel = weight.shape
        fans = (outputs + inputs) * math.prod(kernel)
        std = math.sqrt(2 / fans) / _TRUNCATED_STD
        nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)

    _initialize(module, draw)


def xavier_normal(module: nn.Module) -> None:
    """Normal of std sqrt(2 / (fan_in + fan_out)), not truncated, as in arXiv 1912.04427."""
    _initialize(module, nn.init.xavier_normal_)


def signed_constant(module: nn.Module, *, multiplier: float = 1.0) -> None:
    """`glorot_normal`, with every weight at its sign times the standard deviation of its layer.

    The bimodal initialisation that the authors of arXiv:1905.01067 suggest to their reviewers.
    """
    glorot_normal(module)
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            weight = part.weight.detach()
            weight.copy_(weight.sign() * weight.std(correction=0) * multiplier)


def _initialize(module: nn.Module, draw: Callable[[Tensor], object]) -> None:
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            draw(part.weight)
        elif isinstance(part, _NORMS) and part.weight is not None:
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
