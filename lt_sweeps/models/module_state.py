"""The tensors of a module by name: those in its `state_dict`, and those outside it."""

from __future__ import annotations

from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The `state_dict` of a module, with a tied weight only under its first name."""
    own = set(_first_names(module).values())
    return {name: t.detach() for name, t in module.state_dict().items() if name in own}


def tied_names(module: nn.Module) -> dict[str, str]:
    """The further names of tied tensors in a `state_dict`, each with the tensor's first name."""
    own = _first_names(module)
    names = {n: own.get(id(t), n) for n, t in module.state_dict(keep_vars=True).items()}
    return {name: first for name, first in names.items() if name != first}


def _first_names(module: nn.Module) -> dict[int, str]:
    """The first name of each parameter and buffer, by the tensor's `id`."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {id(tensor): name for name, tensor in named}


def outside_state(module: nn.Module) -> list[tuple[str, str, Tensor]]:
    """The tensors outside a module's `state_dict`: (name of its submodule, own name, tensor).

    These are buffers with persistent=False, and tensors that are plain attributes.
    """
    saved = module.state_dict(keep_vars=True).keys()
    return [
        (owner, leaf, tensor)
        for owner, part in module.named_modules()
        for leaf, tensor in {**vars(part), **part._buffers}.items()
        if isinstance(tensor, Tensor) and f"{owner}.{leaf}".lstrip(".") not in saved
    ]


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias: `bias`, `in_proj_bias` of attention, `bias_ih_l0` of a GRU."""
    leaf = name.rpartition(".")[2]
    return leaf.endswith("bias") or leaf.startswith("bias_")
