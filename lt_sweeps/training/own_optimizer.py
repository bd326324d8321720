"""`OwnOptimizer`: train a stack with any `torch.optim` optimizer, one object for each replicate.

The state of an arbitrary optimizer (moments, counts, norms) is not known beforehand, and an update
may depend on a whole tensor or on all tensors, as in LAMB and Muon. So each replicate has its own
optimizer on views of its row, and a replicate in a stack equals the same seed alone. The state is
kept in stacked tensors `[R, ...]`, so that checkpoints can save it and masks can be applied to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.plan.optimizer_checks import make_optimizer, try_step
from lt_sweeps.training.stack import BufferLayout


class OwnOptimizer:
    """Updates `weights` `[R, P]` in place from `grads` `[R, P]`; both must keep their addresses.

    `moments` `[R, P]` hold the state tensors that have the shape and type of their parameter.
    `rest` `[R, ...]` holds all other state: numbers, rows and columns of a matrix, and numbers of a
    group of parameters. `steps` counts the steps of each replicate; a replicate with 0 has no
    state.
    """

    fused = False  # its state may move a pruned weight, and its steps cannot be captured

    def __init__(
        self,
        call: Call,
        weights: Tensor,
        grads: Tensor,
        layout: BufferLayout,
        *,
        lr: float,
        weight_decay: float | None = None,
    ) -> None:
        self._call, self._lr, self._decay = call, lr, weight_decay
        self._names = list(layout.slots)
        rows = range(len(weights))
        self._parameters, self._weights, self._grads = (
            [[view[row] for view in layout.views(flat).values()] for row in rows]
            for flat in (weights, weights, grads)
        )
        copies = [parameter.clone() for parameter in self._parameters[0]]
        first = try_step(call, copies, lr, weight_decay=weight_decay)
        self.steps = torch.zeros(len(weights), dtype=torch.float32, device=weights.device)
        self.moments: dict[str, Tensor] = {}
        self.rest: dict[str, Tensor] = {}
        self._kept: dict[tuple[str, int], Tensor] = {}  # `[R, ...]`, by key and parameter
        self._types: dict[str, type] = {}  # the types of state that is a number and not a tensor
        for number, parameter in enumerate(copies):
            for key, value in _state(first, parameter).items():
                self._kept[key, number] = self._place(key, number, value, weights, layout)
        for key, value in _group_numbers(first).items():
            self.rest[key] = self._numbers(key, value, weights)
        self.ready()

    def ready(self) -> None:
        """Make new optimizers, with the state that the stacked tensors hold."""
        self._optimizers = [
            make_optimizer(self._call, parameters, self._lr, weight_decay=self._decay)
            for parameters in self._parameters
        ]
        # A group's learning rate stays the same multiple of the recipe's learning rate.
        groups = self._optimizers[0].param_groups
        self._factors = [float(group["lr"]) / self._lr for group in groups]
        for row, count in enumerate(self.steps.tolist()):
            if count:
                self._restore(row)

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Take one step with learning rate `lr`."""
        rate = float(lr)
        for row, optimizer in enumerate(self._optimizers):
            for group, factor in zip(optimizer.param_groups, self._factors, strict=True):
                group["lr"] = rate * factor
            # In every step, because an optimizer may call `zero_grad` or replace `grad`.
            for parameter, grad in zip(self._parameters[row], self._grads[row], strict=True):
                parameter.grad = grad
            optimizer.step()
            self._bind(row)
        self.steps.add_(1)

    def mask_(self, mask: Tensor) -> None:
        """Set the moments to 0 where the float `mask` `[R, P]` is 0, for pruned weights."""
        for moment in self.moments.values():
            moment.masked_fill_(mask == 0, 0)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The whole state `[R, ...]`, and the step counts `[R]`."""
        return {**self.moments, **self.rest, "step": self.steps}

    def _place(
        self, key: str, number: int, value: Any, weights: Tensor, layout: BufferLayout
    ) -> Tensor:
        """Make the stacked tensor `[R, ...]` that holds one value of a parameter's state."""
        name = self._names[number]
        _, shape = layout.slots[name]
        # `step` is not a moment, even if a parameter of a single number has the same shape.
        alike = isinstance(value, Tensor) and value.shape == shape and value.dtype == weights.dtype
        if alike and key != "step":
            flat = self.moments.setdefault(key, torch.zeros_like(weights))
            return layout.views(flat)[name]
        self.rest[f"{key}/{name}"] = self._numbers(f"{key}/{name}", value, weights)
        return self.rest[f"{key}/{name}"]

    def _numbers(self, name: str, value: Any, weights: Tensor) -> Tensor:
        rows = len(weights)
        if isinstance(value, Tensor):
            return torch.zeros((rows, *value.shape), dtype=value.dtype, device=value.device)
        self._types[name] = type(value)
        return torch.zeros(rows, dtype=torch.float64, device=weights.device)

    def _bind(self, row: int) -> None:
        """Copy the state after a step into the stacked tensors, and let the optimizer use those."""
        optimizer = self._optimizers[row]
        for parameter, weight in zip(self._parameters[row], self._weights[row], strict=True):
            if parameter.data_ptr() != weight.data_ptr():  # after `p.data = ...`
                weight.copy_(parameter)
                parameter.data = weight
        for number, parameter in enumerate(self._parameters[row]):
            for key, value in _state(optimizer, parameter).items():
                if (key, number) not in self._kept:
                    raise ValueError(
                        f"recipe.optimizer: `{self._call.target}` adds `{key}` to its state after "
                        "its first step; create all of the state in the first step"
                    )
                stacked = self._kept[key, number][row]
                if not isinstance(value, Tensor):
                    stacked.fill_(value)
                elif value.data_ptr() != stacked.data_ptr():
                    stacked.copy_(value)
                    optimizer.state[parameter][key] = stacked
        for key, value in _group_numbers(optimizer).items():
            self.rest[key][row] = value

    def _restore(self, row: int) -> None:
        optimizer = self._optimizers[row]
        for (key, number), kept in self._kept.items():
            kind = self._types.get(f"{key}/{self._names[number]}")
            value = kept[row] if kind is None else kind(kept[row].item())
            optimizer.state[self._parameters[row][number]][key] = value
        for index, group in enumerate(optimizer.param_groups):
            for name in (n for n in self.rest if n.startswith(f"group {index}/")):
                kind, kept = self._types.get(name), self.rest[name][row]
                key = name.partition("/")[2]  # a new optimizer's group may not have this key yet
                group[key] = kept.clone() if kind is None else kind(kept.item())


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The state that an optimizer has for a parameter: tensors and numbers."""
    kept = optimizer.state.get(parameter, {})
    return {key: value for key, value in kept.items() if isinstance(value, Tensor | int | float)}


def _group_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Tensor | int | float]:
    """The numbers in an optimizer's groups; an optimizer may change some (Prodigy's `d`)."""
    return {
        f"group {index}/{key}": value
        for index, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if key not in ("params", "lr") and isinstance(value, Tensor | int | float)
    }
