"""`Paths`: a forward pass that traces which weights and activations are connected.

Each torch function is replaced by one whose output is above 0 if any input that it reads is above
0, and whose gradient flows back along the same connections.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_LAYERS = ("linear", "conv1d", "conv2d", "conv3d", *_TRANSPOSED)
_READ = ("input", "weight")
_NORMALISE = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_BY_PLACE = ("layer_norm", "rms_norm")  # their weights have the shape of the normalised axes
_PRODUCTS = ("matmul", "mm", "bmm", "mv")
_ADDED_PRODUCTS = ("addmm", "addmv", "baddbmm")
_OTHER_PRODUCTS = ("einsum", "tensordot", "inner")
# Gates pass on their input, and their output is above 0 for any input, so a tensor that a gate
# multiplies always passes.
_GATES = ("sigmoid", "sigmoid_", "special_expit", "hardsigmoid")
_TIMES = ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")
# Replaced by the identity: they pass their input, but some turn a 0 into another number (softplus).
_PASS = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("tanh", "softplus", "hardtanh", "hardswish", "log_sigmoid"),
    *("hardshrink", "softshrink", "clamp", "clamp_", "clip", "clamp_min", "clamp_max"),
    "log_softmax",
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
)
# No paths are followed through these: the weights of a softmax are never 0 (the softmax inside
# attention is handled by `_attended`), and a recurrent layer has loops.
_BLOCK = (
    *("softmax", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"),
    *("rnn_relu_cell", "embedding_bag", "bilinear"),
)

Mark = Callable[[Tensor], Tensor]
"""A function applied to a layer's outputs before other layers read them."""


class Unfollowed(Exception):
    """The paths of a network cannot be followed; the message says why."""


