"""An initializer for batch-norm scales, applied after another one for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lt_sweeps.config.call import Call
from lt_sweeps.models.channel_flow import NORMS


def scaled_norms(
    module: nn.Module, *, scale: float = 0.5, first: Mapping[str, Any] | None = None
) -> None:
    """Every batch norm scales by `scale`; all else is as the initializer `first` leaves it."""
    if first is not None:
        Call.of(first, where="model.init", supplied=("module",))(module=module)
    for part in module.modules():
        if isinstance(part, NORMS) and part.weight is not None:
            nn.init.constant_(part.weight, scale)
