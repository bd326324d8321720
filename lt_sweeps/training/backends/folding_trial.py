"""`try_folding`: whether a forward pass computes folded replicates as it computes each alone."""

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

_EXAMPLES = 3  # of each replicate: little memory and time
_ROUNDING = 1e-10  # of a norm, in float64; ResNet-110 has 2e-15 on a CPU


@torch.enable_grad()
def try_folding(
    module: nn.Module, views: StackViews, folding: Folding, x: Tensor, *, training: bool
) -> None:
    """Refuse a forward pass that mixes replicates outside of a known layer, on a few examples.

    Every replicate must compute what its module does alone, and in training have the gradients that
    it has alone. It is tried in float64, where rounding hides no mistake, however small. Weights
    are drawn anew, because those of a stack can hide one too: they may be pruned, 0, diverged or
    nearly equal. So are statistics, which training writes to.

    Raises:
        NotFolded: the forward pass cannot be folded so, or not be tried in float64.
    """
    # A norm in training takes no single example, which an evaluation may have.
    few = torch.arange(_EXAMPLES, device=x.device) % x.shape[1]
    views, x = _drawn(views), _varied(x.index_select(1, few))
    module = copy.deepcopy(module).double().requires_grad_()
    with _any_kernels(), _InDouble():
        try:
            alone = _alone(module, views, x, training)
        except (torch.OutOfMemoryError, ValueError):
            raise
        except Exception as error:  # whatever a module makes of a type that is not its own
            raise folding.untried(str(error).partition("\n")[0]) from error
        try:
            together = _together(module, views, x, training, folding)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a module says of shapes that alone are right
            raise folding.refusal() from error
    for part in (slice(1), slice(1, None)):  # outputs, gradients
        if not _equal(together[part], alone[part]):
            raise folding.refusal()


def _alone(module: nn.Module, views: StackViews, x: Tensor, training: bool) -> list[Tensor]:
    """The outputs `[R, B, ...]` of each replicate's module, and in training the gradients."""
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
    """The same of all replicates, folded."""
    x = _leaf(x)
    net = folded(views.row(module, 0), views.weights, views.buffers, folding).train(training)
    outputs = folding.unfold(picked(net(folding.fold(x.clone()))))
    total = torch.stack([_weighted(part, r) for r, part in enumerate(outputs)]).sum()
    return _with_gradients(outputs, [x, *views.weights.values()], total, training)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.is_floating_point())


def _weighted(outputs: Tensor, r: int) -> Tensor:
    """A sum of a replicate's outputs, each with a factor of its own."""
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
    """Whether each replicate's numbers are the expected ones, up to rounding of all together."""
    apart = size = torch.zeros(())
    for one, other in zip(ours, expected, strict=True):
        if one.shape != other.shape:
            return False
        apart = apart + (one - other).flatten(1).square().sum(1)
        size = size + other.flatten(1).square().sum(1)
    return bool((apart <= _ROUNDING**2 * size).all())  # NaN is equal to nothing


def _drawn(views: StackViews) -> StackViews:
    """Other weights, of a size that neither grows nor fades, and the statistics of a new norm."""
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
    """Inputs of which no two replicates have the same, as all have in an evaluation."""
    if not x.is_floating_point():
        return x
    draws = torch.Generator(x.device).manual_seed(2)
    factors = torch.empty_like(x, dtype=torch.float64).uniform_(0.9, 1, generator=draws)
    return x * factors


class _InDouble(TorchFunctionMode):
    """Lets what asks for a type of floats, such as `x.float()`, have float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        named = {name: _double(value) for name, value in (kwargs or {}).items()}
        return func(*map(_double, args), **named)


def _double(value: Any) -> Any:
    """Float64 in place of another type of floats; all else as it is."""
    floats = isinstance(value, torch.dtype) and value.is_floating_point
    return torch.float64 if floats else value


@contextmanager
def _any_kernels() -> Iterator[None]:
    """Take kernels that do not repeat their bytes too, as gradients of inputs may need them."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
