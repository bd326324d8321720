"""Channel flow: which layers read the output channels of a layer, found by running the network.

This works for any `nn.Module`, however its forward pass is written. A layer's channels can be
followed if only convolutions and linear layers read them, each as part of its own input. Channels
that are added to others, as at the end of a residual block, cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Flow:
    """A layer, the batch norms after it, and the layers that read it, as module names."""

    writer: str
    norms: tuple[str, ...]
    readers: tuple[str, ...]


class ChannelTrial:
    """A module run on one example, to find which layers read the channels of another layer.

    All activations are made positive, so that a layer's input is 0 only if it has been silenced.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        draws = torch.Generator().manual_seed(0)
        self.module = deepcopy(module).eval()
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                drawn = 0.5 + torch.rand(tensor.shape, generator=draws)
                fan = 4 * tensor[0].numel() if tensor.ndim > 1 else 1  # activations stay small
                # A running mean below 0 makes a norm's output positive even where its input is 0.
                tensor.copy_(-drawn if name.endswith("running_mean") else drawn / fan)
        self.x = x
        if x.is_floating_point():
            self.x = torch.rand(x.shape, generator=draws, dtype=x.dtype)
        named = dict(self.module.named_modules())
        self.norms = {name: part for name, part in named.items() if isinstance(part, NORMS)}
        self.weighted = {name: part for name, part in named.items() if isinstance(part, WEIGHTED)}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.output = self._run({n: self._remember(n) for n in (*self.norms, *self.weighted)})

    def flow(self, writer: str) -> Flow | None:
        """Find the layers that read a layer's channels.

        The layer is silenced: its outputs are 0, and so are those of a norm whose inputs are 0.
        Each layer whose whole input is then 0 is a reader, and returns the output that it had
        before. If the network's output is unchanged too, only these readers read the channels.

        Returns None if anything else reads them, if no layer does, or if a grouped convolution
        writes or reads them.
        """
        norms: list[str] = []
        readers: list[str] = []
        hooks = {n: _note(n, readers, self.outputs.get(n)) for n in self.weighted}
        hooks |= {n: _note(n, norms) for n in self.norms}
        same = torch.equal(self._run({**hooks, writer: _zeros}), self.output)
        grouped = any(getattr(self.weighted[n], "groups", 1) != 1 for n in (*readers, writer))
        if not same or not readers or grouped:
            return None
        return Flow(writer, tuple(norms), tuple(readers))

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = inputs[0], output

        return hook

    @torch.no_grad()
    def _run(self, hooks: Mapping[str, Any]) -> Tensor:
        parts = {**self.norms, **self.weighted}
        handles = [parts[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            return self.module(self.x)
        finally:
            for handle in handles:
                handle.remove()


def _note(name: str, silenced: list[str], answer: Tensor | None = None) -> Any:
    """A hook that notes a module whose input is 0, and sets its output to `answer`, or to 0."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if inputs[0].any():
            return None
        silenced.append(name)
        return torch.zeros_like(output) if answer is None else answer

    return hook


def _zeros(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)
