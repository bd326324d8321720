"""`graphed`: a step as one CUDA graph, which a GPU replays without Python."""

from __future__ import annotations

import functools
import gc
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
_SHORT = ("out of memory", "ALLOC_FAILED")  # those of CUDA, and of its libraries


class _NoGraph(Exception):
    """Why no graph can be made of a step that runs without one."""


def graphed(
    step: Callable[[], None],
    device: str | torch.device,
    *,
    restore: Sequence[Tensor] = (),
    renew: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """`step` as one replayed CUDA graph; `step` itself on any other device, or if it has no graph.

    The warm-up takes two real steps. So `restore` lists every tensor that `step` changes and a
    later step reads (weights, buffers, moments, counters); their values are put back afterwards.
    `step` must read its inputs from tensors that stay where they are. Each graph has memory of its
    own: training and validation could share it, but both fit into what a stack is planned with, and
    torch gives memory whose graphs have ended to no other. A step for which the host
    waits for the device, as a user's model may make it, cannot be captured (`HostWaits`).

    Where a capture fails, `renew` builds anew the modules that ran in it: a module may have kept a
    tensor whose numbers a capture does not compute.

    Raises:
        torch.OutOfMemoryError: there is too little memory for the graph.
        RuntimeError: the device is unusable after a capture that failed.
    """
    device = torch.device(device)
    if device.type != "cuda" or not give_back_memory():
        return step
    with torch.cuda.device(device):
        # The same stream for both: cuBLAS then has its workspace there before the capture, and
        # takes none from the graph's memory.
        side = stream_of(device, _SIDE)
        try:
            host = _warmed_up(step, side, restore)
            if not host.found:
                return functools.partial(_replay, _captured(step, side), host.read)
        except _NoGraph as reason:
            _warn(str(reason))
            renew()
        else:
            said = ", ".join(dict.fromkeys(host.found))
            _log.info("every step calls Python, as no graph can have what the host reads: %s", said)
    gc.collect()  # an error holds what failed in a circle, and so the memory of a graph
    return step


@functools.cache  # one line for a pack: where a step fails, an evaluation and a timing do too
def _warn(reason: str) -> None:
    _log.warning("every step calls Python, as its capture as a graph failed: %s", reason)


def give_back_memory() -> bool:
    """Give the memory that is cached but free back to the device.

    False if torch refuses, as it does before 2.13 in a process in which a capture has failed. Such
    a process can take plain steps, and nothing else: another capture fails, and so does a draw.
    """
    try:
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _warmed_up(
    step: Callable[[], None], side: torch.cuda.Stream, restore: Sequence[Tensor]
) -> HostWaits:
    """Take two steps, the second one looked at, and put back what they have changed."""
    here = torch.cuda.current_stream()
    before = [tensor.clone() for tensor in restore]
    side.wait_stream(here)
    try:
        with torch.cuda.stream(side):
            step()  # it may send the device what later steps find there, and tries out kernels
            with _tried(), HostWaits() as host, _inner_waits(host.found):
                step()
    finally:
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
    here = torch.cuda.current_stream()
    with _tried():
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that fetch batches pin memory, which the default mode forbids to all threads.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(here)  # a capture that fails leaves its own stream behind
    return graph


@contextmanager
def _tried() -> Iterator[None]:
    """Raise as `_NoGraph` what fails in the body, if a plain step can be taken all the same.

    It cannot if memory is short, where a smaller stack helps, or if the device is unusable.
    """
    try:
        yield
    except Exception as error:
        told = _told_first(error)
        if any(words in str(told) for words in _SHORT):
            raise told from None
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise told from None
        line = str(told).partition("\n")[0]
        raise _NoGraph(f"{type(told).__name__}: {line}") from None


def _told_first(error: BaseException) -> BaseException:
    """Torch's first error: those after it only say that the capture has failed before."""
    first = error
    while error.__context__ is not None:
        error = error.__context__
        if isinstance(error, RuntimeError):
            first = error
    return first


def _replay(graph: torch.cuda.CUDAGraph, read: Mapping[int, Tensor]) -> None:
    """Replay a graph, which holds what it reads (`HostWaits`)."""
    graph.replay()
