"""`stacked` and `grouped`: fold replicates into the batch or the channels for the forward pass.

Layers that have weights or mix the examples of a batch are replaced (`folded`). All other
operations of the forward pass are unchanged; a trial checks once that they keep replicates apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.folded_module import folded
from lt_sweeps.training.backends.folding import Folding, InBatch, InChannels
from lt_sweeps.training.backends.folding_trial import try_folding
from lt_sweeps.training.backends.stack_views import ImageLayout, StackViews, convolves

# Not on a CPU: folded convolutions are slow there anyway, and the layout would round differently.
_LAID_OUT = ("cuda",)


class StackedBackend:
    """Computes all replicates with one module of stacked layers.

    Replicates are folded into the channels if `grouped`, otherwise into the batch.
    """

    def __init__(self, module: nn.Module, views: StackViews, *, grouped: bool) -> None:
        self._module, self._views = module, views
        self._loss, self._autocast, self._dtype = views.loss, views.autocast, views.first.dtype
        self._folding: Folding = (InChannels if grouped else InBatch)(views.replicates)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        leaves = {
            name: w.detach().requires_grad_(name in trained) for name, w in views.weights.items()
        }
        self._trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
        self._grads = [views.grads[name] for name in leaves if name in trained]
        self._net = folded(views.row(module, 0), leaves, views.buffers, self._folding)
        self._layout = ImageLayout(self._net, _LAID_OUT if convolves(module) else ())
        self._tried = views.replicates == 1

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        losses = self._losses(self._outputs(x), y)
        if torch.is_grad_enabled():
            grads = torch.autograd.grad(losses.sum(), self._trained, materialize_grads=True)
            torch._foreach_copy_(self._grads, grads)  # pyright: ignore[reportPrivateImportUsage]
        return losses.detach()

    def logits(self, x: Tensor) -> Tensor:
        self._net.eval()
        outputs = self._outputs(x.expand(self._folding.count, *x.shape))
        self._net.train()
        return outputs

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The losses `[R]`: class losses in one call, other losses one replicate after another."""
        if y.ndim == 2 and outputs.ndim == 3 and self._loss.kind.has_cross_entropy:
            options: Any = {"reduction": "none", "label_smoothing": self._loss.smoothing}
            losses = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), **options)
            return losses.view(y.shape).mean(1)
        rows = zip(outputs, y, strict=True)
        return torch.stack([self._loss.mean(*row) for row in rows])

    def _outputs(self, x: Tensor) -> Tensor:
        """Outputs `[R, B, ...]` of inputs `[R, B, ...]`."""
        if not self._tried:  # tries both modes: a refusal must not depend on which comes first
            for training in (False, True):
                try_folding(self._module, self._views, self._folding, x, training=training)
            self._tried = True
        fold = self._folding.fold
        with self._autocast():
            outputs = picked(self._net(self._layout(fold(x), lambda: fold(x[:, :2]))))
        return self._folding.unfold(outputs.to(self._dtype))
