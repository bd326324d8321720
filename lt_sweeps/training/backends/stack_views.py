"""`StackViews`: what every backend computes on, and one row of it as an ordinary module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lt_sweeps.models.functional import relist
from lt_sweeps.training.arithmetic import FLOAT32, Arithmetic
from lt_sweeps.training.task_loss import TaskLoss


@dataclass(frozen=True)
class StackViews:
    """Views `[R, *shape]`, by name, of a stack's weights, gradients and buffers.

    A backend reads the weights, overwrites the gradients, and updates the buffers in training.
    `loss` is that of one replicate, `arithmetic` the precision of a forward pass.
    """

    weights: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    loss: TaskLoss = field(default_factory=TaskLoss)
    arithmetic: Arithmetic = FLOAT32

    @property
    def replicates(self) -> int:
        return len(self.first)

    @property
    def first(self) -> Tensor:
        """Some weights, for their device and type."""
        return next(iter(self.weights.values()))

    def autocast(self) -> AbstractContextManager[object]:
        """Around every forward pass, without its loss."""
        return self.arithmetic.autocast(self.first.device)

    def row(self, module: nn.Module, r: int) -> nn.Module:
        """A copy of `module` in training mode whose parameters and saved buffers are row `r`."""
        row = copy.deepcopy(module).train()
        views = {
            id(parameter): nn.Parameter(self.weights[name][r], parameter.requires_grad)
            for name, parameter in row.named_parameters()
        }
        for name, parameter in list(row.named_parameters(remove_duplicate=False)):
            owner, leaf = owner_of(row, name)
            owner._parameters[leaf] = views[id(parameter)]  # the same one for a tied weight
        for name, buffer in self.buffers.items():
            owner, leaf = owner_of(row, name)
            owner._buffers[leaf] = buffer[r]
        row = row.to(self.first.device)
        # On a GPU `to` gives recurrent layers a copy of their weights.
        for name, parameter in row.named_parameters():
            parameter.data = self.weights[name][r]
        relist(row)
        return row


def is_plain(layer: nn.Module) -> bool:
    """Whether nothing but the code of its class runs in its forward and backward pass."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(layer)


def convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds a parameter or buffer, and its name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


class ImageLayout:
    """Images as channels_last on `devices`, where that is faster, if the module takes them so.

    All that a forward pass makes of them then has this layout. It is 1.3 times as fast on a CPU
    (Conv-4, ResNet-20); a GPU's tensor cores read no other, so that cuDNN would rearrange the input
    and the output of every convolution.
    """

    def __init__(self, module: nn.Module, devices: Sequence[str]) -> None:
        self._module, self._devices = module, devices
        self._chosen: bool | None = None

    def __call__(self, x: Tensor, few: Callable[[], Tensor] | None = None) -> Tensor:
        """`x` `[N, C, H, W]`, or anything else as it is.

        `few` gives some such images on which the module is tried, if not any two of `x` will do.
        """
        if self._chosen is None:
            devices = x.device.type in self._devices
            self._chosen = devices and self._possible(x[:2] if few is None else few())
        return x.contiguous(memory_format=torch.channels_last) if self._chosen else x

    def _possible(self, x: Tensor) -> bool:
        """Whether a forward pass takes them; one with `x.view(len(x), -1)` does not."""
        module = self._module
        if x.ndim != 4:
            return False
        before = module.training
        module.eval()
        try:
            with torch.no_grad():
                module(x.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            return False
        finally:
            module.train(before)
        return True
