"""Effective size: the weights of a ticket on a path from input to output, and their FLOPs.

A kept weight whose input is always zero, or whose output is never used, computes nothing and does
not count (arXiv:2107.02306). The paths are found by one forward and backward pass of the network
itself on ones and zeros: a kept weight is 1, an activation is 1 if any path leads to it, and its
gradient is positive if a path leads from it to the output. A bias does not begin a path: it adds
the same constant for every image.

This is correct only if a larger activation never makes an output smaller. Another pass checks this
on the whole network with different positive numbers (`_doubt`); if the check fails, no size is
reported.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.interchange.followed_paths import Mark, Paths, Unfollowed
from lt_sweeps.models.functional import called_with
from lt_sweeps.models.module_state import is_bias, outside_state
from lt_sweeps.models.network import Network


@dataclass(frozen=True)
class Size:
    """Parameters and operations (FLOPs) of one example's forward pass: in total, and on a path.

    A multiplication and an addition are two operations. Only convolutions, linear layers (also
    those inside attention) and other products with a parameter count. An embedding lookup costs no
    operations; a path may begin at any of its rows.
    """

    parameters_total: int
    parameters_effective: int
    weights_effective: int
    flops_total: int
    flops_effective: int


def network_size(network: Network, present: Mapping[str, Tensor]) -> Size:
    """Return the size of a network; `present` marks the prunable weights that take part.

    Raises: Unfollowed: the network has a function through which paths cannot be followed.
    """
    if reason := _doubt(network):
        raise Unfollowed(reason)
    ones = {name: _ones(name, p) for name, p in _module(network).named_parameters()}
    ones |= {name: present[name].double() for name in present}
    uses, grads = _pass(network, ones, _Present.apply)
    alive = {
        name: torch.zeros_like(one, dtype=torch.bool)
        if (grad := grads[name]) is None
        else (grad > 0) & ((one > 0) | is_bias(name))
        for name, one in ones.items()
    }
    layers = {layer.name for layer in network.layers}
    if unread := sorted(layers - set(uses)):
        raise Unfollowed(f"{unread[0]} belongs to neither a convolution nor a linear layer")
    return Size(
        parameters_total=network.parameters,
        parameters_effective=sum(int(each.sum()) for each in alive.values()),
        weights_effective=sum(int(alive[name].sum()) for name in layers),
        flops_total=2 * sum(_used(torch.ones_like(alive[n]), uses[n]) for n in uses),
        flops_effective=2 * sum(_used(alive[n], uses[n]) for n in uses),
    )


def _used(weights: Tensor, uses: Tensor) -> int:
    """Return how often these weights are used; `uses` is one number, or one for each row."""
    return int((weights.reshape(len(weights), -1).sum(1) * uses).sum())


@functools.lru_cache(maxsize=1)
def _module(network: Network) -> nn.Module:
    """Build the network's module, with its plain tensor attributes set to 0.

    The values of its weights are not used.
    """
    with torch.random.fork_rng(devices=[]):
        module = network.module("cpu").eval()
    for owner, leaf, tensor in outside_state(module):
        if tensor.is_floating_point() and leaf in vars(module.get_submodule(owner)):
            setattr(module.get_submodule(owner), leaf, _zeros(tensor))
    return module


def _zeros(tensor: Tensor) -> Tensor:
    """Return zeros for a constant, which, like a bias, does not begin a path."""
    return torch.zeros_like(tensor, dtype=torch.float64)


def _ones(name: str, parameter: Tensor) -> Tensor:
    """Return ones for a weight, and zeros for a bias: it adds nothing but still has a gradient."""
    return torch.full(parameter.shape, 0.0 if is_bias(name) else 1.0, dtype=torch.float64)


@functools.lru_cache(maxsize=4)
def _doubt(network: Network) -> str:
    """Say why the gradients on ones do not show a network's paths; empty if they do.

    In a network that can be followed, weights that are different positive numbers give no gradient
    below 0, and some gradient above 0 for each parameter that is used. A subtraction, a norm
    written by hand or a scale stored in a buffer breaks this, and all weights before it would count
    as dead.
    """
    draws = torch.Generator().manual_seed(0)
    drawn = {name: _drawn(name, p, draws) for name, p in _module(network).named_parameters()}
    for name, grad in _pass(network, drawn, _around_one, draws)[1].items():
        rounding = 0.0 if grad is None else 1e-9 * float(grad.abs().max())
        if grad is not None and not (
            grad.isfinite().all() and grad.min() >= -rounding < grad.max()
        ):
            return f"a function after {name} cannot be followed weight by weight"
    return ""


def _drawn(name: str, parameter: Tensor, draws: torch.Generator) -> Tensor:
    """Draw different positive weights; a bias is 0."""
    drawn = 0.5 + torch.rand(parameter.shape, generator=draws, dtype=torch.float64)
    return drawn * (not is_bias(name))


def _around_one(x: Tensor) -> Tensor:
    """Scale outputs to a mean magnitude of 1: they neither explode nor vanish with depth."""
    return x / x.detach().abs().mean()


def _pass(
    network: Network,
    weights: Mapping[str, Tensor],
    mark: Mark,
    draws: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return how often each weight is used in one forward pass, and each parameter's gradient.

    The image holds ones or, with `draws`, random numbers around 1. A parameter without a gradient
    is not used. Integer buffers, such as indices, are left unchanged; all others are set to 0.
    """
    module = deepcopy(_module(network))  # a module may cache tensors when it runs
    leaves = {name: each.clone().requires_grad_() for name, each in weights.items()}
    mode = Paths({id(leaf): name for name, leaf in leaves.items()}, mark)
    buffers = {n: _zeros(b) if b.is_floating_point() else b for n, b in module.named_buffers()}
    image = network.example()
    if image.is_floating_point():
        image = torch.ones_like(image, dtype=torch.float64)
        image += 0 if draws is None else torch.rand(image.shape, generator=draws) - 0.5
    try:
        with mode:
            called_with(module, {**leaves, **buffers}, image).sum().backward()
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise Unfollowed(str(error).partition("\n")[0]) from error
    return mode.uses, {name: leaf.grad for name, leaf in leaves.items()}


class _Present(torch.autograd.Function):
    """Replace positive numbers by 1, forwards and backwards, so that no depth overflows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad > 0).to(grad.dtype)
