"""The operations between the products of a chain of linear layers, as few Triton kernels.

In a step of LeNet-300-100 on an H100 with 45 replicates, a fifth of the time went to small kernels
between the products; here they are five. All of them work on contiguous tensors `[R, B, width]`.
Sums are taken in float32, in the same order in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from lt_sweeps.training.own_kernels import ROUNDING

_BLOCK = 1024
_COLUMNS = 32
_AT_ONCE = 2**13  # the most numbers in one program: a batch of logits, or some columns of a batch


def bias_relu_(x: Tensor, bias: Tensor | None) -> Tensor:
    """Replace `x` `[R, B, width]` by the ReLU of `x` plus `bias` `[R, width]`, in place."""
    count, width = x[0].numel(), x.shape[2]
    grid = (triton.cdiv(count, _BLOCK), len(x))
    rows, stride = _or_unread(bias, x)
    kernel: Any = _add_relu
    sizes = {"biased": bias is not None, "block": _BLOCK}
    kernel[grid](x, rows, stride, count, width, **sizes, **ROUNDING)
    return x


def relu_backward_(ahead: Tensor, x: Tensor, bias_grad: Tensor | None) -> Tensor:
    """Set the gradients `ahead` `[R, B, width]` to 0 where `x`, a ReLU's output, is 0, in place.

    Their sums over the batch are written to `bias_grad` `[R, width]`.
    """
    _, batch, width = x.shape
    sums, stride = _or_unread(bias_grad, x)
    sizes: dict[str, Any] = {"rows": triton.next_power_of_2(batch), "columns": _COLUMNS}
    kernel: Any = _relu_backward
    kernel[triton.cdiv(width, _COLUMNS), len(x)](
        *(ahead, x, sums, stride, batch, width),
        biased=bias_grad is not None,
        **sizes,
        **ROUNDING,
    )
    return ahead


def cross_entropy(
    logits: Tensor, bias: Tensor | None, labels: Tensor, bias_grad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mean losses `[R]` of `logits` plus `bias`, and the gradient of the logits.

    The gradient has the type of `logits` `[R, B, classes]`; its sums over the batch are written to
    `bias_grad`. `labels` are `[R, B]`.
    """
    replicates, batch, classes = logits.shape
    losses = logits.new_empty(replicates, dtype=torch.float32)
    ahead = torch.empty_like(logits)
    added, stride = _or_unread(bias, logits)
    sums, grad_stride = _or_unread(bias_grad, logits)
    kernel: Any = _cross_entropy
    kernel[(replicates,)](
        *(logits, added, stride, labels.contiguous(), losses, ahead, sums, grad_stride),
        *(batch, classes),
        biased=bias is not None,
        rows=triton.next_power_of_2(batch),
        columns=triton.next_power_of_2(classes),
        **ROUNDING,
    )
    return losses, ahead


def fits(batch: int, classes: int) -> bool:
    """Whether a batch of logits, and a block of columns of a batch, each fit into one program."""
    rows = triton.next_power_of_2(batch)
    return rows * max(_COLUMNS, triton.next_power_of_2(classes)) <= _AT_ONCE


def _or_unread(rows: Tensor | None, unread: Tensor) -> tuple[Tensor, int]:
    """Return `rows` `[R, width]` and their stride; without rows a tensor that no kernel reads."""
    return (unread, 0) if rows is None else (rows, rows.stride(0))


# `_add` and `_larger` replace `tl.sum` and `tl.max`, which work in Triton's interpreter only if it
# was already on when triton was imported.
@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _add_relu(x, bias, stride, count, width, biased: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    there = at < count
    place = row.to(tl.int64) * count + at
    value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    if biased:
        value += tl.load(bias + row.to(tl.int64) * stride + at % width, mask=there, other=0.0)
    # NaN stays NaN, as in torch's ReLU.
    tl.store(x + place, tl.where(value <= 0, 0.0, value).to(x.dtype.element_ty), mask=there)


@triton.jit
def _relu_backward(
    ahead,
    x,
    grad,
    stride,
    batch,
    width,
    biased: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    example = tl.arange(0, rows)
    there = (example < batch)[:, None] & (column < width)[None, :]
    place = row * batch * width + example[:, None] * width + column[None, :]
    value = tl.load(ahead + place, mask=there, other=0.0)
    value = tl.where(tl.load(x + place, mask=there, other=0.0) <= 0, 0.0, value)
    tl.store(ahead + place, value, mask=there)
    if biased:
        total = tl.reduce(value.to(tl.float32), 0, _add)
        tl.store(grad + row * stride + column, total, mask=column < width)


@triton.jit
def _cross_entropy(
    logits,
    bias,
    stride,
    labels,
    losses,
    ahead,
    grad,
    grad_stride,
    batch,
    classes,
    biased: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    example, column = tl.arange(0, rows), tl.arange(0, columns)
    there = (example < batch)[:, None] & (column < classes)[None, :]
    place = row * batch * classes + example[:, None] * classes + column[None, :]
    value = tl.load(logits + place, mask=there, other=0.0).to(tl.float32)
    if biased:
        value += tl.load(bias + row * stride + column, mask=column < classes, other=0.0)[None, :]
    value = tl.where(there, value, float("-inf"))
    # Rows beyond the batch are all -inf: their maximum and sum are replaced by 0 and 1.
    top = tl.where(example < batch, tl.reduce(value, 1, _larger), 0.0)
    shifted = value - top[:, None]
    total = tl.where(example < batch, tl.reduce(tl.exp(shifted), 1, _add), 1.0)
    logp = shifted - tl.log(total)[:, None]
    label = tl.load(labels + row * batch + example, mask=example < batch, other=0)
    own = there & (column[None, :] == label[:, None])
    of_label = tl.reduce(tl.where(own, -logp, 0.0), 1, _add)
    tl.store(losses + row, tl.reduce(of_label, 0, _add) / batch)
    back = tl.where(there, tl.exp(logp) - tl.where(own, 1.0, 0.0), 0.0) / batch
    back = back.to(ahead.dtype.element_ty)
    tl.store(ahead + place, back, mask=there)
    if biased:
        sums = tl.reduce(back.to(tl.float32), 0, _add)
        tl.store(grad + row * grad_stride + column, sums, mask=column < classes)
