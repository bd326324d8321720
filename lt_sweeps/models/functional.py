"""A module called with other tensors in place of its own, and the output of it that counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lt_sweeps.config.spelling import listed


def called_with(module: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """`functional_call`, with plain attention.

    A recurrent layer would read its own weights, from a list; `vmap` and the effective size, which
    call this, have no rule for it anyway. `state` is by parameter name, a tied weight under its
    first one. A buffer that the module replaces in its forward pass is put back into `state`. A
    backward pass that computes a part of the forward pass again (`torch.utils.checkpoint`) does so
    with the module's own tensors.
    """
    with plain_attention():
        return functional_call(module, state, (x,))  # pyright: ignore[reportArgumentType]


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention without what has no rule for `vmap`, or no second derivative.

    The fused kernels of a GPU have no rule for their backward pass.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def relist(module: nn.Module) -> None:
    """Let recurrent layers read the parameters that they now have."""
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]


def picked(outputs: Any, output: str | int | None = None) -> Tensor:
    """The output that counts, of a model that returns several.

    Raises:
        ValueError: there is no such output, or several and none was named.
    """
    if output is None:
        if isinstance(outputs, Tensor):
            return outputs
        raise ValueError(f"task.output: none, and the model returns {_several(outputs)}; name one")
    if isinstance(outputs, Mapping):
        chosen = outputs.get(output)
    elif isinstance(output, int):
        several = isinstance(outputs, tuple | list) and output in range(len(outputs))
        chosen = outputs[output] if several else None
    else:
        chosen = getattr(outputs, output, None)
    if not isinstance(chosen, Tensor):
        raise ValueError(f"task.output: got {output!r}; the model returns {_several(outputs)}")
    return chosen


def _several(outputs: Any) -> str:
    """What a model returns, in words."""
    if isinstance(outputs, Tensor):
        return "one tensor"
    if isinstance(outputs, Mapping):
        return listed(outputs)
    if dataclasses.is_dataclass(outputs):
        return listed(field.name for field in dataclasses.fields(outputs))
    if isinstance(outputs, tuple | list):
        names = getattr(outputs, "_fields", None)
        return listed(names) if names else f"{len(outputs)} outputs, from 0 on"
    return f"a {type(outputs).__name__}"
