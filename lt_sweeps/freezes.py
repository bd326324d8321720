"""Freezes (mask-0 actions): what a pruned weight is pinned to (arXiv:1905.01067, section 4).

A freeze is a function of one layer's weights that names the evidence it needs, as a reset does. It
decides once, when a weight is pruned; the value then stays for all later levels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zero(final: Tensor) -> Tensor:
    """0: the weight is gone."""
    return torch.zeros_like(final)


def init(init: Tensor) -> Tensor:
    """The value that the training which just ended had started from."""
    return init
