"""Checks that refuse modules which cannot be trained, stacked or pruned here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lt_sweeps.config.call import Call
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.prunable import Layer, Parameter, offered


def check_prunable(
    layers: Sequence[Layer], parameters: Sequence[Parameter], untrained: Sequence[str], net: Call
) -> None:
    """Raises: ValueError: there is nothing to prune, or a prunable layer cannot be pruned."""
    if not parameters:
        raise ValueError(
            f"model: {net} has no parameters; torch ignores layers in a Python list or "
            "dict, so put them in a `torch.nn.ModuleList`"
        )
    if not layers:
        raise ValueError(
            f"model.prunable: no weight of {net} is left to prune; there are {offered(parameters)}"
        )
    for layer in layers:
        if not layer.size:
            raise ValueError(f"model: {net} has no weights in {layer.name}")
        if not layer.shape:
            raise ValueError(f"model.prunable: {layer.name} is a single number; leave it out")
    if still := [layer.name for layer in layers if layer.name in untrained]:
        raise ValueError(
            f"model.prunable: {net} does not train {', '.join(still[:3])} "
            f"(requires_grad=False); leave them out: model.prunable.exclude=[{','.join(still)}]"
        )


def check_scripted(module: nn.Module, net: Call) -> None:
    """Raises: ValueError: a part of the module is compiled by torch.jit, which hides its layers."""
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            which = f"its `{name}`" if name else "it"
            raise ValueError(
                f"model: {net}: {which} is compiled by torch.jit, so its layers cannot be stacked, "
                "pruned or counted; give the module itself, without torch.jit.script or trace"
            )


def check_trainable(module: nn.Module, net: Call) -> None:
    """Raises: ValueError: the types of weights or the kind of gradients cannot be trained here."""
    types = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
    if types not in ({"float32"}, {"float64"}):
        raise ValueError(
            f"model: {net} has weights of {', '.join(sorted(types))}; give all of them "
            "float32 or all float64 (with precision=bf16 their products are bfloat16)"
        )
    _check_views(module, net)
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ValueError(
                f"model: {net} has a hook on the gradient of {name}, which is not called "
                "here; change gradients in a torch.autograd.Function, or by recipe.clip"
            )
    for name, buffer in state_of(module).items():
        tiny = buffer.is_floating_point() and buffer.itemsize == 1
        if tiny or buffer.dtype == torch.complex128:
            raise ValueError(
                f"model: {net} has a buffer {name} of {str(buffer.dtype).removeprefix('torch.')}, "
                "which tickets cannot hold; give it another type, such as float32 or complex64"
            )
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
            raise ValueError(
                f"model: {net}: {name} has sparse gradients, which no optimizer here "
                "takes; give sparse=False, which computes the same"
            )


def _check_views(module: nn.Module, net: Call) -> None:
    """Raises: ValueError: two parameters share a number. Parts of one tensor (`chunk`) do not."""
    storages: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in module.named_parameters():
        storages.setdefault(parameter.untyped_storage()._cdata, []).append((name, parameter))
    for members in storages.values():
        if len(members) == 1:
            continue
        size = members[0][1].untyped_storage().nbytes() // members[0][1].itemsize
        owners = torch.full((size,), -1, dtype=torch.int32)  # by place in the storage
        for number, (name, parameter) in enumerate(members):
            place = parameter.stride(), parameter.storage_offset()
            own = owners.as_strided(parameter.shape, *place)
            if (own >= 0).any():
                raise ValueError(
                    f"model: {net}: {name} is a view of {members[int(own.max())][0]}, which a "
                    "ticket would hold as two weights; compute it in the forward pass "
                    "(`F.linear(x, other.weight.t())`), or assign the parameter itself"
                )
            own.fill_(number)


def initialize(module: nn.Module, init: Call) -> None:
    """Fill a module with a model's `init`.

    Raises: ValueError: `init` changes more than values; other modules of this net would lack that.
    """
    before = _described(module)
    init(module=module)
    after = _described(module)
    if before != after:
        other = [line for line in after if line not in before] or ["fewer parts"]
        raise ValueError(
            f"model.init: `{init.target}` changes the net, which has `{other[0]}` afterwards; only "
            "set values of parameters and buffers here, and do everything else in model.net"
        )


def _described(module: nn.Module) -> list[str]:
    """Describe a module without its tensors' values: its layers, and which parameters it trains."""
    named = module.named_parameters()
    trained = [f"{name}.requires_grad={parameter.requires_grad}" for name, parameter in named]
    return [*(line.strip() for line in repr(module).splitlines()), *trained]
