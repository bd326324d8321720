"""Start worker processes, as forks if possible, and list the modules to import before forking."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def process_context(device: str = "cpu") -> Any:
    """The multiprocessing context for processes that compute on a device: forks if that is safe."""
    # CUDA cannot be used in a fork of a process that has used CUDA. A user-defined module may have
    # used it while it was imported for the plan. On macOS, system libraries may crash in a fork.
    from torch import cuda  # here, because reports start without torch

    forks = sys.platform == "linux" and not cuda.is_initialized()
    if forks and device != "cpu":
        forks = _a_fork_can_start_cuda()
    return multiprocessing.get_context("fork" if forks else "spawn")


@contextmanager
def may_fork() -> Iterator[None]:
    """Fork without Python 3.12's warning about other threads, whose locks stay locked in a fork.

    The other threads here belong to torch, and a worker that computes with one thread does not use
    them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def gpu_fault(device: str = "cuda") -> str:
    """The reason why a GPU cannot be used; empty if it can. This call starts CUDA.

    `torch.cuda.device_count()` counts GPUs without starting CUDA. So it includes GPUs that are
    broken, that need a newer driver for this torch, or for which this torch has no kernels.
    """
    import torch

    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def to_preload() -> list[str]:
    """The modules that this process has imported and the workers of a job need too.

    These are our own modules and libraries of data sets. A job imports them once, before it forks
    its first worker. User-defined modules are excluded: they may start CUDA, and then forked
    workers could not use it.
    """
    libraries = ("sklearn.datasets", "torchvision.datasets")
    rooms = tuple(f"lt_sweeps.{room}." for room in _ROOMS)
    return [name for name in sys.modules if name in libraries or name.startswith(rooms)]


_ROOMS = ("training", "plan", "sparsity", "data", "models", "storage", "config")


def _a_fork_can_start_cuda() -> bool:
    """Whether CUDA can start in a fork of this process.

    It cannot once this process has asked the driver for the number of GPUs, although CUDA itself is
    then still uninitialized. A user-defined module may ask with `torch.cuda.is_available()`, and
    `torch.cuda.device_count()` asks if one MIG instance is visible. Torch reports this only inside
    a fork, so a fork is started to find out.
    """
    asked = multiprocessing.get_context("fork").Process(target=_exit_as_a_fork, daemon=True)
    with may_fork():
        asked.start()
    asked.join()
    return asked.exitcode == 0


def _exit_as_a_fork() -> None:
    from torch import cuda

    os._exit(int(cuda._is_in_bad_fork()))  # exits without flushing the parent's buffers
