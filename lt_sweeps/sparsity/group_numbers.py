"""Group numbers: the group of each weight of a network, by its granularity.

The rows of a weight are its outputs: `[out, in, ...]`. In a transposed convolution, an embedding
and Hugging Face's `Conv1D` the outputs are along the second dimension. In a grouped convolution the
second dimension counts the channels of one group, and the first dimension is divided among the
groups.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import repeated
from lt_sweeps.models.network import Network
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.granularity import WHERE, Granularity
from lt_sweeps.sparsity.weight_groups import WHOLE, Groups

_SECOND_IS_OUT = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)


@functools.lru_cache(maxsize=4)  # a number for each weight takes 4 bytes
def groups_of(granularity: Granularity, network: Network) -> Groups:
    """The groups of a network's prunable weights.

    Raises: ValueError: the network has no such groups.
    """
    made, first = {}, 0
    heads = _heads(network) if granularity.word == "head" else {}
    for layer in network.layers:
        numbers = heads.get(layer.name)
        if numbers is None:
            numbers = _numbered(granularity, layer, network)
            some = numbers != WHOLE
            numbers = torch.where(some, numbers + first, WHOLE)
            first = max(first, int(numbers.max()) + 1)
        made[layer.name] = numbers.int()
    if all(bool((numbers == WHOLE).all()) for numbers in made.values()):
        raise ValueError(
            f"{WHERE}: {granularity}: no prunable weight of {network.net} lies in such a group"
        )
    return Groups(granularity, made)


def _numbered(granularity: Granularity, layer: Layer, network: Network) -> Tensor:
    """Number the groups of one layer from 0, without gaps."""
    if granularity.function is not None:
        return _users(granularity.function, layer)
    owner = _owners(network)[layer.name]
    second = isinstance(owner, _SECOND_IS_OUT) or _is_conv1d(owner)
    shape = layer.shape if not second else (layer.shape[1], layer.shape[0], *layer.shape[2:])
    numbers = _usual(granularity, shape, is_output(layer, network))
    numbers = numbers.transpose(0, 1).contiguous() if second else numbers
    parts = _parts(granularity, layer, network)
    if parts > 1:  # each group of a convolution has its own channels
        part = torch.arange(layer.shape[0]) // (layer.shape[0] // parts) * layer.shape[1]
        numbers = torch.where(
            numbers == WHOLE, WHOLE, numbers + part.view(-1, *[1] * (len(layer.shape) - 1))
        )
    return numbers


def regrouped(granularity: Granularity, network: Network) -> bool:
    """Whether some groups differ from those that version 1 of a granularity's key stands for.

    In version 1 a channel was the same column in all groups of a convolution, and the rows of a
    `Conv1D` were its inputs.
    """
    transposed = granularity.function is None and any(map(_is_conv1d, _owners(network).values()))
    return transposed or any(_parts(granularity, layer, network) > 1 for layer in network.layers)


def _is_conv1d(owner: nn.Module) -> bool:
    """Whether a module is the linear layer of Hugging Face's GPT-2, with a weight `[in, out]`."""
    kinds = [kind for kind in type(owner).__mro__ if kind.__name__ == "Conv1D"]
    return any(kind.__module__.startswith("transformers.") for kind in kinds)


def _parts(granularity: Granularity, layer: Layer, network: Network) -> int:
    """The number of groups of a convolution if each has its own numbers, otherwise 1."""
    owner = _owners(network)[layer.name]
    second = ("filter", "neuron") if isinstance(owner, _SECOND_IS_OUT) else ("channel",)
    if not isinstance(owner, _ConvNd) or len(layer.shape) < 2 or granularity.word not in second:
        return 1
    return owner.groups


def _usual(granularity: Granularity, shape: tuple[int, ...], output: bool) -> Tensor:
    whole = torch.full(shape, WHOLE)
    rows, columns = shape[0], math.prod(shape[1:])
    if granularity.word in ("filter", "neuron"):
        view = torch.arange(rows).view(-1, *[1] * (len(shape) - 1))
        return whole if output else view.expand(shape).clone()  # an output row is a class
    if len(shape) < 2 or granularity.word == "head":
        return whole
    if granularity.word == "channel":
        return torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2)).expand(shape).clone()
    if granularity.word == "kernel":
        view = torch.arange(rows * shape[1]).view(rows, shape[1], *[1] * (len(shape) - 2))
        return whole if len(shape) < 3 else view.expand(shape).clone()
    if granularity.pattern:
        size = granularity.shape[1]
        last = (shape[0], *shape[2:], shape[1])  # puts the inputs of one position together
        along = torch.arange(rows * columns).view(last).movedim(-1, 1) // size
        return whole if shape[1] % size else along.contiguous()
    high, wide = granularity.shape
    across = -(-columns // wide)
    down = torch.arange(rows).view(-1, 1) // high
    return (down * across + torch.arange(columns).view(1, -1) // wide).view(shape)


def _users(function: Call, layer: Layer) -> Tensor:
    """The groups by a user-defined function: any integers, negative for weights in no group."""
    where = f"{WHERE}: `{function.target}`"
    numbers = repeated(lambda: {layer.name: torch.as_tensor(function(layer=layer))}, where)
    given = numbers[layer.name]
    if tuple(given.shape) != layer.shape or given.is_floating_point() or given.is_complex():
        raise ValueError(
            f"{where} gives {layer.name} a tensor of shape {list(given.shape)} and "
            f"{str(given.dtype).removeprefix('torch.')}; give each of its weights "
            f"{list(layer.shape)} the number of its group, an integer, or -1 to never prune it"
        )
    some, given = given >= 0, given.long()
    dense = torch.full(layer.shape, WHOLE)
    dense[some] = given[some].unique(return_inverse=True)[1]
    return dense


def _heads(network: Network) -> dict[str, Tensor]:
    """The heads of attention modules: rows of q, k and v, columns of the output projection."""
    prunable = {layer.name: layer for layer in network.layers}
    made: dict[str, Tensor] = {}
    first = 0
    for name, part in network.module().named_modules():
        if not isinstance(part, nn.MultiheadAttention):
            continue
        prefix = f"{name}." if name else ""
        head = torch.arange(part.embed_dim) // part.head_dim + first
        for own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if layer := prunable.get(prefix + own):
                rows = head.repeat(layer.shape[0] // part.embed_dim)
                made[layer.name] = rows.view(-1, 1).expand(layer.shape).clone()
        if layer := prunable.get(f"{prefix}out_proj.weight"):
            made[layer.name] = head.view(1, -1).expand(layer.shape).clone()
        first += part.num_heads
    return made


def is_output(layer: Layer, network: Network) -> bool:
    """Whether the rows of a layer are the network's outputs, such as classes."""
    if network.head is not None:
        return layer.name == f"{network.head}.weight" or layer.kind == "output"
    last = network.layers[-1]
    return layer.kind == "output" or (layer == last and layer.shape[0] == network.classes)


@functools.cache
def _owners(network: Network) -> dict[str, nn.Module]:
    """The module that each prunable weight belongs to."""
    module = network.module()
    return {la.name: module.get_submodule(la.name.rpartition(".")[0]) for la in network.layers}
