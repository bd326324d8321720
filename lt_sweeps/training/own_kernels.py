"""`run_on`: whether our Triton kernels can run on a device; `ROUNDING`: how they round."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("lt_sweeps")

# Options of every launch. A fused multiply-add rounds once instead of twice. Triton 3.10 no longer
# fuses by default, and an environment variable can change it, so the last digits of results would
# depend on both.
ROUNDING: dict[str, Any] = {"enable_fp_fusion": True}


def run_on(weights: Tensor) -> bool:
    """Whether our kernels can train these weights; otherwise torch's own kernels are used."""
    if not (weights.is_cuda and weights.dtype == torch.float32 and torch.cuda.is_available()):
        return False
    # Triton starts its kernels on the current device.
    return weights.device.index == torch.cuda.current_device() and _tried(str(weights.device))


@functools.cache
def _tried(device: str) -> bool:
    """Whether a small kernel runs: Triton needs a C compiler and a writable folder.

    A machine without them trains more slowly, with results that are equal up to rounding.
    """
    try:
        from lt_sweeps.training.backends.chain_kernels import bias_relu_

        bias_relu_(torch.zeros(1, 1, 1, device=device), None)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        raise  # a smaller stack may fit
    except Exception as error:  # Triton's compiler may raise anything
        line = str(error).strip().partition("\n")[0]
        _log.warning(
            "Triton does not work here, so steps use torch's kernels: %s: %s",
            type(error).__name__,
            line,
        )
        return False
    return True
