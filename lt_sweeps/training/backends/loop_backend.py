"""`loop`: one ordinary module per replicate; its parameters and buffers are views of the stack's.

On a GPU the replicates run side by side (`Lanes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lt_sweeps.config.seeds import seed_torch
from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.lanes import Lanes
from lt_sweeps.training.backends.stack_views import ImageLayout, StackViews, convolves, owner_of

_LAID_OUT = ("cpu", "cuda")


class LoopBackend:
    """Computes the forward and backward pass of each replicate with a module of its own.

    Between calls the modules are in training mode.
    """

    def __init__(self, module: nn.Module, views: StackViews) -> None:
        self._loss, self._autocast = views.loss, views.autocast
        self._dtype = views.first.dtype
        replicates = range(views.replicates)
        self.rows = [views.row(module, r) for r in replicates]
        self._trained = [[p for p in row.parameters() if p.requires_grad] for row in self.rows]
        names = [name for name, p in self.rows[0].named_parameters() if p.requires_grad]
        self._grads = [[views.grads[name][r] for name in names] for r in replicates]
        self._buffers = [
            [_owned(row, name, buffer[r]) for name, buffer in views.buffers.items()]
            for r, row in enumerate(self.rows)
        ]
        self._layout = ImageLayout(self.rows[0], _LAID_OUT if convolves(module) else ())
        self._lanes = Lanes(views.first.device, views.replicates)

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        x = self._layout(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        losses = []
        with _forked(x.device, seeds), self._lanes.fork():
            for r in range(len(self.rows)):
                if seeds is not None:
                    seed_torch(seeds[r])
                with self._lanes.lane(r):
                    losses.append(self._one(r, _aligned(x[r]), y[r]))
        return torch.stack(losses)

    def logits(self, x: Tensor) -> Tensor:
        x = self._layout(x)
        outputs = []
        with self._lanes.fork():
            for r, row in enumerate(self.rows):
                row.eval()
                with self._lanes.lane(r):
                    outputs.append(self._outputs(row, x))
                row.train()
        return torch.stack(outputs)

    def _one(self, r: int, x: Tensor, y: Tensor) -> Tensor:
        outputs = self._outputs(self.rows[r], x)
        loss = self._loss.mean(outputs, y)
        if torch.is_grad_enabled():
            grads = torch.autograd.grad(loss, self._trained[r], materialize_grads=True)
            torch._foreach_copy_(self._grads[r], grads)  # pyright: ignore[reportPrivateImportUsage]
        for owner, leaf, view in self._buffers[r]:
            now = owner._buffers[leaf]
            if now is not view:  # the module replaced it instead of writing to it
                assert now is not None
                view.copy_(now.detach())
                owner._buffers[leaf] = view
        return loss.detach()

    def _outputs(self, row: nn.Module, x: Tensor) -> Tensor:
        with self._autocast():
            return picked(row(x)).to(self._dtype)


def _owned(row: nn.Module, name: str, view: Tensor) -> tuple[nn.Module, str, Tensor]:
    owner, leaf = owner_of(row, name)
    owner._buffers[leaf] = view
    return owner, leaf, view


def _aligned(x: Tensor) -> Tensor:
    """Copy `x` on a CPU unless it begins at a multiple of 64 bytes, as in a run of one replicate.

    The rounding of some CPU products depends on this alignment.
    """
    return x.clone() if x.device.type == "cpu" and x.data_ptr() % 64 else x


@contextmanager
def _forked(device: torch.device, seeds: Sequence[int] | None) -> Iterator[None]:
    if seeds is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
