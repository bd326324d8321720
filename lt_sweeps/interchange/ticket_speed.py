"""Speed: time the forward passes of a ticket's small network and its dense one on this machine.

The two networks run in turn, so that other load on the machine slows both.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_sweeps.execution.forking import gpu_fault
from lt_sweeps.interchange.compaction import compacted
from lt_sweeps.interchange.packed_weights import load_semi_structured, semi_structured
from lt_sweeps.interchange.ticket_formats import check_computes
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.storage.measured_speeds import MeasuredSpeed
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.arithmetic import Arithmetic


def measured_speeds(
    ticket: Ticket, network: Network, *, stage: str, seed: str, batch: int, n: int
) -> Iterator[MeasuredSpeed]:
    """Measure each form of a ticket: compact and, on a GPU, semi-structured in float16.

    The dense network is the ticket itself with its zeros, which no kernel skips.

    Raises: ValueError: as `check_computes`.
    """
    check_computes(ticket, where="compact")
    device = torch.device("cpu" if gpu_fault() else "cuda")
    dense = dense_module(ticket, network).to(device)
    x = network.example(batch).to(device)
    if x.is_floating_point():
        x = torch.rand_like(x)
    smaller = compacted(dense.cpu(), network.example()).module.to(device)
    forms = [("compact", "float32", dense.to(device), smaller, x)]
    if device.type == "cuda":
        try:
            packed = load_semi_structured(deepcopy(dense), semi_structured(ticket))
        except ValueError:
            pass  # not a 2:4 ticket, or the GPU has no kernels for it
        else:
            half = deepcopy(dense).half()
            inputs = x.half() if x.is_floating_point() else x
            forms.append(("semi_structured", "float16", half, packed, inputs))
    for form, precision, whole, small, inputs in forms:
        dense_seconds, seconds = interleaved(whole, small, inputs, n=n)
        yield MeasuredSpeed(
            stage=stage,
            seed=seed,
            form=form,
            dense_seconds=dense_seconds,
            seconds=seconds,
            batch=batch,
            n=n,
            threads=torch.get_num_threads(),
            precision=precision,
            device=torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
            machine=platform.node(),
            torch=torch.__version__,
            date=datetime.now(timezone.utc).date().isoformat(),
        )


def compact(ticket: Ticket, network: Network) -> dict[str, Tensor]:
    """Return the compact network's weights; prints which layers shrink and which stay whole."""
    smaller = compacted(dense_module(ticket, network), network.example())
    print(smaller.summary)
    return state_of(smaller.module)


def dense_module(ticket: Ticket, network: Network) -> nn.Module:
    """Return the network with a ticket's weights, in evaluation mode."""
    return network.holding({name: t[0] for name, t in ticket.state.items()}).eval()


@torch.no_grad()
def interleaved(one: nn.Module, other: nn.Module, x: Tensor, *, n: int) -> tuple[float, float]:
    """Return the median seconds of a forward pass of two modules, run in turn after one warm-up.

    Uses the fastest kernels in the inputs' type; torch's own default for convolutions is tf32.
    """
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with Arithmetic("float32", deterministic=False).set(x.device):
        for turn in range(n + 1):
            for which, module in enumerate((one, other)):
                _wait(x)
                begun = time.perf_counter()
                module(x)
                _wait(x)
                if turn:
                    seconds[which].append(time.perf_counter() - begun)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def _processor() -> str:
    """Return the processor's name, which `platform.processor` does not report on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
