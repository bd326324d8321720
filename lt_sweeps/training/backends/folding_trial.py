"""`try_folding`: whether a forward pass computes folded replicates as it computes each alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.folded_module import folded
from lt_sweeps.training.backends.folding import Folding
from lt_sweeps.training.backends.stack_views import StackViews

_EXAMPLES = 4  # of each replicate: little memory and time
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
    views, x = _drawn(views), _varied(x[:, :_EXAMPLES])
    module = copy.deepcopy(module).double()
    inputs = [x, *views.weights.values()]
    with _any_kernels(), _InDouble():
        try:
            alone = _with_gradients(_alone(module, views, x, training), inputs, training)
        except (torch.OutOfMemoryError, ValueError):
            raise
        except Exception as error:  # whatever a module makes of a type that is not its own
            raise folding.untried(str(error).partition("\n")[0]) from error
        net = folded(views.row(module, 0), views.weights, views.buffers, folding).train(training)
        try:
            outputs = folding.unfold(picked(net(folding.fold(x.clone()))))
            together = _with_gradients(outputs, inputs, training)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a module says of shapes that alone are right
            raise folding.refusal() from error
    if not all(map(_equal, together, alone)):
        raise folding.refusal()


def _alone(module: nn.Module, views: StackViews, x: Tensor, training: bool) -> Tensor:
    """The outputs `[R, B, ...]` of the module with each replicate's weights in turn."""
    row = views.row(module, 0).train(training)
    stacks = {**views.weights, **views.buffers}
    states = [{name: stack[r] for name, stack in stacks.items()} for r in range(len(x))]
    parts = zip(states, x.clone(), strict=True)
    return torch.stack([picked(functional_call(row, state, (part,))) for state, part in parts])


def _with_gradients(
    outputs: Tensor, inputs: Sequence[Tensor], training: bool
) -> tuple[Sequence[Tensor], ...]:
    """The outputs `[R, ...]`, and in training the gradients of a weighted sum of them."""
    if not training:
        return ([outputs],)
    draws = torch.Generator(outputs.device).manual_seed(1)
    # Not of the layout in memory of the outputs, in whose order numbers would be drawn.
    factors = torch.randn(
        outputs.shape, dtype=outputs.dtype, device=outputs.device, generator=draws
    )
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    grads = torch.autograd.grad((outputs * factors).sum(), inputs, materialize_grads=True)
    return [outputs.detach()], grads


def _equal(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether each replicate's numbers are the expected ones, up to rounding of all together."""
    apart = size = torch.zeros((), device=ours[0].device)
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
    return (x.detach() * factors).requires_grad_()


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
