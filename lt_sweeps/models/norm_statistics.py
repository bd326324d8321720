"""Running statistics of normalisation: which norms have them, and how long old values last."""

from __future__ import annotations

from typing import Any

from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_HELD = 2.0**-25  # a smaller fraction of a number is lost in float32


def has_statistics(module: nn.Module) -> bool:
    """Whether a module has norms with running statistics."""
    return any(name.endswith("running_mean") for name, _ in module.named_buffers())


def lingering_norms(module: nn.Module, batches: int) -> dict[str, float | None]:
    """The norms, with their momentum, whose statistics still hold old values after `batches`.

    After n batches, running statistics with momentum m still hold (1 - m)^n of their old values.
    Those of a batch norm without momentum are the mean of all batches that it has ever seen. An
    instance norm without momentum never changes its statistics.
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
