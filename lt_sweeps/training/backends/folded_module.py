"""`folded`: replace a module's layers by layers that compute all replicates, with a `Folding`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lt_sweeps.models.channel_flow import NORMS
from lt_sweeps.training.backends.folding import Folding
from lt_sweeps.training.backends.stack_views import is_plain


def unstackable(module: nn.Module) -> str:
    """Describe the first part of a module that has no stacked form; empty if all parts have one."""
    covered = {id(t) for part in module.modules() if _known(part) for t in _tensors(part)}
    for name, part in module.named_modules():
        if isinstance(part, NORMS) and not _known(part):
            return f"`{name}`, {part}"
        if any(id(tensor) not in covered for tensor in _tensors(part)):
            kind = type(part).__name__
            return f"`{name}`, {kind}" if name else f"tensors of {kind} itself"
    return ""


def folded(
    net: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], folding: Folding
) -> nn.Module:
    """Replace every known layer of `net` by a stacked one, in place; shared layers stay shared."""
    names = {id(t): name for name, t in (*net.named_parameters(), *net.named_buffers())}
    stacks = {**weights, **buffers}
    replaced: dict[nn.Module, nn.Module] = {}

    def stacked(layer: nn.Module) -> nn.Module:
        def get(leaf: str) -> Tensor | None:
            tensor = getattr(layer, leaf)
            return None if tensor is None else stacks[names[id(tensor)]]

        if layer not in replaced:
            replaced[layer] = _layer(layer, get, folding)
        return replaced[layer]

    if _known(net):
        return stacked(net)
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # lists a shared layer under each name
            if child is not None and _known(child):
                parent._modules[name] = stacked(child)
    return net


class _Linear(nn.Module):
    def __init__(self, folding: Folding, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.folding, self.weight, self.bias = folding, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.folding.linear(x, self.weight, self.bias)


class _Conv(nn.Module):
    def __init__(
        self, folding: Folding, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.folding, self.weight, self.bias = folding, weight, bias
        self.options: Any = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.folding.conv(x, self.weight, self.bias, self.options)


class _Norm(nn.Module):
    def __init__(
        self,
        folding: Folding,
        norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
        get: Callable[[str], Tensor | None],
    ) -> None:
        super().__init__()
        self.folding, self.batches = folding, get("num_batches_tracked")
        self.rows = get("running_mean"), get("running_var"), get("weight"), get("bias")
        self.momentum, self.eps = norm.momentum or 0.0, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.batches is not None:
            self.batches.add_(1)
        batch = self.training or self.rows[0] is None
        options = {"training": batch, "momentum": self.momentum, "eps": self.eps}
        return self.folding.norm(x, self.rows, options)


def _layer(layer: nn.Module, get: Callable[[str], Tensor | None], folding: Folding) -> nn.Module:
    if isinstance(layer, NORMS):
        return _Norm(folding, layer, get)
    weight = get("weight")
    assert weight is not None, "a linear or convolution layer has a weight"
    if isinstance(layer, nn.Conv2d):
        return _Conv(folding, layer, weight, get("bias"))
    return _Linear(folding, weight, get("bias"))


def _known(layer: nn.Module) -> bool:
    """Whether a layer has a stacked form: no subclass, no hooks, and no rare options."""
    if not is_plain(layer):
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    if isinstance(layer, NORMS) and layer.momentum is None:
        return False
    return type(layer) in (nn.Linear, nn.Conv2d, *NORMS)


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
