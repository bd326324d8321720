"""`Stack`: R replicates of one model in one flat buffer.

Everything that a training changes is `[R, P]`, one row for each replicate, so the optimizer, the
mask, a rewind and a checkpoint are one operation for any R. A backend computes the forward and
backward passes (`lt_sweeps.training.backends.backend`): another one is another speed, and equal up
to rounding.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from lt_sweeps.config.spelling import listed
from lt_sweeps.training.arithmetic import FLOAT32, Arithmetic
from lt_sweeps.training.backends.backend import (
    BACKENDS,
    Backend,
    choose_backend,
    draws_noise,
    make_backend,
)
from lt_sweeps.training.backends.chain import FusedChainBackend
from lt_sweeps.training.backends.folding import NotFolded
from lt_sweeps.training.backends.stack_views import StackViews
from lt_sweeps.training.task_loss import TaskLoss

_log = logging.getLogger("lt_sweeps")
# Elements: every tensor begins on a vector boundary, also after a bias of ten elements.
_ALIGN = 64
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
_KEPT = 2**28  # bytes: a larger tensor is a data set


@dataclass(frozen=True)
class BufferLayout:
    """Where each parameter lies in a row of the flat buffer: name -> (offset, shape)."""

    slots: Mapping[str, tuple[int, tuple[int, ...]]]
    size: int

    @classmethod
    def of(cls, module: nn.Module) -> BufferLayout:
        """The parameters of `module` in their own order."""
        return cls.of_shapes({name: tuple(p.shape) for name, p in module.named_parameters()})

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> BufferLayout:
        """Tensors one after another, each padded to 64 elements."""
        slots, offset = {}, 0
        for name, shape in shapes.items():
            slots[name] = (offset, shape)
            offset += -(-prod(shape) // _ALIGN) * _ALIGN
        return cls(slots, offset)

    def __getitem__(self, name: str) -> tuple[int, tuple[int, ...]]:
        return self.slots[name]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views `[R, *shape]` into `flat` `[R, P]`."""
        return {
            name: flat[:, offset : offset + prod(shape)].view(len(flat), *shape)
            for name, (offset, shape) in self.slots.items()
        }


