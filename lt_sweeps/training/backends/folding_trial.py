"""`try_folding`: check that a forward pass of folded replicates computes the same as each alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.folded_module import folded
from lt_sweeps.training.backends.folding import Folding
from lt_sweeps.training.backends.stack_views import StackViews

_EXAMPLES = 3  # per replicate; few, to save memory and time
_ROUNDING = 1e-10  # largest relative difference in float64; ResNet-110 has 2e-15 on a CPU


@torch.enable_grad()
def try_folding(
    module: nn.Module, views: StackViews, folding: Folding, x: Tensor, *, training: bool
) -> None:
    """Refuse a forward pass that mixes replicates outside of the known layers.

    The forward pass is tried on a few examples. Every replicate must have the same outputs as its
    module alone and, with `training`, the same gradients. The trial runs in float64, so that
    rounding cannot hide even a small mistake. It uses newly drawn weights, because the stack's
    weights could hide a mistake too: they may be pruned, 0, diverged or nearly equal. It also uses
    new batch-norm statistics, because training changes them.

    Raises:
        NotFolded: the forward pass cannot be folded in this way, or cannot be tried in float64.
    """
    # An evaluation may have a single example, which a norm in training mode refuses.
    examples = torch.arange(_EXAMPLES, device=x.device) % x.shape[1]
    views, x = _drawn(views), _varied(x.index_select(1, examples))
    module = copy.deepcopy(module).double().requires_grad_()
    with _any_kernels(), _InDouble():
        try:
            alone = _alone(module, views, x, training)
        except (torch.OutOfMemoryError, ValueError):
            raise
        except Exception as error:  # a module may raise anything when it gets another float type
            raise folding.untried(str(error).partition("\n")[0]) from error
        try:
            together = _together(module, views, x, training, folding)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a module may raise anything when it gets folded shapes
            raise folding.refusal() from error
    for part in (slice(1), slice(1, None)):  # outputs, gradients
        if not _equal(together[part], alone[part]):
            raise folding.refusal()


def _alone(module: nn.Module, views: StackViews, x: Tensor, training: bool) -> list[Tensor]:
    """The outputs `[R, B, ...]` of each replicate's own module; with `training`, also gradients."""
    rows = []
    for r, part in enumerate(x):
        row, part = views.row(module, r).train(training), _leaf(part)
        outputs = picked(row(part.clone()))
        inputs = [part, *row.parameters()]
        rows.append(_with_gradients(outputs, inputs, _weighted(outputs, r), training))
    return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]


def _together(
    module: nn.Module, views: StackViews, x: Tensor, training: bool, folding: Folding
) -> list[Tensor]:
    """The same tensors as `_alone`, computed by all replicates folded together."""
    x = _leaf(x)
    net = folded(views.row(module, 0), views.weights, views.buffers, folding).train(training)
    outputs = folding.unfold(picked(net(folding.fold(x.clone()))))
    total = torch.stack([_weighted(part, r) for r, part in enumerate(outputs)]).sum()
    return _with_gradients(outputs, [x, *views.weights.values()], total, training)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.is_floating_point())


def _weighted(outputs: Tensor, r: int) -> Tensor:
    """The sum of a replicate's outputs, each multiplied by a random factor."""
    draws = torch.Generator(outputs.device).manual_seed(r)
    kind = {"dtype": outputs.dtype, "device": outputs.device}
    return (outputs * torch.randn(outputs.shape, generator=draws, **kind)).sum()


def _with_gradients(
    outputs: Tensor, inputs: Sequence[Tensor], total: Tensor, training: bool
) -> list[Tensor]:
    if not training:
        return [outputs]
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    return [outputs, *torch.autograd.grad(total, inputs, materialize_grads=True)]


def _equal(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether each replicate's numbers, as one vector, are the expected ones up to rounding."""
    difference = size = torch.zeros(())
    for one, other in zip(ours, expected, strict=True):
        if one.shape != other.shape:
            return False
        difference = difference + (one - other).flatten(1).square().sum(1)
        size = size + other.flatten(1).square().sum(1)
    return bool((difference <= _ROUNDING**2 * size).all())  # False if a number is NaN


def _drawn(views: StackViews) -> StackViews:
    """Copy `views` with new random weights in float64, and the statistics of a new norm.

    The weights are scaled so that activations neither grow nor vanish from layer to layer.
    """
    draws = torch.Generator(views.first.device).manual_seed(0)
    weights = {}
    for name, weight in views.weights.items():
        scale = (2 / weight[0, 0].numel()) ** 0.5 if weight.ndim > 2 else 1.0
        drawn = torch.empty_like(weight, dtype=torch.float64).normal_(std=scale, generator=draws)
        weights[name] = drawn.requires_grad_()
    buffers = {
        name: torch.full_like(buffer, name.endswith("running_var"), dtype=_double(buffer.dtype))
        for name, buffer in views.buffers.items()
    }
    return dataclasses.replace(views, weights=weights, grads={}, buffers=buffers)


def _varied(x: Tensor) -> Tensor:
    """Change inputs a little, so that replicates differ: in an evaluation all get the same."""
    if not x.is_floating_point():
        return x
    draws = torch.Generator(x.device).manual_seed(2)
    factors = torch.empty_like(x, dtype=torch.float64).uniform_(0.9, 1, generator=draws)
    return x * factors


class _InDouble(TorchFunctionMode):
    """Within this context, requests for any float type, such as `x.float()`, give float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        named = {name: _double(value) for name, value in (kwargs or {}).items()}
        return func(*map(_double, args), **named)


def _double(value: Any) -> Any:
    """Return float64 instead of any other float type; return all other values unchanged."""
    floats = isinstance(value, torch.dtype) and value.is_floating_point
    return torch.float64 if floats else value


@contextmanager
def _any_kernels() -> Iterator[None]:
    """Allow non-deterministic kernels, which the gradients of inputs may need."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
