"""`stacked` and `grouped`: replicates folded into the batch, or into the channels, end to end.

Layers that hold weights or look across the batch are those of a `folded` module. All else in a
forward pass stays as it is; a trial shows once whether it keeps replicates apart.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.folded_module import folded
from lt_sweeps.training.backends.folding import Folding, InBatch, InChannels
from lt_sweeps.training.backends.stack_views import ImageLayout, StackViews

# Not on a CPU, where folding convolutions does not pay at all, and bytes are known.
_LAID_OUT = ("cuda",)
_EXAMPLES = 8  # of each replicate, on which a forward pass is tried: a little memory and time


class StackedBackend:
    """The module with stacked layers; `grouped` folds replicates into the channels."""

    def __init__(self, module: nn.Module, views: StackViews, *, grouped: bool) -> None:
        self._module, self._views = module, views
        self._loss, self._autocast, self._dtype = views.loss, views.autocast, views.first.dtype
        self._folding: Folding = (InChannels if grouped else InBatch)(views.replicates)
        lone = views.row(module, -1)
        self._layout = ImageLayout(lone, _LAID_OUT)
        trained = {name for name, p in lone.named_parameters() if p.requires_grad}
        leaves = {
            name: w.detach().requires_grad_(name in trained) for name, w in views.weights.items()
        }
        self._trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
        self._grads = [views.grads[name] for name in leaves if name in trained]
        self._net = folded(views.row(module, 0), leaves, views.buffers, self._folding)
        self._tried: set[bool] = {False, True} if views.replicates == 1 else set()

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        losses = self._losses(self._outputs(x), y)
        grads = torch.autograd.grad(losses.sum(), self._trained, materialize_grads=True)
        torch._foreach_copy_(self._grads, grads)  # pyright: ignore[reportPrivateImportUsage]
        return losses.detach()

    def logits(self, x: Tensor) -> Tensor:
        self._net.eval()
        outputs = self._outputs(x.expand(self._folding.count, *x.shape))
        self._net.train()
        return outputs

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The losses `[R]`: of classes in one call, of other tasks one replicate after another."""
        if y.ndim == 2 and outputs.ndim == 3 and self._loss.kind.has_cross_entropy:
            options: Any = {"reduction": "none", "label_smoothing": self._loss.smoothing}
            losses = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), **options)
            return losses.view(y.shape).mean(1)
        rows = zip(outputs, y, strict=True)
        return torch.stack([self._loss.mean(*row) for row in rows])

    def _outputs(self, x: Tensor) -> Tensor:
        """Outputs `[R, B, ...]` of inputs `[R, B, ...]`."""
        for training in {False, self._net.training} - self._tried:
            with _any_kernels():
                _check(self._module, self._views, self._folding, x, training)
            self._tried.add(training)
        with self._autocast():
            outputs = picked(self._net(self._layout(self._folding.fold(x), x[-1])))
        return self._folding.unfold(outputs.to(self._dtype))


@torch.enable_grad()
def _check(
    module: nn.Module, views: StackViews, folding: Folding, x: Tensor, training: bool
) -> None:
    """Refuse a forward pass that mixes replicates outside of a known layer, on a few examples.

    Every replicate must compute what its module does alone, up to rounding, and none may have a
    gradient from the outputs of another: that is 0 to the bit, or a mistake, however small. Weights
    are drawn anew, because those of a stack can hide a mistake: they may be pruned, 0, diverged or
    nearly equal. So are statistics, which training writes to.

    Raises:
        ValueError: the forward pass cannot be folded so.
    """
    x = x[:, :_EXAMPLES].detach().clone().requires_grad_(x.is_floating_point())
    views = _drawn(views)
    leaves = {name: weight.detach().requires_grad_() for name, weight in views.weights.items()}
    net = folded(views.row(module, 0), leaves, views.buffers, folding)
    with torch.no_grad():
        lone = [views.row(module, r).train(training) for r in range(folding.count)]
        alone = torch.stack([picked(row(part.clone())) for row, part in zip(lone, x, strict=True)])
    try:
        outputs = folding.unfold(picked(net.train(training)(folding.fold(x.clone()))))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a module says of shapes that alone are right
        raise folding.refusal() from error
    if outputs.shape != alone.shape:
        raise folding.refusal()
    apart, size = (rows.flatten(1).norm(dim=1) for rows in (outputs - alone, alone))
    # A norm of few examples enlarges rounding.
    rounding = 0.05 if training or views.arithmetic.precision == "tf32" else 0.001
    if not (apart <= rounding * size).all() or _crosses(outputs, [x, *leaves.values()]):
        raise folding.refusal()


def _crosses(outputs: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether outputs `[R, ...]` of a replicate depend on inputs `[R, ...]` of another."""
    inputs = [each for each in inputs if each.requires_grad]
    draws = torch.Generator(outputs.device).manual_seed(1)
    factors = torch.empty_like(outputs).normal_(generator=draws)
    rows = torch.arange(len(outputs), device=outputs.device)
    # Two replicates differ in a bit of their numbers, which takes fewer passes than all pairs.
    for bit, side in itertools.product(range((len(rows) - 1).bit_length()), (0, 1)):
        chosen = rows.bitwise_right_shift(bit) % 2 == side
        total = (outputs * factors)[chosen].sum()
        grads = torch.autograd.grad(total, inputs, retain_graph=True, materialize_grads=True)
        if any(grad[~chosen].nan_to_num(nan=0.0).any() for grad in grads):
            return True
    return False


@contextmanager
def _any_kernels() -> Iterator[None]:
    """Take kernels that do not repeat their bytes too, as gradients of inputs may need them."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _drawn(views: StackViews) -> StackViews:
    """Other weights, of a size that neither grows nor fades, and the statistics of a new norm."""
    draws = torch.Generator(views.first.device).manual_seed(0)
    weights = {}
    for name, weight in views.weights.items():
        scale = (2 / weight[0, 0].numel()) ** 0.5 if weight.ndim > 2 else 1.0
        weights[name] = torch.empty_like(weight).normal_(std=scale, generator=draws)
    buffers = {
        name: torch.full_like(buffer, name.endswith("running_var"))
        for name, buffer in views.buffers.items()
    }
    return dataclasses.replace(views, weights=weights, grads={}, buffers=buffers)