class Stack:
    """R replicates of one ordinary `nn.Module`, which may lie on any device, "meta" included.

    Every row starts as a copy of `module`; from "meta" it is zeros until `load`. A `stochastic`
    module draws noise in its forward pass (dropout): its `loss` takes seeds and cannot be captured
    in a CUDA graph. A module that draws noise outside of torch's dropout layers says so by an
    attribute `stochastic = True`. `task_loss` is what is trained by; without it, the cross entropy
    of classes. `arithmetic` is the precision of every forward pass; weights, gradients and outputs
    keep the type of the module's parameters.

    Raises:
        ValueError: there is no such backend, it cannot compute this module, or the device does not
            have the precision.
    """

    def __init__(
        self,
        module: nn.Module,
        replicates: int,
        *,
        device: str | torch.device = "cpu",
        backend: str = "auto",
        task_loss: TaskLoss | None = None,
        arithmetic: Arithmetic = FLOAT32,
    ) -> None:
        if replicates < 1:
            raise ValueError(f"stack: replicates must be at least 1, got {replicates}")
        if backend not in BACKENDS:
            raise ValueError(f"stack: backend `{backend}`; give one of {listed(BACKENDS)}")
        self.replicates = replicates
        self.device, self.arithmetic = torch.device(device), arithmetic
        arithmetic.check(self.device)
        if self.device.type == "cpu":
            _keep_freed_memory()
        self.layout = BufferLayout.of(module)
        (dtype,) = {parameter.dtype for parameter in module.parameters()}
        self.weights = torch.zeros(replicates, self.layout.size, dtype=dtype, device=self.device)
        self.grads = torch.zeros_like(self.weights)
        self.buffers = {
            name: torch.zeros((replicates, *buffer.shape), dtype=buffer.dtype, device=self.device)
            for name, buffer in _saved_buffers(module).items()
        }
        tensors = {**self.views(self.weights), **self.buffers}
        self._named = {name: tensors[name] for name in module.state_dict() if name in tensors}
        self._copy_from(module)
        self.stochastic = draws_noise(module)
        self.task_loss = task_loss = task_loss or TaskLoss()
        self._chooses = backend == "auto"
        self.backend = backend
        if self._chooses:
            self.backend = choose_backend(module, self.device, task_loss)
        flat = self.views(self.weights), self.views(self.grads)
        views = StackViews(*flat, self.buffers, task_loss, arithmetic)
        self._make = functools.partial(make_backend, module=module, views=views)
        self.renew()
        self._noise_checked = self.stochastic

    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Mean loss of each replicate `[R]`, detached; its gradients replace `grads`.

        Inputs `x` and targets `y` are `[R, B, ...]`. The forward pass is in training mode. A stack
        that is `stochastic` needs `seeds`, one per replicate, which its noise is a function of;
        torch's global generators are left as they were.
        """
        if self.stochastic and (seeds is None or len(seeds) != self.replicates):
            raise ValueError(
                f"stack: this model draws noise and needs {self.replicates} seeds per step, "
                f"got {seeds}"
            )
        with self.arithmetic.set(self.device):
            if not self._noise_checked:
                self._noise_checked = True
                with _without_noise(self.device):
                    return self._computed(lambda backend: backend.loss(x, y, None))
            seeds = seeds if self.stochastic else None
            return self._computed(lambda backend: backend.loss(x, y, seeds))

    @property
    def runs_triton(self) -> bool:
        """Whether its backend runs kernels of ours."""
        return isinstance(self._backend, FusedChainBackend)

    def renew(self) -> None:
        """Build its modules anew; weights, buffers and gradients stay where they are."""
        self._backend: Backend = self._make(self.backend)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Outputs `[R, B, ...]` in evaluation mode; every replicate sees all `x` `[B, ...]`."""
        with self.arithmetic.set(self.device):
            return self._computed(lambda backend: backend.logits(x))

    def _computed(self, compute: Callable[[Backend], Tensor]) -> Tensor:
        """What the backend computes, or `loop`, if `auto` took one that refuses the module."""
        try:
            return compute(self._backend)
        except NotFolded as error:
            if not self._chooses:
                raise
            _warn(str(error))
        self.backend = "loop"
        self.renew()
        return compute(self._backend)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views `[R, *shape]` into any `[R, P]` buffer."""
        return self.layout.views(flat)

    def flat(self, named: Mapping[str, Tensor], fill: float = 0.0) -> Tensor:
        """The `[R, P]` buffer of `named`, tensors `[R, *shape]`; the rest of it is `fill`."""
        flat = torch.full_like(self.weights, fill)
        views = self.views(flat)
        if unknown := sorted(set(named) - set(views)):
            raise ValueError(
                f"stack: no parameters {listed(unknown)}; there are {listed(sorted(views))}"
            )
        for name, value in named.items():
            views[name].copy_(value)
        return flat

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set weights and buffers, in place, from `[R, *shape]` tensors by `state_dict` name."""
        tensors = self._named
        if set(state) != set(tensors):
            missing, unknown = sorted(set(tensors) - set(state)), sorted(set(state) - set(tensors))
            raise ValueError(
                f"stack: state lacks {listed(missing)} and has unknown {listed(unknown)}"
            )
        for name, value in state.items():
            if value.shape != (tensor := tensors[name]).shape:
                raise ValueError(
                    f"stack: `{name}` is {list(value.shape)}; it must be {list(tensor.shape)}"
                )
            tensor.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Copies of weights and buffers, `[R, *shape]` by `state_dict` name."""
        return {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in self._named.items()
        }

    def _copy_from(self, module: nn.Module) -> None:
        state = module.state_dict()
        for name, tensor in self._named.items():
            if not state[name].is_meta:
                tensor.copy_(state[name])


@functools.cache  # once in a process, and not for every stack
def _warn(reason: str) -> None:
    _log.warning("`auto` takes `loop`: %s", reason)


@contextmanager
def _without_noise(device: torch.device) -> Iterator[None]:
    """Refuse a body that draws from one of torch's global generators, the device's or the CPU's.

    Such noise would depend on what else the process has drawn, and not on a replicate's seed.
    """

    def states() -> list[Tensor]:
        of_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *of_device]

    before = states()
    yield
    if not all(map(torch.equal, before, states())):
        raise ValueError(
            "model: its forward pass draws random numbers; set `stochastic = True` on the module"
        )


@functools.cache
def _keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, for the same tensors of the next step.

    Glibc gives tensors of megabytes back to the system at once, which then clears their pages anew:
    13,000 page faults in a step of Conv-4, a tenth of its time, and 20,000 in one of ResNet-20.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # as in glibc alone
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}
