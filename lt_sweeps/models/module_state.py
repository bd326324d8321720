"""The tensors of a module by name: those that its `state_dict` holds, and those outside it."""

from __future__ import annotations

from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Its `state_dict`, in which a tied weight has its first name alone."""
    own = set(_first_names(module).values())
    return {name: t.detach() for name, t in module.state_dict().items() if name in own}


def tied_names(module: nn.Module) -> dict[str, str]:
    """Second names of tensors in its `state_dict`, each with the tensor's first name."""
    own = _first_names(module)
    names = {n: own.get(id(t), n) for n, t in module.state_dict(keep_vars=True).items()}
    return {name: first for name, first in names.items() if name != first}


def _first_names(module: nn.Module) -> dict[int, str]:
    """The first name of each parameter and buffer, by the tensor's `id`."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {id(tensor): name for name, tensor in named}


def outside_state(module: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Tensors that its `state_dict` does not hold, each with its module's name and its own.

    Buffers with persistent=False, and tensors that are plain attributes.
    """
    saved = module.state_dict(keep_vars=True).keys()
    return [
        (owner, leaf, tensor)
        for owner, part in module.named_modules()
        for leaf, tensor in {**vars(part), **part._buffers}.items()
        if isinstance(tensor, Tensor) and f"{owner}.{leaf}".lstrip(".") not in saved
    ]


def is_bias(name: str) -> bool:
    """Whether a parameter is added: `bias`, `in_proj_bias` of attention, `bias_ih_l0` of a GRU."""
    leaf = name.rpartition(".")[2]
    return leaf.endswith("bias") or leaf.startswith("bias_")
