"""Effective size: the weights of a ticket that lie on a path from input to output, and their FLOPs.

A kept weight whose input is always zero, or whose output is never used, computes nothing and does
not count (arXiv:2107.02306). The paths are found by one forward and backward pass of the network
itself on ones and zeros: a kept weight is 1, an activation is 1 if any path leads to it, and its
gradient is positive if a path leads on to the output. A bias does not begin a path: it adds a
constant, whatever the image.

That holds where more of an activation is never less of an output. Another pass tries it on the
whole network with numbers that differ (`_doubt`), and where it does not hold there is no size.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lt_sweeps.models.functional import called_with
from lt_sweeps.models.network import Network, is_bias

_CONNECT = ("linear", "conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_NORMALISE = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_BY_PLACE = ("layer_norm", "rms_norm")  # their weights have the shape of what they normalise
# Replaced by the identity: these pass on what arrives, but some make a number of a zero (sigmoid).
_PASS = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("sigmoid", "tanh", "softplus", "hardtanh", "hardswish", "hardsigmoid", "log_sigmoid"),
    *("hardshrink", "softshrink", "clamp", "clamp_", "clip", "clamp_min", "clamp_max"),
    "log_softmax",
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
)


# Where these are, no paths are followed: a softmax passes on what arrives by weights that are never
# 0 (that of attention is known, see `_attended`), and a recurrent layer goes round.
_BLOCK = (
    *("softmax", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"),
    *("rnn_relu_cell", "embedding_bag", "bilinear"),
)


class Unfollowed(Exception):
    """The paths of a network cannot be followed; the message says why."""


@dataclass(frozen=True)
class Size:
    """Parameters and operations (FLOPs) of one example's forward pass: all, and those on a path.

    A multiplication and an addition are two operations; only convolutions and linear layers count,
    those within attention too. An embedding is looked up, and lets in what any of its rows holds.
    """

    parameters_total: int
    parameters_effective: int
    weights_effective: int
    flops_total: int
    flops_effective: int


def network_size(network: Network, present: Mapping[str, Tensor]) -> Size:
    """The size of a network; `present` says which of its prunable weights take part.

    Raises: Unfollowed: it has what no path can be followed through.
    """
    if reason := _doubt(network):
        raise Unfollowed(reason)
    module = network.module().to_empty(device="cpu").eval()
    ones = {name: _ones(name, p) for name, p in module.named_parameters()}
    ones |= {name: present[name].double() for name in present}
    passed, grads = _pass(module, network, ones, _Present.apply)
    alive = {
        name: torch.zeros_like(one, dtype=torch.bool)
        if (grad := grads[name]) is None
        else (grad > 0) & ((one > 0) | is_bias(name))
        for name, one in ones.items()
    }
    layers = {layer.name for layer in network.layers}
    if unread := sorted(layers - set(passed)):
        raise Unfollowed(f"{unread[0]} belongs to neither a convolution nor a linear layer")
    return Size(
        parameters_total=sum(p.numel() for p in module.parameters()),
        parameters_effective=sum(int(each.sum()) for each in alive.values()),
        weights_effective=sum(int(alive[name].sum()) for name in layers),
        flops_total=2 * sum(ones[name].numel() * passed[name] for name in passed),
        flops_effective=2 * sum(int(alive[name].sum()) * passed[name] for name in passed),
    )


def _ones(name: str, parameter: Tensor) -> Tensor:
    """Weights of 1, and biases of 0: they add nothing and still have a gradient."""
    return torch.full(parameter.shape, 0.0 if is_bias(name) else 1.0, dtype=torch.float64)


_Mark = Callable[[Tensor], Tensor]
"""What is made of the outputs of a layer, before others read them."""


@functools.lru_cache(maxsize=4)
def _doubt(network: Network) -> str:
    """Why the gradients of ones are not the paths of a network; empty if they are.

    With positive numbers that differ, no gradient of the whole network is below 0, and each
    parameter that is used has some above 0. A difference, a norm that is written by hand or a
    scale that lies in a buffer breaks that, and all that leads there would count as dead.
    """
    module, draws = network.module().to_empty(device="cpu").eval(), torch.Generator().manual_seed(0)
    drawn = {name: _drawn(name, p, draws) for name, p in module.named_parameters()}
    for name, grad in _pass(module, network, drawn, _around_one, draws)[1].items():
        rounding = 0.0 if grad is None else 1e-9 * float(grad.abs().max())
        if grad is not None and not (
            grad.isfinite().all() and grad.min() >= -rounding < grad.max()
        ):
            return f"behind {name} is a function through which no path is followed"
    return ""


def _drawn(name: str, parameter: Tensor, draws: torch.Generator) -> Tensor:
    """Weights above 0 that differ, and biases of 0."""
    drawn = 0.5 + torch.rand(parameter.shape, generator=draws, dtype=torch.float64)
    return drawn * (not is_bias(name))


def _around_one(x: Tensor) -> Tensor:
    """Outputs times one number, so that those of a deep network neither grow nor vanish."""
    return x / x.detach().abs().mean()


def _pass(
    module: nn.Module,
    network: Network,
    weights: Mapping[str, Tensor],
    mark: _Mark,
    draws: torch.Generator | None = None,
) -> tuple[dict[str, int], dict[str, Tensor | None]]:
    """How often each weight is used in one forward pass, and the gradient of each parameter.

    The image holds ones, or numbers around 1 that are drawn; a parameter without a gradient is
    not used.
    """
    leaves = {name: each.clone().requires_grad_() for name, each in weights.items()}
    mode = _Paths({id(leaf): name for name, leaf in leaves.items()}, mark)
    buffers = {name: torch.zeros_like(b) for name, b in module.named_buffers()}
    image = network.example()
    if image.is_floating_point():
        image = torch.ones_like(image, dtype=torch.float64)
        image += 0 if draws is None else torch.rand(image.shape, generator=draws) - 0.5
    try:
        with mode:
            called_with(module, {**leaves, **buffers}, image).sum().backward()
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise Unfollowed(str(error).partition("\n")[0]) from error
    return mode.passed, {name: leaf.grad for name, leaf in leaves.items()}


class _Paths(TorchFunctionMode):
    """A forward pass whose numbers say only whether a path leads there; counts uses of weights."""

    def __init__(self, names: Mapping[int, str], mark: _Mark) -> None:
        super().__init__()
        self._names, self._mark = names, mark
        self.passed: dict[str, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _BLOCK:
            raise Unfollowed(f"it calls {name}, through which no path is followed")
        if name in (*_CONNECT, *_TRANSPOSED):
            out = func(*args, **given)
            x, weight = _by_name(("input", "weight"), args, given)
            # Each place that is written uses the weights once; of a transposed one, that is read.
            places = (x if name in _TRANSPOSED else out).shape[2:]
            self._used(weight, out.shape[:-1] if name == "linear" else places)
            return self._mark(out)
        if name == "embedding":
            arguments = _arguments(func, args, given)
            self._used(arguments["weight"], (0,))
            rows = self._mark(arguments["weight"].sum(0))
            return rows.expand(*arguments["input"].shape, -1)
        if name == "scaled_dot_product_attention":
            named = ("query", "key", "value")
            return self._attended(*_by_name(named, args, given))
        if name == "multi_head_attention_forward":
            return self._attention(_arguments(func, args, given)), None
        if name in _PASS:
            return args[0]
        if name == "prelu":
            x, weight = _by_name(("input", "weight"), args, given)
            return x * weight.view(1, -1, *[1] * (x.dim() - 2))
        if name in _NORMALISE:
            return _scaled(args[0], _arguments(func, args, given), name)
        if "max_pool" in name:
            return _pooled(name, *args, **given)
        return func(*args, **given)

    def _used(self, weight: Any, places: Sequence[int]) -> None:
        """Count the uses of a weight, if it is one of the network's."""
        name = self._names.get(id(weight))
        if name is not None:
            self.passed[name] = self.passed.get(name, 0) + math.prod(places)

    def _attention(self, given: Mapping[str, Any]) -> Tensor:
        """`nn.MultiheadAttention` of `[T, B, E]`: its linear layers, and attention between them."""
        inputs = [given[name] for name in ("query", "key", "value")]
        if given.get("use_separate_proj_weight"):
            weights = [given[f"{name}_proj_weight"] for name in "qkv"]
            for weight, x in zip(weights, inputs, strict=True):
                self._used(weight, x.shape[:-1])
        else:
            weights = given["in_proj_weight"].chunk(3)
            self._used(given["in_proj_weight"], inputs[0].shape[:-1])
        bias = given["in_proj_bias"]
        biases = [None] * 3 if bias is None else bias.chunk(3)
        parts = zip(inputs, weights, biases, strict=True)
        heads = given["num_heads"]
        projected = [self._mark(F.linear(*part)).unflatten(-1, (heads, -1)) for part in parts]
        joint = self._attended(*(each.movedim(0, -2) for each in projected))
        joint = joint.movedim(-2, 0).flatten(-2)
        out = F.linear(joint, given["out_proj_weight"], given["out_proj_bias"])
        self._used(given["out_proj_weight"], out.shape[:-1])
        return self._mark(out)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of `[..., T, E]`, every place of every other one, whatever a mask says.

        A value passes on even where no query meets a key; where one does, both lead on to the
        value.
        """
        scores = self._mark(query @ key.transpose(-1, -2))
        return self._mark((1 + scores) @ value)


def _by_name(names: Sequence[str], args: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
    """The arguments of a function of torch's own, which has no signature to ask."""
    return [given[name] if name in given else args[place] for place, name in enumerate(names)]


def _arguments(
    func: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a function of torch is called with, by the names of its arguments."""
    return inspect.signature(func).bind(*args, **given).arguments


class _Present(torch.autograd.Function):
    """1 for every positive number, forwards and backwards, so that no depth overflows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad > 0).to(grad.dtype)


def _scaled(x: Tensor, given: Mapping[str, Any], name: str) -> Tensor:
    """A normalisation without its statistics: only its weight and bias can end a path."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for parameter, put in (("weight", torch.mul), ("bias", torch.add)):
        value = given.get(parameter)
        if value is not None:
            x = put(x, value if name in _BY_PLACE else value.view(shape))
    return x


def _pooled(name: str, x: Tensor, *args: Any, **given: Any) -> Tensor:
    """The mean in place of the maximum, which passes the gradient to only one of several ones."""
    if name.startswith("adaptive"):
        return getattr(F, name.replace("max", "avg"))(x, args[0])
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    asked = {**dict(zip(names, args, strict=False)), **given}
    if asked["dilation"] not in (1, (1,) * (x.dim() - 2)):
        raise Unfollowed(f"it calls {name} with a dilation, which no mean has")
    kept = {name: asked[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")}
    return getattr(F, name.replace("max", "avg"))(x, **kept)
