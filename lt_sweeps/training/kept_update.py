"""`update_kept`: mask, optimizer and pinning as one Triton kernel over the flat buffers.

Without it, a step passes over all weights, gradients and moments, pruned ones included, in up to
four kernels. This kernel does not change pruned weights: they already have their pinned values, and
no moments. If few weights are kept, it does not even read the pruned ones.

Microseconds per step on one H200 (torch 2.11, LeNet-300-100 with Adam, R = 45, 2026-11-27), with a
float mask: plain kernels 154 to 200; this kernel reading all weights 95 at any density; reading
only kept weights 96 if 20 % are kept, 87 at 10 %, 74 at 5 % and 43 at 0.5 %.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.own_kernels import ROUNDING

_BLOCK = 512  # four elements per thread: one load reads four mask bytes, another four floats


def update_kept(
    optimizer: Optimizer,
    weights: Tensor,
    grads: Tensor,
    mask: Tensor,
    lr: float | Tensor,
    *,
    skips: bool = True,
) -> None:
    """Take one optimizer step with the weights `[R, P]` whose `mask` `[R, P]` (any type) is not 0.

    With `skips`, a thread reads only kept weights, one number at a time; otherwise it reads and
    writes all weights, four numbers at a time. The results have the same bytes.

    The step equals `optimizer.step` with masked gradients up to rounding, as long as pruned weights
    have no moments. In addition, a NaN in a pruned weight's gradient is ignored.
    """
    optimizer.steps.add_(1)
    rate = lr if isinstance(lr, Tensor) else torch.full((), lr, device=weights.device)
    kernel = _KERNELS["sgd" if optimizer.optimizer == "sgd" else "adam", skips]
    # SGD has one moment or none. Its kernel does not read the others: `weights` is a placeholder.
    first, second = (*optimizer.moments.values(), weights, weights)[:2]
    rows, size = weights.shape
    kernel[triton.cdiv(size, _BLOCK), rows](
        *(weights, grads, mask, first, second, optimizer.steps, rate, size),
        **_factors(optimizer),
        skips=skips,
        block=_BLOCK,
        **ROUNDING,
    )


def _factors(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's settings, as compile-time constants of its kernel."""
    options = optimizer.options
    factors = {"decay": options["weight_decay"]}
    if optimizer.optimizer == "sgd":
        return factors | {name: options[name] for name in ("momentum", "nesterov")}
    factors |= {name: options[name] for name in ("beta1", "beta2", "eps")}
    # A factor of 0 has no logarithm. All its powers are 0, and those of 1e-300 act like 0 here.
    factors |= {f"log_{name}": math.log(options[name] or 1e-300) for name in ("beta1", "beta2")}
    return factors | {"decoupled": optimizer.optimizer == "adamw"}


def _adam(
    weights,
    grads,
    mask,
    first,
    second,
    steps,
    rate,
    size,
    beta1: tl.constexpr,
    beta2: tl.constexpr,
    log_beta1: tl.constexpr,
    log_beta2: tl.constexpr,
    eps: tl.constexpr,
    decay: tl.constexpr,
    decoupled: tl.constexpr,
    skips: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    at = row.to(tl.int64) * size + column
    there = column < size
    kept = tl.load(mask + at, mask=there, other=0.0) != 0
    read = kept & there if skips else there
    before = tl.load(weights + at, mask=read, other=0.0)
    g = tl.load(grads + at, mask=read, other=0.0)
    first_before = tl.load(first + at, mask=read, other=0.0)
    second_before = tl.load(second + at, mask=read, other=0.0)
    lr = tl.load(rate)
    # In float64, because 1 - 0.999 ** step loses four digits in float32.
    step = tl.load(steps + row).to(tl.float64)
    correction1 = (1 - tl.exp(step * log_beta1)).to(tl.float32)
    correction2 = tl.sqrt((1 - tl.exp(step * log_beta2)).to(tl.float32))
    w = before
    if decay != 0:
        if decoupled:
            w = w - lr * decay * w
        else:
            g = g + decay * w
    m = beta1 * first_before + (1 - beta1) * g
    v = beta2 * second_before + (1 - beta2) * g * g
    w = w - (lr / correction1) * m / (tl.sqrt(v) / correction2 + eps)
    tl.store(weights + at, tl.where(kept, w, before), mask=read)
    tl.store(first + at, tl.where(kept, m, first_before), mask=read)
    tl.store(second + at, tl.where(kept, v, second_before), mask=read)


def _sgd(
    weights,
    grads,
    mask,
    first,
    second,
    steps,
    rate,
    size,
    momentum: tl.constexpr,
    nesterov: tl.constexpr,
    decay: tl.constexpr,
    skips: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    at = row.to(tl.int64) * size + column
    there = column < size
    kept = tl.load(mask + at, mask=there, other=0.0) != 0
    read = kept & there if skips else there
    w = tl.load(weights + at, mask=read, other=0.0)
    g = tl.load(grads + at, mask=read, other=0.0)
    lr = tl.load(rate)
    if decay != 0:
        g = g + decay * w
    if momentum != 0:
        before = tl.load(first + at, mask=read, other=0.0)
        m = momentum * before + g
        tl.store(first + at, tl.where(kept, m, before), mask=read)
        if nesterov:
            g = g + momentum * m
        else:
            g = m
    tl.store(weights + at, tl.where(kept, w - lr * g, w), mask=read)


# If Triton compiles for a size that is a multiple of 16, a thread loads four adjacent numbers
# together. With a sparse mask a warp would then still read nearly all of the memory, so the kernels
# that skip pruned weights are not specialised on the size.
_jit: Any = triton.jit
_KERNELS: dict[tuple[str, bool], Any] = {
    (name, skips): _jit(kernel, do_not_specialize=["size"] if skips else [])
    for name, kernel in (("adam", _adam), ("sgd", _sgd))
    for skips in (False, True)
}
