"""`Stack`: R replicates of one model in one flat buffer.

All weights are in one tensor `[R, P]`, one row for each replicate, so that an optimizer step,
masking, a rewind and a checkpoint are one operation for any R. A backend computes the forward and
backward passes (`lt_sweeps.training.backends.backend`). Backends differ in speed; their results are
equal up to rounding.
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
# In elements. Every tensor begins at a vector boundary, even after a bias of ten elements.
_ALIGN = 64
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_KEPT = 2**28  # bytes; larger tensors are data sets, whose memory may go back to the system


@dataclass(frozen=True)
class BufferLayout:
    """The place of each parameter in a row of the flat buffer: name -> (offset, shape)."""

    slots: Mapping[str, tuple[int, tuple[int, ...]]]
    size: int

    @classmethod
    def of(cls, module: nn.Module) -> BufferLayout:
        """The layout of the parameters of `module`, in the module's order."""
        return cls.of_shapes({name: tuple(p.shape) for name, p in module.named_parameters()})

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> BufferLayout:
        """The layout of tensors one after another, each padded to a multiple of 64 elements."""
        slots, offset = {}, 0
        for name, shape in shapes.items():
            slots[name] = (offset, shape)
            offset += -(-prod(shape) // _ALIGN) * _ALIGN
        return cls(slots, offset)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views `[R, *shape]` into `flat` `[R, P]`."""
        return {
            name: flat[:, offset : offset + prod(shape)].view(len(flat), *shape)
            for name, (offset, shape) in self.slots.items()
        }


class Stack:
    """R replicates of one ordinary `nn.Module`, which may be on any device, including "meta".

    Every row starts as a copy of `module`; rows of a "meta" module are zeros until `load`. A
    `stochastic` module draws noise in its forward pass (dropout): its `loss` needs seeds and cannot
    be captured in a CUDA graph. A module that draws noise outside of torch's dropout layers must
    set an attribute `stochastic = True`. `task_loss` is the training loss; its default is the cross
    entropy of classes. `arithmetic` is the precision of every forward pass; weights, gradients and
    outputs keep the type of the module's parameters.

    Raises:
        ValueError: the backend's name is unknown, the backend cannot compute this module, or the
            device does not support the precision.
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
        """Compute the mean loss of each replicate `[R]`, detached, and write gradients to `grads`.

        Inputs `x` and targets `y` are `[R, B, ...]`. The forward pass is in training mode. A
        `stochastic` stack needs `seeds`, one per replicate: its noise is a function of them. The
        states of torch's global generators do not change. Under `torch.no_grad` the gradients are
        undefined, as most backends then compute no backward pass.
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
        """Whether the backend runs our Triton kernels."""
        return isinstance(self._backend, FusedChainBackend)

    def renew(self) -> None:
        """Rebuild the backend's modules; weights, buffers and gradients keep their addresses."""
        self._backend: Backend = self._make(self.backend)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Outputs `[R, B, ...]` in evaluation mode; every replicate gets all inputs `[B, ...]`."""
        with self.arithmetic.set(self.device):
            return self._computed(lambda backend: backend.logits(x))

    def _computed(self, compute: Callable[[Backend], Tensor]) -> Tensor:
        """Compute with the backend; if `auto` chose it and it refuses the module, with `loop`."""
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
        """Copy the `named` tensors `[R, *shape]` into a new buffer `[R, P]` filled with `fill`."""
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
        """Set weights and buffers in place from tensors `[R, *shape]` by `state_dict` name."""
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
        """Copies of weights and buffers `[R, *shape]`, by `state_dict` name."""
        return {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in self._named.items()
        }

    def _copy_from(self, module: nn.Module) -> None:
        state = module.state_dict()
        for name, tensor in self._named.items():
            if not state[name].is_meta:
                tensor.copy_(state[name])


@functools.cache  # warn once per process, not for every stack
def _warn(reason: str) -> None:
    _log.warning("backend=auto uses `loop`: %s", reason)


@contextmanager
def _without_noise(device: torch.device) -> Iterator[None]:
    """Refuse a body that draws from torch's global generators of the CPU or the device.

    Such noise would depend on other draws of the process instead of the replicate's seed.
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
    """Let the process keep freed memory, so that the next step can use it for its tensors.

    By default glibc returns the memory of large tensors (megabytes) to the system at once. The
    system then has to clear the pages again: 13,000 page faults in a step of Conv-4, a tenth of its
    time, and 20,000 in a step of ResNet-20.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}
