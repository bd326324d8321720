"""An optimizer of torch's or of a user's, and the clipping before it, tried before they train."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import global_draws
from lt_sweeps.config.users_mistakes import told_by

_KEPT = Tensor | int | float | None
_SIDE = 3  # of the small tensors that an optimizer is tried on
_CLIPS = 8  # times that each gradient is clipped: a function may change only after some calls


def make_optimizer(
    call: Call, parameters: Sequence[Tensor], lr: float, *, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a yaml on these tensors, with another weight decay where one is given.

    Raises: ValueError: it cannot be made, or is not what a training loop can step.
    """
    where, more = f"recipe.optimizer: `{call.target}`", {}
    if weight_decay is not None and "weight_decay" in call.names:
        more = {"weight_decay": weight_decay}
    elif weight_decay:
        raise ValueError(f"{where} takes no weight_decay, and a learned mask asks for one")
    arguments: Mapping[str, Any] = {**call.args, **more, "params": list(parameters), "lr": lr}
    try:
        optimizer = call.function(**arguments)
    except Exception as error:  # it is the user's, or was given what it does not take
        raise ValueError(f"{where} cannot be made: {told_by(error)}") from None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{where} is no torch.optim.Optimizer")
    for group in optimizer.param_groups:  # whatever its class calls the argument
        if weight_decay is not None and "weight_decay" in group:
            group["weight_decay"] = weight_decay
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{where} computes the loss several times in a step (its `step` needs a closure); "
            "choose an optimizer that takes one gradient a step"
        )
    return optimizer


def check_optimizer(call: Call, shapes: Sequence[tuple[int, ...]], lr: float) -> None:
    """Make the optimizer on small tensors of as many dimensions, and take a step.

    Raises: ValueError: it cannot be made or stepped, or keeps what no checkpoint would hold.
    """
    small = {tuple(min(side, _SIDE) for side in shape) for shape in shapes}
    parameters = [torch.ones(shape) for shape in sorted(small)]
    optimizer = make_optimizer(call, parameters, lr)
    before = _attributes(optimizer)
    _step(call, optimizer, parameters)
    after = _attributes(optimizer)
    lost = [name for name in after if after[name] != before.get(name)]
    for owner, kept in optimizer.state.items():
        known = isinstance(owner, Tensor)
        lost += [k for k, v in kept.items() if not (known and isinstance(v, _KEPT))]
    if lost:
        raise ValueError(
            f"recipe.optimizer: `{call.target}` keeps `{lost[0]}` where no checkpoint finds it; an "
            "optimizer keeps tensors and numbers in the state of a parameter, or in its groups"
        )


def check_clip(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Clip small gradients, whose size falls and rises, several times over.

    Raises: ValueError: the function fails, or does not do the same to the same gradients again.
    """
    where = f"recipe.clip: `{call.target}`"
    small = {name: [min(side, _SIDE) for side in shape] for name, shape in shapes.items()}
    first: list[Tensor] = []
    for number in range(_CLIPS):
        clipped: list[Tensor] = []
        with global_draws(number):
            for size in (1.0, 1e-3, 1e3):
                grads = {name: torch.full(shape, size) for name, shape in small.items()}
                try:
                    call(grads=grads)
                except Exception as error:
                    raise ValueError(f"{where}: {told_by(error)}") from None
                clipped += grads.values()
        first = first or clipped
        if not all(map(_equal, first, clipped)):
            raise ValueError(
                f"{where} makes other gradients of the same ones when it is called again: it "
                "counts its calls, remembers earlier gradients or draws random numbers; a resumed "
                "training would end with other weights, so it is a function of `grads` alone"
            )


def _equal(first: Tensor, again: Tensor) -> bool:
    return torch.equal(first.nan_to_num(), again.nan_to_num())


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """What an optimizer has of its own that no checkpoint holds, as texts to compare."""
    held = ("state", "param_groups", "defaults", "params")
    own = {n: v for n, v in vars(optimizer).items() if n not in held}
    for group in optimizer.param_groups:
        own |= {n: v for n, v in group.items() if type(v) in (list, dict, tuple)}
    # A truth value may say what was warned of.
    return {n: _text(v, optimizer) for n, v in own.items() if n not in held and type(v) is not bool}


def _text(value: Any, owner: torch.optim.Optimizer) -> str:
    """A text of all that a value holds, of the optimizers too that an optimizer is made of."""
    if isinstance(value, torch.optim.Optimizer):
        return "" if value.state is owner.state else repr(dict(value.state))
    if isinstance(value, list | tuple):
        return repr([_text(inner, owner) for inner in value])
    if isinstance(value, dict):
        return repr({key: _text(inner, owner) for key, inner in value.items()})
    if isinstance(value, torch.Generator):
        return repr(value.get_state().tolist())
    if isinstance(value, logging.Logger):
        return ""  # it notes which levels it writes
    plain = isinstance(value, Tensor) or not hasattr(value, "__dict__")
    return repr(value) if plain else repr(vars(value))


def try_step(
    call: Call, parameters: Sequence[Tensor], lr: float, *, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer after a step along gradients of 0: what it keeps between two steps.

    Raises: ValueError: it cannot be stepped, or draws random numbers.
    """
    optimizer = make_optimizer(call, parameters, lr, weight_decay=weight_decay)
    _step(call, optimizer, parameters)
    return optimizer


def _step(call: Call, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """A step along gradients of 0. Raises: ValueError: as `try_step`."""
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
