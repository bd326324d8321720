"""The output layer of a network: choose a linear layer, and check that it is the output layer."""

from __future__ import annotations

from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import listed, nearest


def head_of(module: nn.Module, named: str | None = None) -> str | None:
    """The name of the output layer: `named`, or the last linear layer in order of construction.

    Raises: ValueError: `named` is not a linear layer.
    """
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if named is None:
        return linear[-1] if linear else None
    if named not in linear:
        near = nearest(named, linear)
        raise ValueError(
            f"model.head: got {named!r}; give one of the linear layers {listed(linear)}{near}"
        )
    return named


def check_output_layer(module: nn.Module, outputs: Tensor, net: Call) -> None:
    """Refuse a network whose last linear layer is not the one that computes its outputs.

    Raises: ValueError: the last linear layer would wrongly be taken for the output layer.
    """
    head = head_of(module)
    if head is None:
        return
    layer = module.get_submodule(head)
    # A frozen layer does not appear in the autograd graph. A weight that is computed from others,
    # such as an orthogonal one, may be more operations away than the weight of another layer.
    if "weight" not in layer._parameters or not all(p.requires_grad for p in layer.parameters()):
        return
    others = _nearest_to(outputs, module)
    if others and head not in others:
        raise ValueError(
            f"model: {net} computes its outputs with {others[-1]} but constructs {head} last, "
            f"which would count as the output layer; name the right one: ++model.head={others[-1]}"
        )


def _nearest_to(outputs: Tensor, module: nn.Module) -> list[str]:
    """The linear layers whose weights are the fewest operations away from the outputs.

    Empty if weights of another kind, such as those of a convolution, are nearer.
    """
    weights = {id(p) for p in module.parameters() if p.ndim > 1}
    linear = {
        name: {id(p) for p in part.parameters()} & weights
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    }
    level, seen = {outputs.grad_fn}, {None}
    while level := level - seen:
        if reached := weights & {id(getattr(step, "variable", None)) for step in level}:
            return [name for name, own in linear.items() if own & reached]
        seen |= level
        level = {before for step in level if step for before, _ in step.next_functions}
    return []
