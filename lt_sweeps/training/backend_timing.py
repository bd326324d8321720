"""`time_backends`: measure a stack's step with each backend, on the device that will train it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.training.cuda_graph import give_back_memory, graphed
from lt_sweeps.training.training_loop import TrainingLoop

_SPEND = 0.1  # seconds per round of steps
_ROUNDS = 3


def time_backends(
    names: Sequence[str], units: Sequence[Unit], store: Store, machine: Machine
) -> dict[str, float]:
    """Measure the seconds per step for losses and gradients, by backend, as in a training.

    Backends that cannot compute this network, or not in this memory, are left out.

    Raises:
        torch.OutOfMemoryError: the stack does not fit into memory with any backend.
    """
    taken: dict[str, float] = {}
    short: torch.OutOfMemoryError | None = None
    for name in names:
        try:
            taken[name] = _time(units, store, replace(machine, backend=name))
        except torch.OutOfMemoryError as error:
            short = error.with_traceback(None)  # the traceback would keep the stack's tensors alive
        except (RuntimeError, ValueError, NotImplementedError):
            continue
        finally:
            if machine.device.startswith("cuda"):
                gc.collect()  # a backend may be in a reference cycle that holds its stack
                give_back_memory()  # the next backend may need blocks of other sizes
    if short is not None and not taken:
        raise short
    return taken


def _time(units: Sequence[Unit], store: Store, machine: Machine) -> float:
    loop = TrainingLoop(units, store, machine, moments=[frozenset()] * len(units))
    try:
        # Random weights, because products of zeros would take less time than those of a training.
        draws = torch.Generator(loop.device).manual_seed(0)
        loop.stack.weights.normal_(0, 0.05, generator=draws)
        batch = loop.batches.take(*loop.batches.batch(0))

        def step() -> None:
            loop.stack.loss(*batch)

        timed = graphed(step, loop.device, renew=loop.stack.renew) if loop.captures else step
        return step_seconds(timed, loop.device)
    finally:
        loop.batches.close()


def step_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Measure the seconds per step: the best of several rounds, as other load only adds time."""

    def one_of(count: int) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(count):
            step()
        _wait(device)
        return (time.perf_counter() - start) / count

    step()
    count = max(1, min(1000, round(_SPEND / max(one_of(1), 1e-6))))
    return min(one_of(count) for _ in range(_ROUNDS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
