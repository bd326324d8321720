"""The backends, which compute a stack's losses, gradients and logits; each equals the plain module.

`loop`     R modules, one after another, whose parameters are views of the stack's rows: accepts any
           module; on the CPU a row equals the same replicate alone, bit for bit
`chain`    linear layers with ReLU between them, as batched products with a backward pass written by
           hand; on the CPU a row equals the same replicate alone, bit for bit
`stacked`  replicates folded into the batch: linear layers as one batched product, convolutions and
           normalisation one replicate after another, all other operations unchanged
`grouped`  replicates folded into the channels: linear layers as one batched product, one grouped
           convolution and one normalisation for all replicates, all other operations unchanged
`vmap`     `torch.func`: accepts modules without noise, recurrent layers and branches on data, and
           starts about twice as many kernels

`auto` chooses by the device and the layers, so that the same command gives the same bytes. The only
exceptions are on a GPU, for convolutions and for layers that no stacked form covers: a sweep times
`timed_backends` once, and records the fastest backend that can compute the network.

Measurements behind the rule: on one CPU core `chain` is faster than a loop, and folding
convolutions is slower. With five replicates, replicate-steps relative to the best plain loop of one
module (`tests/benchmarks/bench_stack.py`, medians of 7 to 15 rounds): LeNet-300-100 chain 1.44,
stacked 1.21, vmap 1.04, loop 1.02; Conv-4 loop 1.0, stacked 0.63; ResNet-20 loop 0.99, stacked
0.60. On a GPU (2026-11-27, torch 2.11, a captured step of R = 15 in bf16, milliseconds): on an H100
Conv-4 stacked 9.3, loop 5.5, ResNet-20 stacked 42.3, loop 16.7; on an H200 Conv-4 grouped 5.7, loop
4.9, ResNet-20 grouped 13.4, loop 16.0. So on a GPU the rule is `loop` for convolutions, with the
replicates side by side, and a sweep times it against `grouped`; all other networks use `stacked`,
which starts fewer kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from lt_sweeps.plan.stages.task_kind import TaskKind
from lt_sweeps.training import own_kernels
from lt_sweeps.training.backends.chain import ChainBackend, FusedChainBackend, chain_of
from lt_sweeps.training.backends.data_branches import branches_on_data
from lt_sweeps.training.backends.folded_module import unstackable
from lt_sweeps.training.backends.loop_backend import LoopBackend
from lt_sweeps.training.backends.stack_views import StackViews, convolves
from lt_sweeps.training.backends.stacked import StackedBackend
from lt_sweeps.training.backends.vmap import VmapBackend
from lt_sweeps.training.task_loss import TaskLoss

BACKENDS = ("auto", "loop", "chain", "stacked", "grouped", "vmap")
ALONE = ("loop", "chain")
"""The backends with which, on a CPU, a stacked replicate equals the same one alone, bit for bit."""


class Backend(Protocol):
    """One way to compute a stack; `loss` overwrites the stack's gradients (`StackViews.grads`).

    Under `torch.no_grad`, `loss` may leave out the backward pass.
    """

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor: ...

    def logits(self, x: Tensor) -> Tensor: ...


def choose_backend(module: nn.Module, device: torch.device, loss: TaskLoss | None = None) -> str:
    """Return the name of the backend that `auto` means for this module, device and loss."""
    loss = loss or TaskLoss()
    if draws_noise(module):
        return "loop"
    if loss.kind.has_cross_entropy and chain_of(module):
        return "chain"
    if device.type == "cpu":
        return "loop"
    # `vmap` may have no rule for an operation of a custom layer, so only a timing tries it.
    needs_loop = _recurrent(module) or branches_on_data(module) or unstackable(module)
    return "loop" if needs_loop or convolves(module) else "stacked"


def timed_backends(module: nn.Module, device: torch.device) -> tuple[str, ...]:
    """The backends to time, the one of `choose_backend` first; empty if its choice is enough.

    On a GPU the fastest way to compute the convolutions of R replicates cannot be predicted: it is
    either R kernels side by side, or a single kernel with many groups.
    """
    if device.type == "cpu" or draws_noise(module) or _recurrent(module):
        return ()
    if unstackable(module):
        return ("loop", "vmap")
    return ("loop", "grouped") if convolves(module) else ()


def check_backend(
    name: str, module: nn.Module, kind: TaskKind, *, in_bf16_on_cpu: bool = False
) -> None:
    """Raises: ValueError: the backend `name` cannot compute this module or this kind of task."""
    if name in ("auto", "loop"):
        return
    if draws_noise(module):
        raise ValueError(f"backend: `{name}` cannot draw each replicate's own noise; `loop` can")
    if name == "chain":
        if not kind.has_cross_entropy:
            raise ValueError("backend: `chain` has only the cross entropy; `auto` can use any loss")
        if not chain_of(module):
            raise ValueError(
                "backend: `chain` has only flatten, linear layers and ReLU; `loop` can compute "
                f"{type(module).__name__}"
            )
        return
    if branches_on_data(module):
        raise ValueError(
            f"backend: `{name}` cannot compute a model that branches on values of its inputs or "
            "weights, because each replicate may take another branch; `loop` can"
        )
    if name == "vmap":
        if recurrent := _recurrent(module):
            raise ValueError(f"backend: `vmap` has no rule for {recurrent}; `loop` can compute it")
        if in_bf16_on_cpu and (norm := _first_of((_NormBase, nn.LayerNorm), module)):
            raise ValueError(f"backend: `vmap` has no rule for {norm} in bf16 on a CPU; `loop` can")
    elif layer := unstackable(module):
        raise ValueError(f"backend: `{name}` cannot compute {layer}; `loop` and `vmap` can")


def make_backend(name: str, module: nn.Module, views: StackViews) -> Backend:
    """Build the backend `name` for a module, on the tensors of a stack.

    Raises:
        ValueError: the backend cannot compute this module or this kind of task.
    """
    in_bf16 = views.arithmetic.precision == "bf16" and views.first.device.type == "cpu"
    check_backend(name, module, views.loss.kind, in_bf16_on_cpu=in_bf16)
    if name == "loop":
        return LoopBackend(module, views)
    if name == "chain":
        fused = own_kernels.run_on(views.first)
        return (FusedChainBackend if fused else ChainBackend)(chain_of(module), views)
    if name == "vmap":
        return VmapBackend(module, views)
    return StackedBackend(module, views, grouped=name == "grouped")


def _recurrent(module: nn.Module) -> str:
    """The class name of the module's first recurrent layer; empty if it has none."""
    return _first_of((nn.RNNBase,), module)


def _first_of(kinds: tuple[type[nn.Module], ...], module: nn.Module) -> str:
    return next((type(part).__name__ for part in module.modules() if isinstance(part, kinds)), "")


def draws_noise(module: nn.Module) -> bool:
    """Whether a layer draws random numbers; custom modules declare it by `stochastic = True`."""
    return any(
        isinstance(part, (_DropoutNd, nn.RReLU))
        or (isinstance(part, (nn.MultiheadAttention, nn.RNNBase)) and part.dropout > 0)
        or getattr(part, "stochastic", False) is True
        for part in module.modules()
    )
