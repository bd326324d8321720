"""`stacked` and `grouped`: replicates folded into the batch, `[R * B, ...]` from end to end.

Layers that hold weights or look across the batch are replaced by ones that unfold it. All else in
a forward pass (ReLU, pooling, flatten, additions) treats examples one by one, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.models.channel_flow import NORMS
from lt_sweeps.models.functional import picked
from lt_sweeps.training.backends.stack_views import ImageLayout, StackViews, is_plain

# Not on a CPU, where folding convolutions does not pay at all, and bytes are known.
_LAID_OUT = ("cuda",)


class StackedBackend:
    """The module with stacked layers.

    `grouped` computes the convolutions and norms of all replicates in one call.
    """

    def __init__(self, module: nn.Module, views: StackViews, *, grouped: bool) -> None:
        self._loss, self.replicates = views.loss, views.replicates
        self._autocast, self._dtype = views.autocast, views.first.dtype
        self._lone = views.row(module, -1)
        self._layout = ImageLayout(self._lone, () if grouped else _LAID_OUT)
        trained = {name: p.requires_grad for name, p in self._lone.named_parameters()}
        leaves = {
            name: w.detach().requires_grad_(trained[name]) for name, w in views.weights.items()
        }
        self._trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
        self._grads = [views.grads[name] for name in leaves if trained[name]]
        self._net = _fold(views.row(module, 0), leaves, views.buffers, grouped)
        self._checked = self.replicates == 1

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        if not self._checked:
            self._check(x)
        losses = self._losses(self._outputs(self._net, self._layout(x.flatten(0, 1))), y)
        grads = torch.autograd.grad(losses.sum(), self._trained, materialize_grads=True)
        torch._foreach_copy_(self._grads, grads)  # pyright: ignore[reportPrivateImportUsage]
        return losses.detach()

    def logits(self, x: Tensor) -> Tensor:
        folded = self._layout(x.expand(self.replicates, *x.shape).flatten(0, 1))
        self._net.eval()
        outputs = self._outputs(self._net, folded)
        self._net.train()
        return outputs.unflatten(0, (self.replicates, -1))

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The losses `[R]`: of classes in one call, of other tasks one replicate after another."""
        if y.ndim == 2 and outputs.ndim == 2 and self._loss.kind.has_cross_entropy:
            options: Any = {"reduction": "none", "label_smoothing": self._loss.smoothing}
            return F.cross_entropy(outputs, y.flatten(), **options).view(y.shape).mean(1)
        rows = zip(outputs.unflatten(0, (self.replicates, -1)), y, strict=True)
        return torch.stack([self._loss.mean(*row) for row in rows])

    def _outputs(self, net: nn.Module, x: Tensor) -> Tensor:
        with self._autocast():
            return picked(net(x)).to(self._dtype)

    @torch.no_grad()
    def _check(self, x: Tensor) -> None:
        """Refuse, once, a forward pass that mixes examples outside of a known layer.

        The last replicate is compared with the same replicate alone. Rounding differs by far less
        than 5 percent, and mixing by more.
        """
        self._net.eval()
        stacked = self._outputs(self._net, x.flatten(0, 1)).unflatten(0, x.shape[:2])[-1]
        self._net.train()
        lone = self._outputs(self._lone.eval(), x[-1])
        if (stacked - lone).norm() > 0.05 * lone.norm():
            raise ValueError(
                "backend: `stacked` needs a forward pass that treats every example by itself, "
                "and this model's does not; `loop` and `vmap` take any"
            )
        self._checked = True


def unstackable(module: nn.Module) -> str:
    """The first part of a module that no stacked layer covers; empty if there is none."""
    covered = {id(t) for part in module.modules() if _known(part) for t in _tensors(part)}
    for name, part in module.named_modules():
        if isinstance(part, NORMS) and not _known(part):
            return f"`{name}`, {part}"
        if any(id(tensor) not in covered for tensor in _tensors(part)):
            return f"`{name}`, {type(part).__name__}"
    return ""


