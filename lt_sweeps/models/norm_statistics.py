"""Running statistics of normalisation: who has them, and how long their past stays in them."""

from __future__ import annotations

from typing import Any

from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_HELD = 2.0**-25  # a smaller part of a number is lost in float32


def has_statistics(module: nn.Module) -> bool:
    """Whether it has norms with running statistics."""
    return any(name.endswith("running_mean") for name, _ in module.named_buffers())


def lingering_norms(module: nn.Module, batches: int) -> dict[str, float | None]:
    """The norms, each with its momentum, whose statistics so many batches do not make anew.

    Running statistics of momentum m hold (1 - m)^n of what they were before n batches; those
    of a batch norm without momentum are the mean of all batches that it has ever seen. An
    instance norm without momentum never changes its own.
    """
    return {
        name: part.momentum
        for name, part in module.named_modules()
        if isinstance(part, (*_BATCH_NORMS, *_INSTANCE_NORMS))
        and part.track_running_stats
        and _lingers(part, batches)
    }


def _lingers(norm: Any, batches: int) -> bool:
    momentum = norm.momentum
    if momentum is None:
        return isinstance(norm, _BATCH_NORMS)
    return 0 < momentum < 1 and (1 - momentum) ** batches >= _HELD
