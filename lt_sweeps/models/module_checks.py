"""Modules that are refused, because nothing here trains what they have or sees what they do."""

from __future__ import annotations

from torch import nn

from lt_sweeps.config.call import Call


def check_trainable(module: nn.Module, net: Call) -> None:
    """Raises: ValueError: weights of a type, or gradients of a kind, that nothing trains."""
    types = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
    if types not in ({"float32"}, {"float64"}):
        raise ValueError(
            f"model: {net} has weights of {', '.join(sorted(types))}; give all of them "
            "float32 or all float64 (with precision=bf16 their products are bfloat16)"
        )
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ValueError(
                f"model: {net} has a hook on the gradient of {name}, which is not called "
                "here; change gradients in a torch.autograd.Function, or by recipe.clip"
            )
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
            raise ValueError(
                f"model: {net}: {name} has sparse gradients, which no optimizer here "
                "takes; give sparse=False, which computes the same"
            )


def initialize(module: nn.Module, init: Call) -> None:
    """Let a model's `init` fill a module.

    Raises: ValueError: it changes more than values, which no other module would have.
    """
    before = _described(module)
    init(module=module)
    after = _described(module)
    if before != after:
        other = [line for line in after if line not in before] or ["less"]
        raise ValueError(
            f"model.init: `{init.target}` makes the net have `{other[0]}`; it may set "
            "values of parameters and buffers alone, so do all else in model.net"
        )


def _described(module: nn.Module) -> list[str]:
    """What a module is beside the values of its tensors: its layers, and what it trains."""
    named = module.named_parameters()
    trained = [f"{name}.requires_grad={parameter.requires_grad}" for name, parameter in named]
    return [*(line.strip() for line in repr(module).splitlines()), *trained]