class _Linear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.unflatten(0, (len(self.weight), -1)).flatten(1, -2)
        # The weight comes first, because its gradient then has the weight's layout in memory.
        if self.bias is None:
            out = torch.bmm(self.weight, rows.mT)
        else:
            out = torch.baddbmm(self.bias[..., None], self.weight, rows.mT)
        return out.mT.reshape(*x.shape[:-1], -1)


class _Conv(nn.Module):
    def __init__(
        self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, grouped: bool
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.grouped = weight, bias, grouped
        self.options: Any = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        count, bias = len(self.weight), self.bias
        if self.grouped:
            weight = self.weight.flatten(0, 1)
            bias = bias if bias is None else bias.flatten()
            options = {**self.options, "groups": count * self.options["groups"]}
            return _apart(F.conv2d(_beside(x, count), weight, bias, **options), count)
        biases = [None] * count if bias is None else bias
        rows = zip(x.chunk(count), self.weight, biases, strict=True)
        return torch.cat([F.conv2d(part, w, b, **self.options) for part, w, b in rows])


class _Norm(nn.Module):
    def __init__(
        self,
        norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
        get: Callable[[str], Tensor | None],
        count: int,
        *,
        grouped: bool,
    ) -> None:
        super().__init__()
        self.weight, self.bias = get("weight"), get("bias")
        self.mean, self.var = get("running_mean"), get("running_var")
        self.batches = get("num_batches_tracked")
        self.momentum, self.eps = norm.momentum, norm.eps
        self.count, self.grouped = count, grouped

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.batches is not None:
            self.batches.add_(1)
        per_row = (self.mean, self.var, self.weight, self.bias)
        if self.grouped:
            # Statistics are written to, so theirs must be views; those of weights may be copies.
            args = tuple(t if t is None else t.reshape(-1) for t in per_row)
            return _apart(self._norm(_beside(x, self.count), args), self.count)
        rows = zip(*([None] * self.count if t is None else t for t in per_row), strict=True)
        parts = zip(x.chunk(self.count), rows, strict=True)
        return torch.cat([self._norm(part, row) for part, row in parts])

    def _norm(self, x: Tensor, args: tuple[Any, ...]) -> Tensor:
        mean, var, weight, bias = args
        batch = self.training or mean is None
        return F.batch_norm(x, mean, var, weight, bias, batch, self.momentum or 0.0, self.eps)


def _fold(
    net: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], grouped: bool
) -> nn.Module:
    """`net` with every known layer replaced by a stacked one; a shared layer stays shared."""
    names = {id(t): name for name, t in (*net.named_parameters(), *net.named_buffers())}
    stacks = {**weights, **buffers}
    folded: dict[nn.Module, nn.Module] = {}

    def stacked(layer: nn.Module) -> nn.Module:
        def get(leaf: str) -> Tensor | None:
            tensor = getattr(layer, leaf)
            return None if tensor is None else stacks[names[id(tensor)]]

        if layer not in folded:
            folded[layer] = _layer(layer, get, len(next(iter(weights.values()))), grouped)
        return folded[layer]

    if _known(net):
        return stacked(net)
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # a shared layer under each of its names
            if child is not None and _known(child):
                parent._modules[name] = stacked(child)
    return net


def _layer(
    layer: nn.Module, get: Callable[[str], Tensor | None], count: int, grouped: bool
) -> nn.Module:
    if isinstance(layer, NORMS):
        return _Norm(layer, get, count, grouped=grouped)
    weight = get("weight")
    assert weight is not None, "a linear or convolution layer has a weight"
    if isinstance(layer, nn.Conv2d):
        return _Conv(layer, weight, get("bias"), grouped=grouped)
    return _Linear(weight, get("bias"))


def _known(layer: nn.Module) -> bool:
    """Whether a layer has a stacked form: not a subclass, and without hooks or rare options."""
    if not is_plain(layer):
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    if isinstance(layer, NORMS) and layer.momentum is None:
        return False
    return type(layer) in (nn.Linear, nn.Conv2d, *NORMS)


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _beside(x: Tensor, count: int) -> Tensor:
    """[R * B, C, ...] as [B, R * C, ...]."""
    return x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)


def _apart(x: Tensor, count: int) -> Tensor:
    """[B, R * C, ...] as [R * B, C, ...]."""
    return x.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