class Paths(TorchFunctionMode):
    """A forward pass in which a positive number means that a path leads there.

    `uses` counts how often each weight is used.
    """

    def __init__(self, names: Mapping[int, str], mark: Mark) -> None:
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
            raise Unfollowed(f"it calls {name}, which cannot be followed weight by weight")
        if name in _PASS:
            return args[0]
        if name in _GATES:
            return self._gate(args[0])
        if name in _TIMES:
            return func(*self._gated(*_by_name(("input", "other"), args, given)))
        if name in _LAYERS:
            return self._layer(name, func(*args, **given), *_by_name(_READ, args, given))
        if name in _PRODUCTS:
            return self._product(func(*args, **given), *args[:2])
        if name in _ADDED_PRODUCTS:
            return self._product(func(*args, **given), *args[1:3])
        if name in _OTHER_PRODUCTS and any(self._name_of(each) for each in args):
            raise Unfollowed(f"it calls {name}, whose operations are not counted")
        if name == "embedding":
            return self._rows(**_arguments(func, args, given))
        if name == "scaled_dot_product_attention":
            return self._attended(*_by_name(("query", "key", "value"), args, given))
        if name == "multi_head_attention_forward":
            return self._attention(_arguments(func, args, given)), None
        if name == "prelu":
            return _sloped(*_by_name(_READ, args, given))
        if name in _NORMALISE:
            return _scaled(args[0], _arguments(func, args, given), name)
        if "max_pool" in name:
            return _pooled(name, *args, **given)
        return func(*args, **given)

    def _name_of(self, weight: Any) -> str:
        """Return the name of a parameter, transposed or not; empty for any other tensor.

        Raises: Unfollowed: the tensor is only a part of a parameter.
        """
        name = self._names.get(id(_whole(weight)), "")
        if name and _whole(weight).numel() != weight.numel():
            raise Unfollowed(f"it calls a layer with a part of {name}")
        return name

    def _count(self, weight: Any, uses: int | Tensor) -> None:
        """Add to the uses of a weight, if it is a parameter of the network."""
        if name := self._name_of(weight):
            self.uses[name] = self.uses.get(name, torch.tensor(0)) + uses

    def _layer(self, name: str, out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Count a convolution or a linear layer: each output position uses the weights once.

        In a transposed convolution, each input position uses the weights once.
        """
        if weight.requires_grad and not self._name_of(weight):
            raise Unfollowed(f"it calls {name} with weights that it computes from others")
        self._count(weight, (x if name in _TRANSPOSED else out).numel() // len(weight))
        return self._mark(out)

    def _product(self, out: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Count a matrix product, and mark it if one of its factors is a parameter."""
        weights = [each for each in (first, second) if self._name_of(each)]
        for weight in weights:
            self._count(weight, out.numel() * first.shape[-1] // weight.numel())
        return self._mark(out) if weights else out

    def _rows(self, input: Tensor, weight: Tensor, **options: Any) -> Tensor:
        """Look up an embedding: nothing is multiplied, and any of its rows may be read."""
        self._count(weight, 0)
        return self._mark(weight.sum(0)).expand(*input.shape, -1)

    def _gate(self, x: Tensor) -> Tensor:
        """Return a copy of a gate's input, remembered as the output of a gate."""
        gate = x.clone()
        self._gates[id(gate)] = gate
        return gate

    def _gated(self, first: Any, second: Any) -> tuple[Any, Any]:
        """Return two factors such that a gate passes the other one even if its own input is 0."""
        if self._is_gate(first) and self._is_activation(second):
            return 1 + first, second
        if self._is_gate(second) and self._is_activation(first):
            return first, 1 + second
        return first, second

    def _is_gate(self, factor: Any) -> bool:
        return id(_whole(factor)) in self._gates

    def _is_activation(self, factor: Any) -> bool:
        """Whether a factor depends on the image and is not itself the output of a gate."""
        own = id(_whole(factor)) in self._names or self._is_gate(factor)
        return getattr(factor, "requires_grad", False) and not own

    def _attention(self, given: Mapping[str, Any]) -> Tensor:
        """Follow `nn.MultiheadAttention` on `[T, B, E]`: linear layers and the attention itself."""
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
        """Follow attention on `[..., T, E]`, from every position to every other; masks are ignored.

        A value passes even if its query and key are not connected. If they are, paths lead through
        the query and the key too.
        """
        scores = self._mark(query @ key.transpose(-1, -2))
        return self._mark((1 + scores) @ value)


def _whole(tensor: Any) -> Any:
    """Return the tensor that this one is a view of, or the tensor itself if it is not a view."""
    base = getattr(tensor, "_base", None)
    return tensor if base is None else base


def _by_name(names: Sequence[str], args: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
    """Return the named arguments of a built-in torch function, which has no Python signature."""
    return [given[name] if name in given else args[place] for place, name in enumerate(names)]


def _arguments(
    func: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the arguments of a call to a torch function, by parameter name."""
    return inspect.signature(func).bind(*args, **given).arguments


def _sloped(x: Tensor, weight: Tensor) -> Tensor:
    """Follow a PReLU; a slope of 0 ends a path."""
    return x * weight.view(1, -1, *[1] * (x.dim() - 2))


def _scaled(x: Tensor, given: Mapping[str, Any], name: str) -> Tensor:
    """Apply a normalisation without its statistics: only its weight and bias can end a path."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for parameter, put in (("weight", torch.mul), ("bias", torch.add)):
        value = given.get(parameter)
        if value is not None:
            x = put(x, value if name in _BY_PLACE else value.view(shape))
    return x


def _pooled(name: str, x: Tensor, *args: Any, **given: Any) -> Tensor:
    """Average instead of taking the maximum, whose gradient reaches only one of equal inputs."""
    if name.startswith("adaptive"):
        return getattr(F, name.replace("max", "avg"))(x, args[0])
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    asked = {**dict(zip(names, args, strict=False)), **given}
    if asked["dilation"] not in (1, (1,) * (x.dim() - 2)):
        raise Unfollowed(f"it calls {name} with a dilation, which no mean has")
    kept = {name: asked[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")}
    return getattr(F, name.replace("max", "avg"))(x, **kept)
