"""Initializers: each fills a whole module in place, biases with 0 and norm scales with 1."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.models.channel_flow import NORMS, WEIGHTED

# Standard deviation of a unit normal truncated at two sigma: dividing by it restores the variance.
_TRUNCATED_STD = 0.87962566103423978
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_SCALED = (*NORMS, nn.GroupNorm, nn.LayerNorm)


def glorot_normal(module: nn.Module) -> None:
    """Truncated normal whose std is exactly sqrt(2 / (fan_in + fan_out)), as in arXiv 1905.01067.

    The normal is truncated at two of its own standard deviations (Keras' `glorot_normal`).
    """

    def draw(weight: Tensor) -> None:
        outputs, inputs, *kernel = weight.shape
        fans = (outputs + inputs) * math.prod(kernel)
        std = math.sqrt(2 / fans) / _TRUNCATED_STD
        _truncated_normal(weight.detach(), std)

    _initialize(module, draw)


def _truncated_normal(weight: Tensor, std: float) -> None:
    """Draw normals; redraw those beyond two `std`. Torch's own function differs by release."""
    weight.normal_(0.0, std)
    while (beyond := weight.abs() > 2 * std).any():
        weight.copy_(torch.where(beyond, torch.empty_like(weight).normal_(0.0, std), weight))


def xavier_normal(module: nn.Module) -> None:
    """Normal of std sqrt(2 / (fan_in + fan_out)), not truncated, as in arXiv 1912.04427."""
    _initialize(module, nn.init.xavier_normal_)


def signed_constant(module: nn.Module, *, multiplier: float = 1.0) -> None:
    """`glorot_normal`, then each weight becomes its sign times the standard deviation of its layer.

    The bimodal initialisation that the authors of arXiv:1905.01067 suggest to their reviewers.
    """
    glorot_normal(module)
    for part in module.modules():
        for weight in map(Tensor.detach, _matrices(part)):
            weight.copy_(weight.sign() * weight.std(correction=0) * multiplier)


def scaled_norms(
    module: nn.Module, *, scale: float = 0.5, first: Mapping[str, Any] | None = None
) -> None:
    """Set every batch norm's scale to `scale`, after the initializer `first`."""
    if first is not None:
        Call.of(first, where="model.init", supplied=("module",))(module=module)
    for part in module.modules():
        if isinstance(part, NORMS) and part.weight is not None:
            nn.init.constant_(part.weight, scale)


def _initialize(module: nn.Module, draw: Callable[[Tensor], object]) -> None:
    for part in module.modules():
        weights = _matrices(part)
        for weight in weights:
            draw(weight)
        if isinstance(part, _SCALED) and part.weight is not None:
            nn.init.ones_(part.weight)
        elif not weights:
            continue
        for name, parameter in part.named_parameters(recurse=False):
            if name == "bias" or ("bias" in name and not isinstance(part, WEIGHTED)):
                nn.init.zeros_(parameter)


def _matrices(part: nn.Module) -> Sequence[Tensor]:
    """A module's weight matrices; q, k and v, and the gates of a recurrent layer, are separate."""
    if isinstance(part, WEIGHTED):
        return [part.weight]
    own = dict(part.named_parameters(recurse=False))
    if isinstance(part, nn.MultiheadAttention):
        joined = own.get("in_proj_weight")
        apart = [own[n] for n in ("q_proj_weight", "k_proj_weight", "v_proj_weight") if n in own]
        return apart if joined is None else list(joined.detach().chunk(3))
    if isinstance(part, _RECURRENT):
        rows = int(part.hidden_size)
        weights = [each.detach() for name, each in own.items() if name.startswith("weight_")]
        return [g for w in weights for g in (w.split(rows) if len(w) % rows == 0 else [w])]
    return []
