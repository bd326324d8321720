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
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lt_sweeps.models.functional import called_with
from lt_sweeps.models.network import Network, is_bias, outside_state

_CONNECT = ("linear", "conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_NORMALISE = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_BY_PLACE = ("layer_norm", "rms_norm")  # their weights have the shape of what they normalise
_PRODUCTS = ("matmul", "mm", "bmm", "mv")
_ADDED_PRODUCTS = ("addmm", "addmv", "baddbmm")
_OTHER_PRODUCTS = ("einsum", "tensordot", "inner")
# These pass on too, and are above 0 whatever arrives: what is multiplied by one goes on.
_GATES = ("sigmoid", "sigmoid_", "special_expit", "hardsigmoid")
_TIMES = ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")
# Replaced by the identity: these pass on what arrives, but some make a number of a zero (sigmoid).
_PASS = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("tanh", "softplus", "hardtanh", "hardswish", "log_sigmoid"),
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

    A multiplication and an addition are two operations. Only convolutions, linear layers (those
    within attention too) and other products with a parameter count. An embedding is looked up, and
    lets in what any of its rows holds.
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
    ones = {name: _ones(name, p) for name, p in _module(network).named_parameters()}
    ones |= {name: present[name].double() for name in present}
    uses, grads = _pass(network, ones, _Present.apply)
    alive = {
        name: torch.zeros_like(one, dtype=torch.bool)
        if (grad := grads[name]) is None
        else (grad > 0) & ((one > 0) | is_bias(name))
        for name, one in ones.items()
    }
    layers = {layer.name for layer in network.layers}
    if unread := sorted(layers - set(uses)):
        raise Unfollowed(f"{unread[0]} belongs to neither a convolution nor a linear layer")
    return Size(
        parameters_total=network.parameters,
        parameters_effective=sum(int(each.sum()) for each in alive.values()),
        weights_effective=sum(int(alive[name].sum()) for name in layers),
        flops_total=2 * sum(_used(torch.ones_like(alive[n]), uses[n]) for n in uses),
        flops_effective=2 * sum(_used(alive[n], uses[n]) for n in uses),
    )


def _used(weights: Tensor, uses: Tensor) -> int:
    """How often these weights are used: `uses` is one number, or one for each row."""
    return int((weights.reshape(len(weights), -1).sum(1) * uses).sum())


@functools.lru_cache(maxsize=1)
def _module(network: Network) -> nn.Module:
    """Its module, with 0 for tensors that are plain attributes; its own weights are not used."""
    with torch.random.fork_rng(devices=[]):
        module = network.module("cpu").eval()
    for owner, leaf, tensor in outside_state(module):
        if tensor.is_floating_point() and leaf in vars(module.get_submodule(owner)):
            setattr(module.get_submodule(owner), leaf, _zeros(tensor))
    return module


def _zeros(tensor: Tensor) -> Tensor:
    """A constant adds nothing, as a bias."""
    return torch.zeros_like(tensor, dtype=torch.float64)


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
    draws = torch.Generator().manual_seed(0)
    drawn = {name: _drawn(name, p, draws) for name, p in _module(network).named_parameters()}
    for name, grad in _pass(network, drawn, _around_one, draws)[1].items():
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
    network: Network,
    weights: Mapping[str, Tensor],
    mark: _Mark,
    draws: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """How often each weight is used in one forward pass, and the gradient of each parameter.

    The image holds ones, or numbers around 1 that are drawn; a parameter without a gradient is
    not used. Buffers of whole numbers, such as indices, are as they are, and all others are 0.
    """
    module = deepcopy(_module(network))  # one that has run may hold what it computed
    leaves = {name: each.clone().requires_grad_() for name, each in weights.items()}
    mode = _Paths({id(leaf): name for name, leaf in leaves.items()}, mark)
    buffers = {n: _zeros(b) if b.is_floating_point() else b for n, b in module.named_buffers()}
    image = network.example()
    if image.is_floating_point():
        image = torch.ones_like(image, dtype=torch.float64)
        image += 0 if draws is None else torch.rand(image.shape, generator=draws) - 0.5
    try:
        with mode:
            called_with(module, {**leaves, **buffers}, image).sum().backward()
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise Unfollowed(str(error).partition("\n")[0]) from error
    return mode.uses, {name: leaf.grad for name, leaf in leaves.items()}


class _Paths(TorchFunctionMode):
    """A forward pass whose numbers say only whether a path leads there; counts uses of weights."""

    def __init__(self, names: Mapping[int, str], mark: _Mark) -> None:
        super().__init__()
        self._names, self._mark = names, mark
        self._gates: dict[int, Tensor] = {}
        self.uses: dict[str, Tensor] = {}

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
            if weight.requires_grad and not self._name_of(weight):
                raise Unfollowed(f"it calls {name} with weights that it computes from others")
            # Each place that is written uses the weights once; of a transposed one, that is read.
            places = (x if name in _TRANSPOSED else out).numel() // len(weight)
            self._count(weight, places)
            return self._mark(out)
        if name in (*_PRODUCTS, *_ADDED_PRODUCTS):
            operands = args[name in _ADDED_PRODUCTS :][:2]
            return self._product(func(*args, **given), *operands)
        if name in _OTHER_PRODUCTS and any(self._name_of(each) for each in args):
            raise Unfollowed(f"it calls {name}, whose operations are not counted")
        if name in _GATES:
            gate = args[0].clone()
            self._gates[id(gate)] = gate
            return gate
        if name in _TIMES:
            return func(*self._gated(*args[:2]), *args[2:], **given)
        if name == "embedding":
            arguments = _arguments(func, args, given)
            self._count(arguments["weight"], 0)
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

    def _name_of(self, weight: Any) -> str:
        """The name of a parameter, also of one that is transposed; empty if it is none.

        Raises: Unfollowed: it is a part of one.
        """
        name = self._names.get(id(_whole(weight)), "")
        if name and _whole(weight).numel() != weight.numel():
            raise Unfollowed(f"it calls a layer with a part of {name}")
        return name

    def _count(self, weight: Any, uses: int | Tensor) -> None:
        """Count the uses of a weight, if it is one of the network's."""
        if name := self._name_of(weight):
            self.uses[name] = self.uses.get(name, torch.tensor(0)) + uses

    def _product(self, out: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A product of matrices, marked if one of them is a parameter."""
        weights = [each for each in (first, second) if self._name_of(each)]
        for weight in weights:
            self._count(weight, out.numel() * first.shape[-1] // weight.numel())
        return self._mark(out) if weights else out

    def _gated(self, first: Any, second: Any) -> tuple[Any, Any]:
        """Two factors, where a gate lets the other one pass even if nothing arrives at the gate."""
        if self._is_gate(first) and self._is_activation(second):
            return 1 + first, second
        if self._is_gate(second) and self._is_activation(first):
            return first, 1 + second
        return first, second

    def _is_gate(self, factor: Any) -> bool:
        return id(_whole(factor)) in self._gates

    def _is_activation(self, factor: Any) -> bool:
        """Whether it depends on the image, and is no gate itself."""
        known = {**self._names, **self._gates}
        return getattr(factor, "requires_grad", False) and id(_whole(factor)) not in known

    def _attention(self, given: Mapping[str, Any]) -> Tensor:
        """`nn.MultiheadAttention` of `[T, B, E]`: its linear layers, and attention between them."""
        inputs = [given[name] for name in ("query", "key", "value")]
        if given["bias_k"] is not None:
            raise Unfollowed("it calls attention with a key and a value of its own (add_bias_kv)")
        places = [math.prod(x.shape[:-1]) for x in inputs]
        if given.get("use_separate_proj_weight"):
            weights = [given[f"{name}_proj_weight"] for name in "qkv"]
            for weight, uses in zip(weights, places, strict=True):
                self._count(weight, uses)
        else:
            joined = given["in_proj_weight"]
            weights = joined.chunk(3)
            self._count(joined, torch.tensor(places).repeat_interleave(len(weights[0])))
        bias = given["in_proj_bias"]
        biases = [None] * 3 if bias is None else bias.chunk(3)
        parts = zip(inputs, weights, biases, strict=True)
        heads = given["num_heads"]
        projected = [self._mark(F.linear(*part)).unflatten(-1, (heads, -1)) for part in parts]
        joint = self._attended(*(each.movedim(0, -2) for each in projected))
        joint = joint.movedim(-2, 0).flatten(-2)
        out = F.linear(joint, given["out_proj_weight"], given["out_proj_bias"])
        self._count(given["out_proj_weight"], math.prod(out.shape[:-1]))
        return self._mark(out)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of `[..., T, E]`, every place of every other one, whatever a mask says.

        A value passes on even where no query meets a key; where one does, both lead on to the
        value.
        """
        scores = self._mark(query @ key.transpose(-1, -2))
        return self._mark((1 + scores) @ value)


def _whole(tensor: Any) -> Any:
    """What a tensor is a view of; itself where it is none."""
    base = getattr(tensor, "_base", None)
    return tensor if base is None else base


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
