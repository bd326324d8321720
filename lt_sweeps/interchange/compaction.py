"""Compaction: turn a pruned network into a smaller dense one that computes the same function.

A channel is removed if no layer reads it, or if it is constant because all weights that write to it
are 0. A constant channel still emits its bias, as a batch norm transforms it, so its contribution
is added to one constant channel that stays. This is exact for layers that pad, too: they read the
sum of several constant channels just as they read each of them. Zeros are found in the weights, not
in the mask, so a pruned weight that is pinned to another value is never lost, and single dead
neurons of an unstructured ticket are removed too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lt_sweeps.interchange.ticket_formats import check_names
from lt_sweeps.models.channel_flow import NORMS, WEIGHTED, ChannelTrial, Flow

Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_EXAMPLES = 3
_ROUNDING = 1e-9  # of float64, relative to the largest output
_FAILS = (RuntimeError, TypeError, ValueError, LookupError)  # what a forward pass may raise


@dataclass(frozen=True)
class Compacted:
    """A smaller network, with the widths of its layers and the reasons why some stay whole.

    `widths` maps a layer's name to its number of outputs (before, after). `whole` maps the name of
    a layer that is not made smaller to the reason.
    """

    module: nn.Module
    widths: Mapping[str, tuple[int, int]]
    whole: Mapping[str, str]

    @property
    def summary(self) -> str:
        """One line on the network's size, and one for each reason why layers stay whole."""
        cut = [f"{name} {a} -> {b}" for name, (a, b) in self.widths.items() if a != b]
        size = sum(p.numel() for p in self.module.parameters())
        lines = [f"compact: {size:,} parameters; {', '.join(cut) or 'no layer is smaller'}"]
        for reason in dict.fromkeys(self.whole.values()):
            names = [name for name, why in self.whole.items() if why == reason]
            lines.append(f"whole: {', '.join(names)}: {reason}")
        return "\n".join(lines)


def compacted(module: nn.Module, example: Tensor) -> Compacted:
    """Return a smaller dense network that computes the same as `module` in evaluation mode.

    Args:
        example: an input of the module, `[1, ...]`.

    Raises: ValueError: the module cannot be copied or run, or is compiled.
    """
    dtypes = [part.weight.dtype for part in _layers(module).values()]
    # A forward pass that torch.compile has compiled may not call hooks.
    if compiled := [n for n, part in module.named_modules() if hasattr(part, "_orig_mod")]:
        raise ValueError(f"compact: `{compiled[0]}` is compiled; build it without torch.compile")
    try:
        net = deepcopy(module).eval().double()
        trial = ChannelTrial(net, example.double() if example.is_floating_point() else example)
    except _FAILS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"compact: the network does not run: {reason}") from error
    inputs = _inputs(net, example)
    before = {name: _width(part) for name, part in _layers(net).items()}
    flows, whole = _flows(net, trial)
    with torch.no_grad():
        outputs, smaller = net(inputs), True
        while smaller:  # removing a channel may leave an earlier one unread
            smaller = False
            for flow in reversed(flows):
                width = _width(_layers(net)[flow.writer])
                if reason := _shrink(net, flow, inputs, outputs):
                    whole[flow.writer] = reason
                smaller |= _width(_layers(net)[flow.writer]) < width
    widths = {name: (before[name], _width(part)) for name, part in _layers(net).items()}
    return Compacted(net.to(dtypes[0] if dtypes else torch.float32), widths, whole)


