"""`StackViews`: the tensors that a backend computes on, and one row of them as a plain module."""

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
    `loss` is the loss of one replicate; `arithmetic` is the precision of a forward pass.
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
        """The weights of the first parameter, to read the device and the type from."""
        return next(iter(self.weights.values()))

    def autocast(self) -> AbstractContextManager[object]:
        """A context for a forward pass, excluding the loss."""
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
            owner._parameters[leaf] = views[id(parameter)]  # tied weights share one parameter
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
    """Whether only the code of a layer's class runs: no hooks, and no `forward` on the instance."""
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


def _overruns(module: nn.Module) -> bool:
    """Whether torch may write past its buffers if the module's images are in channels_last."""
    # On a CPU without AVX-512, oneDNN computes the weight gradient of a 1x1 convolution in blocks
    # of 8 channels. With a stride and fewer channels it writes past its buffer, and the process
    # crashes or other tensors change (torch 2.14, jit_avx2_1x1_convolution_bwd_weights_t; found by
    # valgrind, and by glibc's checks for 22 of 432 convolutions, all of this kind).
    one = (1, 1)
    return any(
        part.kernel_size == one and part.stride != one and part.in_channels // part.groups < 8
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
    )


class ImageLayout:
    """Converts images to channels_last on `devices`, where it is faster, if the module accepts it.

    All activations of the forward pass then have this layout too. It is 1.3 times as fast on a CPU
    (Conv-4, ResNet-20). A GPU's tensor cores read no other layout: without it cuDNN would rearrange
    the input and the output of every convolution.
    """

    def __init__(self, module: nn.Module, devices: Sequence[str]) -> None:
        self._module, self._devices = module, devices
        self._chosen: bool | None = None

    def __call__(self, x: Tensor, few: Callable[[], Tensor] | None = None) -> Tensor:
        """Convert images `x` `[N, C, H, W]`; return any other input unchanged.

        The module is tried once, on the images that `few` returns; by default the first two of `x`.
        """
        if self._chosen is None:
            chosen = x.device.type in self._devices and not _overruns(self._module)
            self._chosen = chosen and self._possible(x[:2] if few is None else few())
        return x.contiguous(memory_format=torch.channels_last) if self._chosen else x

    def _possible(self, x: Tensor) -> bool:
        """Whether the forward pass accepts channels_last; `x.view(len(x), -1)` does not."""
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
