"""`vmap`: `torch.func.vmap` over the replicates; tests compare the other backends with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from lt_sweeps.models.functional import called_with, picked
from lt_sweeps.training.backends.stack_views import StackViews


class VmapBackend:
    """Computes one functional call of the unmodified module, mapped over the replicates."""

    def __init__(self, module: nn.Module, views: StackViews) -> None:
        self._task_loss, self._autocast = views.loss, views.autocast
        self._dtype = views.first.dtype
        self._module = views.row(module, 0)
        trained = {name for name, p in self._module.named_parameters() if p.requires_grad}
        self._weights = {name: w for name, w in views.weights.items() if name in trained}
        self._fixed = {name: w for name, w in views.weights.items() if name not in trained}
        self._grads, self._buffers = views.grads, dict(views.buffers)
        self._step = torch.vmap(grad_and_value(self._loss, has_aux=True))

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        grads, (losses, buffers) = self._step(self._weights, self._fixed, self._buffers, x, y)
        for name, grad in grads.items():
            self._grads[name].copy_(grad)
        for name, buffer in buffers.items():
            self._buffers[name].copy_(buffer)
        return losses

    def logits(self, x: Tensor) -> Tensor:
        def one(state: dict[str, Tensor]) -> Tensor:
            return self._outputs(state, x)

        self._module.eval()
        outputs = torch.vmap(one)({**self._weights, **self._fixed, **self._buffers})
        self._module.train()
        return outputs

    def _outputs(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        with self._autocast():
            return picked(called_with(self._module, state, x)).to(self._dtype)

    def _loss(
        self,
        weights: dict[str, Tensor],
        fixed: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        state = {**weights, **fixed, **buffers}
        loss = self._task_loss.mean(self._outputs(state, x), y)
        # functional_call writes buffers that the module replaced back into `state`
        return loss, {name: state[name] for name in buffers}
