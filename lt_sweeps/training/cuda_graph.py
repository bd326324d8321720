"""`graphed`: a step as one CUDA graph, which a GPU replays without Python."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lt_sweeps.training.backends.lanes import stream_of
from lt_sweeps.training.host_waits import HostWaits

_log = logging.getLogger("lt_sweeps")
_SIDE = -1  # the number of the stream that steps are warmed up and captured in
_WAIT = "called a synchronizing CUDA operation"  # torch's words


def graphed(
    step: Callable[[], None],
    device: str | torch.device,
    *,
    restore: Sequence[Tensor] = (),
) -> Callable[[], None]:
    """`step` as one replayed CUDA graph; on any other device, or where it waits, `step` itself.

    The warm-up takes two real steps. So `restore` lists every tensor that `step` changes and a
    later step reads (weights, buffers, moments, counters); their values are put back afterwards.
    `step` must read its inputs from tensors that stay where they are. Each graph has memory of its
    own: training and validation could share it, but both fit into what a stack is planned with, and
    torch gives memory whose graphs have ended to no other. A step for which the host
    waits for the device, as a user's model may make it, cannot be captured (`HostWaits`).
    """
    device = torch.device(device)
    if device.type != "cuda":
        return step
    with torch.cuda.device(device):
        # The same stream for both: cuBLAS then has its workspace there before the capture, and
        # takes none from the graph's memory.
        side = stream_of(device, _SIDE)
        host = _warmed_up(step, side, restore)
        if host.found:
            said = ", ".join(dict.fromkeys(host.found))
            _log.info("every step calls Python, as no graph can have what the host reads: %s", said)
            return step
        return functools.partial(_replay, _captured(step, side), host.read)


def _warmed_up(
    step: Callable[[], None], side: torch.cuda.Stream, restore: Sequence[Tensor]
) -> HostWaits:
    """Take two steps, the second one looked at, and put back what they have changed."""
    here = torch.cuda.current_stream()
    before = [tensor.clone() for tensor in restore]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        step()  # it may send the device what later steps find there, and tries out kernels
        with HostWaits() as host, _inner_waits(host.found):
            step()
    here.wait_stream(side)
    for tensor, value in zip(restore, before, strict=True):
        tensor.copy_(value)
    return host


@contextmanager
def _inner_waits(found: list[str]) -> Iterator[None]:
    """Add to `found` the waits within an operation, of which torch warns where it is asked to.

    `HostWaits` sees an operation's name alone. Where bytes are repeated, some kernels of torch send
    the device a few numbers of their own first.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += ["a wait within an operation" for w in told if _WAIT in str(w.message)]


def _captured(step: Callable[[], None], side: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        # Threads that fetch batches pin memory, which the default mode forbids to all threads.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            step()
    finally:
        torch.cuda.set_stream(here)  # a capture that fails leaves its own stream behind
    return graph


def _replay(graph: torch.cuda.CUDAGraph, read: Mapping[int, Tensor]) -> None:
    """Replay a graph, which holds what it reads (`HostWaits`)."""
    graph.replay()
