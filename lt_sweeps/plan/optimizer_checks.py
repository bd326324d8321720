"""Try the optimizers of torch and of users, and their clipping, before anything trains."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import global_draws
from lt_sweeps.config.users_mistakes import told_by

_SAVED_TYPES = Tensor | int | float | None
_NUMBERS, _SIDE = 1 << 20, 3  # of the tensors that an optimizer and a clipping are tried on
_CLIPS = 8  # calls of a clipping on the same gradients; it may behave differently only later


def make_optimizer(
    call: Call, parameters: Sequence[Tensor], lr: float, *, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """Create a yaml's optimizer for these tensors; `weight_decay`, if given, replaces its own.

    Raises: ValueError: the optimizer cannot be created, or the training loop cannot step it.
    """
    where, decay = f"recipe.optimizer: `{call.target}`", {}
    if weight_decay is not None and "weight_decay" in call.names:
        decay = {"weight_decay": weight_decay}
    elif weight_decay:
        raise ValueError(f"{where} takes no weight_decay, which a learned mask needs")
    arguments: Mapping[str, Any] = {**call.args, **decay, "params": list(parameters), "lr": lr}
    try:
        optimizer = call.function(**arguments)
    except Exception as error:  # user-defined, or called with wrong arguments
        raise ValueError(f"{where} cannot be made: {told_by(error)}") from None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{where} is not a torch.optim.Optimizer")
    for group in optimizer.param_groups:  # the class may call its argument differently
        if weight_decay is not None and "weight_decay" in group:
            group["weight_decay"] = weight_decay
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{where} computes the loss several times in a step (its `step` needs a closure); "
            "choose an optimizer that takes one gradient a step"
        )
    return optimizer


def tried_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes to try a user's code on: the parameters' own, or short ones for a large network.

    The code may know the parameters of its network. But a trial of millions takes seconds.
    """
    if sum(map(math.prod, shapes.values())) <= _NUMBERS:
        return dict(shapes)
    return {name: tuple(min(side, _SIDE) for side in shape) for name, shape in shapes.items()}


def check_optimizer(call: Call, shapes: Mapping[str, tuple[int, ...]], lr: float) -> None:
    """Create the optimizer for tensors of the `tried_shapes`, and take a step.

    Raises: ValueError: the optimizer cannot be created or stepped, draws random numbers, changes
        its learning rate, or keeps state that a checkpoint would not hold.
    """
    parameters = [torch.ones(shape) for shape in sorted({*tried_shapes(shapes).values()})]
    optimizer = make_optimizer(call, parameters, lr)
    before = _attributes(optimizer)
    rates = [group.get("lr") for group in optimizer.param_groups]
    _step(call, optimizer, parameters)
    after = _attributes(optimizer)
    if rates != [group.get("lr") for group in optimizer.param_groups]:
        raise ValueError(
            f"recipe.optimizer: `{call.target}` changes its learning rate, which the recipe sets "
            "before every step; give recipe.decay a schedule of yours, or scale the update"
        )
    lost = [name for name in after if after[name] != before.get(name)]
    for owner, kept in optimizer.state.items():
        known = isinstance(owner, Tensor)
        lost += [k for k, v in kept.items() if not (known and isinstance(v, _SAVED_TYPES))]
    if lost:
        raise ValueError(
            f"recipe.optimizer: `{call.target}` keeps `{lost[0]}` where no checkpoint saves it; "
            "keep tensors and numbers in the state of a parameter, or in the parameter groups"
        )


def check_clip(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Call a clipping several times on the same gradients, of three magnitudes.

    Raises: ValueError: the function fails, gives new tensors instead of changing the gradients, or
        changes the same gradients differently later.
    """
    where = f"recipe.clip: `{call.target}`"
    tried = tried_shapes(shapes)
    first: list[Tensor] = []
    for number in range(_CLIPS):
        clipped: list[Tensor] = []
        with global_draws(number):
            for size in (1.0, 1e-3, 1e3):
                grads = {name: torch.full(shape, size) for name, shape in tried.items()}
                own = dict(grads)
                try:
                    returned = call(grads=grads)
                except Exception as error:
                    raise ValueError(f"{where}: {told_by(error)}") from None
                result = returned if isinstance(returned, Mapping) else {}  # may be `grads`
                if any(
                    grads.get(name) is not grad or result.get(name, grad) is not grad
                    for name, grad in own.items()
                ):
                    raise ValueError(
                        f"{where} returns new tensors, which have no effect; change the gradients "
                        "in place, for example by `grad.clamp_(...)` or `grad.copy_(...)`"
                    )
                clipped += grads.values()
        first = first or clipped
        if not all(map(_equal, first, clipped)):
            raise ValueError(
                f"{where} returns other gradients for the same input when it is called again: "
                "it counts its calls, remembers earlier gradients or draws random numbers, and a "
                "resumed training would differ; give a function that depends on `grads` alone"
            )


def _equal(first: Tensor, again: Tensor) -> bool:
    return torch.equal(first.nan_to_num(), again.nan_to_num())


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """The attributes of an optimizer that no checkpoint holds, as texts to compare."""
    held = ("state", "param_groups", "defaults", "params")
    own = {n: v for n, v in vars(optimizer).items() if n not in held}
    for group in optimizer.param_groups:
        own |= {n: v for n, v in group.items() if type(v) in (list, dict, tuple)}
    # A bool may only record that a warning was given.
    return {n: _text(v, optimizer) for n, v in own.items() if n not in held and type(v) is not bool}


def _text(value: Any, owner: torch.optim.Optimizer) -> str:
    """The content of a value as text, including optimizers that are wrapped in this one."""
    if isinstance(value, torch.optim.Optimizer):
        return "" if value.state is owner.state else repr(dict(value.state))
    if isinstance(value, list | tuple):
        return repr([_text(inner, owner) for inner in value])
    if isinstance(value, dict):
        return repr({key: _text(inner, owner) for key, inner in value.items()})
    if isinstance(value, torch.Generator):
        return repr(value.get_state().tolist())
    if isinstance(value, logging.Logger):
        return ""  # its content changes with the levels that it has written
    plain = isinstance(value, Tensor) or not hasattr(value, "__dict__")
    return repr(value) if plain else repr(vars(value))


def try_step(
    call: Call, parameters: Sequence[Tensor], lr: float, *, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """Create an optimizer and take a step with gradients of 0, so that all its state exists.

    Raises: ValueError: the optimizer cannot be created or stepped, or draws random numbers.
    """
    optimizer = make_optimizer(call, parameters, lr, weight_decay=weight_decay)
    _step(call, optimizer, parameters)
    return optimizer


def _step(call: Call, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Take a step with gradients of 0.

    Raises: ValueError: the optimizer cannot be stepped, or draws random numbers.
    """
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    before = torch.get_rng_state()
    try:
        optimizer.step()
    except Exception as error:
        raise ValueError(f"recipe.optimizer: `{call.target}`: {told_by(error)}") from None
    if not torch.equal(before, torch.get_rng_state()):
        raise ValueError(
            f"recipe.optimizer: `{call.target}` draws random numbers, which would depend on what "
            "else a process has drawn; a result depends on its seed alone"
        )
