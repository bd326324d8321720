"""How processes that compute are started, and what they import before the first of them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def process_context(device: str = "cpu") -> Any:
    """How processes that compute on a device are started: as forks, where that is safe and fast."""
    # CUDA cannot be used in a fork of a process that has used it, as a user's module may have when
    # it was imported for the plan. On macOS the system's libraries may crash in a fork.
    from torch import cuda  # here, because reports start without torch

    forks = sys.platform == "linux" and not cuda.is_initialized()
    if forks and device != "cpu":
        forks = _a_fork_can_start_cuda()
    return multiprocessing.get_context("fork" if forks else "spawn")


@contextmanager
def may_fork() -> Iterator[None]:
    """Fork without Python 3.12's warning of other threads, whose locks a fork cannot open.

    Ours are those of torch, which a process that computes with one thread does without.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def gpu_fault(device: str = "cuda") -> str:
    """Why a GPU cannot be used, though it is counted; empty if it can. This starts CUDA.

    GPUs are counted without CUDA: also one that is broken, one whose driver is too old for this
    torch, and one for which this torch has no kernels.
    """
    import torch

    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def to_preload() -> list[str]:
    """What this process has imported and the workers of a job need too.

    They are libraries of data sets, and our own modules: a job imports them once, before it forks
    its first worker. The user's modules are not among them, because they may start CUDA, which a
    forked process cannot use.
    """
    libraries = ("sklearn.datasets", "torchvision.datasets")
    rooms = tuple(f"lt_sweeps.{room}." for room in _ROOMS)
    return [name for name in sys.modules if name in libraries or name.startswith(rooms)]


_ROOMS = ("training", "plan", "sparsity", "data", "models", "storage", "config")


def _a_fork_can_start_cuda() -> bool:
    """Whether CUDA can start in a fork of this process.

    It cannot once the driver was only asked how many GPUs there are, which leaves CUDA
    uninitialized here: by `torch.cuda.is_available()` in a user's module, or by
    `torch.cuda.device_count()` where one MIG instance is visible. Torch tells that to a fork alone.
    """
    asked = multiprocessing.get_context("fork").Process(target=_exit_as_a_fork, daemon=True)
    with may_fork():
        asked.start()
    asked.join()
    return asked.exitcode == 0


def _exit_as_a_fork() -> None:
    from torch import cuda

    os._exit(int(cuda._is_in_bad_fork()))  # at once: what it inherited is not its own to flush