def load_compact(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Shrink a module's layers to those of a compact network, and load its weights.

    `module` is the network as it was trained, with any weights; `state` is what `form=compact`
    wrote.

    Raises: ValueError: the state belongs to another network.
    """
    check_names(state, module, where="load_compact")
    layers = {**_layers(module), **_norms(module)}
    for name, part in layers.items():
        own = {n: state[f"{name}.{n}"] for n in _TENSORS if f"{name}.{n}" in state}
        _set(part, own)
    module.load_state_dict(dict(state), strict=False)
    return module.eval()


_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _flows(net: nn.Module, trial: ChannelTrial) -> tuple[list[Flow], dict[str, str]]:
    """Return the layers whose channels can be removed, and for each other layer why they cannot.

    Both are in network order.
    """
    uses = Counter(id(p) for _, p in net.named_parameters(remove_duplicate=False))
    flows, whole = [], {}
    for name, part in _layers(net).items():
        if name not in trial.outputs:
            whole[name] = "it is not called as a layer, as in attention"
        elif uses[id(part.weight)] > 1:
            whole[name] = "it shares its weight with another layer"
        elif (flow := trial.flow(name)) is None:
            whole[name] = (
                "its outputs are the network's outputs, or are read by a layer with groups or by "
                "another operation"
            )
        else:
            flows.append(flow)
    return flows, whole | _of_other_kinds(net)


def _of_other_kinds(net: nn.Module) -> dict[str, str]:
    """Return the modules whose own weights are never made smaller, each with the reason."""
    whole = {}
    for name, part in net.named_modules():
        matrices = any(p.ndim > 1 for p in part.parameters(recurse=False))
        if matrices and not isinstance(part, WEIGHTED):
            kind = type(part).__name__
            whole[name or kind] = f"layers of type {kind} are never made smaller"
    return whole


def _shrink(net: nn.Module, flow: Flow, inputs: Tensor, outputs: Tensor) -> str:
    """Remove a layer's removable channels in place.

    Returns why the layer must stay whole; empty if channels were removed or all are needed.

    Args:
        outputs: the whole network's outputs for `inputs`.
    """
    layers = _layers(net)
    writer, readers = layers[flow.writer], [layers[name] for name in flow.readers]
    width = _width(writer)
    if any(reader.weight.shape[1] % width for reader in readers):
        return "a layer that reads it has another number of inputs"
    silent = (writer.weight.flatten(1) == 0).all(1)
    unread = torch.stack([(_by_channel(r, width) == 0).flatten(2).all(2).all(0) for r in readers])
    unread = unread.all(0)
    constants = _constants(net, flow, silent & ~unread, inputs) if (silent & ~unread).any() else {}
    keep = ~unread
    if constants:
        keep &= ~silent
        carrier = constants[flow.readers[0]][0]
        keep[carrier] = any(bool(shares.any()) for _, shares in constants.values())
    if not keep.any():
        keep[0] = True
    if keep.all():
        return ""
    parts = [layers[n] for n in (flow.writer, *flow.readers)] + [_norms(net)[n] for n in flow.norms]
    before = [_tensors(part) for part in parts]
    _cut(net, flow, keep, constants, width)
    try:
        same = _equal(net(inputs), outputs)
    except _FAILS:
        same = False
    if same:
        return ""
    for part, own in zip(parts, before, strict=True):
        _set(part, own)
    return "without some of its channels the network computes something else"


Shares = tuple[int, Tensor]
"""The constant channel that stays, and each channel as a multiple of it."""


def _constants(net: nn.Module, flow: Flow, silent: Tensor, inputs: Tensor) -> dict[str, Shares]:
    """Return, for each reader, the constant channels as multiples of one; empty if impossible."""
    # A silent channel emits its bias, transformed by a norm and an activation: an image that is the
    # same for every input. A reader sums over its channels. So if all these images are multiples of
    # one of them, only that channel (the carrier) must stay: its new weight is the sum of all their
    # weights, each times its multiple. A reader behind a different activation sees different
    # images, so each reader has multiples of its own, but all readers share one carrier.
    seen = _called_with(net, flow.readers, inputs)
    width, found = len(silent), {}
    carrier = None
    for name in flow.readers:
        values = seen[name]
        if isinstance(_layers(net)[name], nn.Linear):  # same weights at each position
            places = math.prod(values.shape[1:-1])
            values = values.reshape(len(values), places, width, -1).transpose(1, 2)
        values = values.reshape(len(values), width, -1)
        if not torch.equal(values[:1, silent].expand_as(values[:, silent]), values[:, silent]):
            return {}
        first = torch.where(silent[:, None], values[0], 0.0)
        if carrier is None:  # the strongest, as 0 has no multiples but 0
            carrier = int(first.abs().sum(1).argmax())
            if not silent[carrier]:  # all emit 0: any silent channel will do
                carrier = int(silent.nonzero()[0, 0])
        own = first[carrier]
        scale = float(own @ own)
        shares = first @ own / scale if scale else torch.zeros(width, dtype=first.dtype)
        if not torch.allclose(shares[:, None] * own, first, rtol=1e-12, atol=1e-14):
            return {}
        found[name] = carrier, shares
    return found


def _called_with(net: nn.Module, names: Sequence[str], inputs: Tensor) -> dict[str, Tensor]:
    """Run a forward pass and return the input of each named layer."""
    seen: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[name] = arguments[0].clone()

    layers = _layers(net)
    handles = [layers[name].register_forward_pre_hook(partial(note, name)) for name in names]
    net(inputs)
    for handle in handles:
        handle.remove()
    return seen


def _cut(
    net: nn.Module, flow: Flow, keep: Tensor, constants: Mapping[str, Shares], width: int
) -> None:
    """Remove channels from a layer, its norms and its readers, in place."""
    layers, norms = _layers(net), _norms(net)
    for part in (layers[flow.writer], *(norms[name] for name in flow.norms)):
        _set(part, {name: tensor[keep] for name, tensor in _tensors(part).items()})
    for name in flow.readers:
        reader = layers[name]
        weight = _by_channel(reader, width).clone()
        if name in constants:
            carrier, shares = constants[name]
            weight[:, carrier] = torch.einsum("ocp,c->op", weight, shares)
        left = weight[:, keep]
        shape = (left.shape[0], -1, *reader.weight.shape[2:])
        _set(reader, {"weight": left.reshape(shape)})


def _tensors(part: Weighted | Norm) -> dict[str, Tensor]:
    return {n: getattr(part, n) for n in _TENSORS if getattr(part, n, None) is not None}


def _set(part: Weighted | Norm, tensors: Mapping[str, Tensor]) -> None:
    """Replace a layer's tensors, and set its numbers of inputs and outputs to match."""
    parameters = dict(part.named_parameters(recurse=False))
    for name, tensor in tensors.items():
        own = tensor.detach().clone()
        setattr(part, name, nn.Parameter(own) if name in parameters else own)
    weight = tensors.get("weight")
    if weight is None:
        return
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = weight.shape
    elif isinstance(part, NORMS):
        part.num_features = len(weight)
    else:
        part.out_channels, part.in_channels = weight.shape[0], weight.shape[1] * part.groups


def _by_channel(reader: Weighted, width: int) -> Tensor:
    """Reshape a reader's weight by the channels that it reads: `[out, channels, positions]`.

    A linear layer may read several pixels of a channel.
    """
    return reader.weight.reshape(len(reader.weight), width, -1)


def _width(part: Weighted) -> int:
    return len(part.weight)


def _layers(net: nn.Module) -> dict[str, Weighted]:
    return {name: part for name, part in net.named_modules() if isinstance(part, WEIGHTED)}


def _norms(net: nn.Module) -> dict[str, Norm]:
    return {name: part for name, part in net.named_modules() if isinstance(part, NORMS)}


def _inputs(net: nn.Module, example: Tensor) -> Tensor:
    """Return varied inputs: the example plus noise, or random tokens valid for every embedding."""
    several = example[:1].repeat(_EXAMPLES, *[1] * (example.ndim - 1))
    draws = torch.Generator().manual_seed(0)
    if not several.is_floating_point():
        rows = [part.num_embeddings for part in net.modules() if isinstance(part, nn.Embedding)]
        if not rows or several.dtype == torch.bool:
            return several
        return torch.randint(min(rows), several.shape, generator=draws).to(several.dtype)
    return several.double() + torch.randn(several.shape, generator=draws, dtype=torch.float64)


def _equal(one: Tensor, other: Tensor) -> bool:
    largest = float(other.abs().max().clamp(min=1e-30))
    return one.shape == other.shape and float((one - other).abs().max()) <= _ROUNDING * largest
