"""`ImportedLevel`: one trained level of other code's experiment, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImportedLevel:
    """One level of one seed: its mask, and everything else that is known about it.

    `choices` are the option names that tables show; `config` distinguishes its cell from others.
    `state` is empty if only the mask is known. If the mask is not known either, `left` and `total`
    count the kept weights and all weights by layer. `metrics` are named as in a record
    (`test_accuracy`); `history` holds the evaluations of the training.
    """

    choices: Mapping[str, str]
    config: Mapping[str, Any]
    seed: int
    level: int
    mask: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    step: int = 0
    target_sparsity: float | None = None
    left: Mapping[str, int] = field(default_factory=dict)
    total: Mapping[str, int] = field(default_factory=dict)
    report_at: str = "end"


def masked(
    state: Mapping[str, Tensor], mask: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the weights, 0 where they are pruned, even if they were NaN.

    Raises: ValueError: a mask and its weights differ in shape, or the mask is 1 where it prunes.
    """
    weights = dict(state)
    for name in mask.keys() & state.keys():
        kept, tensor = mask[name], state[name]
        if tensor.shape != kept.shape:
            raise ValueError(f"{where}: mask and weights of {name} differ in shape")
        if tensor.is_floating_point() and tensor.element_size() == 1:
            tensor = tensor.float()  # torch computes nothing in 8 bits
        if kept.any() and not tensor[kept].any() and tensor[~kept].any():
            raise ValueError(
                f"{where}: the mask of {name} keeps only weights that are 0; 1 is to mean kept"
            )
        weights[name] = torch.where(kept, tensor, torch.zeros((), dtype=tensor.dtype))
    return weights


def binary(mask: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the masks as bool.

    Raises: ValueError: there is no mask, or one is empty, sparse, complex or not all 0 and 1.
    """
    for name, tensor in mask.items():
        if not tensor.numel() or tensor.layout != torch.strided or tensor.is_complex():
            raise ValueError(f"{where}: mask of {name} is empty, sparse or complex")
        if ((tensor != 0) & (tensor != 1)).any():
            raise ValueError(f"{where}: mask of {name} has entries other than 0 and 1")
    if not mask:
        raise ValueError(f"{where}: no mask in it; a mask is a tensor of 0 and 1 for each weight")
    return {name: tensor.bool() for name, tensor in mask.items()}
