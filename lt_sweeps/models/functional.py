"""Call a module with other tensors in place of its own; pick the output that counts."""

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

    A recurrent layer would ignore `state` and read its own weights from a list; the callers (`vmap`
    and the effective size) have no rule for recurrent layers anyway. `state` is by parameter name,
    with a tied weight under its first name. A buffer that the module replaces in its forward pass
    is written back to `state`. A backward pass that recomputes part of the forward pass
    (`torch.utils.checkpoint`) uses the module's own tensors.
    """
    with plain_attention():
        return functional_call(module, state, (x,))  # pyright: ignore[reportArgumentType]


@contextmanager
def plain_attention() -> Iterator[None]:
    """Run attention without fused kernels, some of which lack `vmap` or a second derivative.

    For example, `vmap` has no rule for the backward pass of a GPU's fused attention.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def relist(module: nn.Module) -> None:
    """Refresh the weight lists of recurrent layers, so that they read their current parameters."""
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]


def picked(outputs: Any, output: str | int | None = None) -> Tensor:
    """Pick the output that counts, if a model returns several.

    Raises:
        ValueError: the model has no such output, or has several and `output` is None.
    """
    if output is None:
        if isinstance(outputs, Tensor):
            return outputs
        raise ValueError(
            f"task.output: not given, and the model returns {_several(outputs)}; give the one to "
            "train on"
        )
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
    """The outputs of a model in words, for a message."""
    if isinstance(outputs, Tensor):
        return "one tensor"
    if isinstance(outputs, Mapping):
        return listed(outputs)
    if dataclasses.is_dataclass(outputs):
        return listed(field.name for field in dataclasses.fields(outputs))
    if isinstance(outputs, tuple | list):
        names = getattr(outputs, "_fields", None)
        return listed(names) if names else f"{len(outputs)} outputs, counted from 0"
    return f"a {type(outputs).__name__}"
