"""`graphed`: capture a step as one CUDA graph, which a GPU replays without Python."""

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
_WAIT_WARNING = "called a synchronizing CUDA operation"  # in torch's warning
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")  # in errors of CUDA, and of its libraries


class _NoGraph(Exception):
    """A step cannot be captured as a graph, but runs without one; the message says why."""


def graphed(
    step: Callable[[], None],
    device: str | torch.device,
    *,
    restore: Sequence[Tensor] = (),
    renew: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Return `step` as a replayed CUDA graph, or `step` itself if it cannot be captured.

    On devices other than GPUs, `step` is returned. `step` must read its inputs from tensors at
    fixed addresses. The warm-up takes two real steps, so `restore` must list every tensor that
    `step` changes and a later step reads (weights, buffers, moments, counters); their values are
    restored afterwards. A step in which the host waits for the device, for example because of a
    user-defined model, cannot be captured (`HostWaits`).

    Each graph has its own memory pool. Training and validation could share one, but the memory that
    is planned for a stack is enough for both, and torch gives the pool of graphs that were deleted
    to no other graph.

    If a capture fails, `renew` must rebuild the modules that ran in it: a module may have kept a
    tensor from the capture, whose numbers were never computed.

    Raises:
        torch.OutOfMemoryError: the device has too little memory for the graph.
        RuntimeError: the device is unusable after a failed capture.
    """
    device = torch.device(device)
    if device.type != "cuda" or not give_back_memory():
        return step
    with torch.cuda.device(device):
        # Warm-up and capture use the same stream: cuBLAS then has its workspace for this stream
        # before the capture, and does not allocate one from the graph's memory.
        side = stream_of(device, _SIDE)
        try:
            host = _warmed_up(step, side, restore)
            if not host.found:
                return functools.partial(_replay, _captured(step, side), host.read)
        except _NoGraph as reason:
            _warn(str(reason))
            renew()
        else:
            operations = ", ".join(dict.fromkeys(host.found))
            _log.info(
                "steps run without a CUDA graph, because these operations wait for the GPU: %s",
                operations,
            )
    gc.collect()  # a caught error is in a reference cycle that holds the memory of the failed graph
    return step


@functools.cache  # one line per reason: if a step fails, the evaluation and the timings fail too
def _warn(reason: str) -> None:
    _log.warning("steps run without a CUDA graph, because its capture failed: %s", reason)


def give_back_memory() -> bool:
    """Return cached but unused memory to the device; False if torch refuses.

    Torch before 2.13 refuses in a process in which a capture has failed. Such a process can only
    take plain steps: another capture would fail, and so would drawing random numbers.
    """
    try:
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _warmed_up(
    step: Callable[[], None], side: torch.cuda.Stream, restore: Sequence[Tensor]
) -> HostWaits:
    """Take two steps, watch the second one for host waits, and restore the changed tensors."""
    current = torch.cuda.current_stream()
    before = [tensor.clone() for tensor in restore]
    side.wait_stream(current)
    try:
        with torch.cuda.stream(side):
            step()  # only the first step may send constants to the device and try out kernels
            with _tried(), HostWaits() as host, _inner_waits(host.found):
                step()
    finally:
        current.wait_stream(side)
        for tensor, value in zip(restore, before, strict=True):
            tensor.copy_(value)
    return host


@contextmanager
def _inner_waits(found: list[str]) -> Iterator[None]:
    """Add to `found` the waits inside operations, about which torch warns in its sync debug mode.

    `HostWaits` sees only the names of operations. With `deterministic=true`, some of torch's
    operations first send the device a few numbers of their own.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += ["a wait within an operation" for w in told if _WAIT_WARNING in str(w.message)]


def _captured(step: Callable[[], None], side: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    current = torch.cuda.current_stream()
    with _tried():
        graph = torch.cuda.CUDAGraph()
        try:
            # The threads that fetch batches pin memory. The default mode would forbid that during a
            # capture, because it applies to all threads.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(current)  # a failed capture leaves its own stream set
    return graph


@contextmanager
def _tried() -> Iterator[None]:
    """Turn an error in the body into `_NoGraph` if a plain step is still possible.

    Otherwise the error is raised unchanged: memory is short, so a smaller stack may help, or the
    device is unusable.
    """
    try:
        yield
    except Exception as error:
        told = _first_error(error)
        if any(words in str(told) for words in _OUT_OF_MEMORY):
            raise told from None
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise told from None
        line = str(told).partition("\n")[0]
        raise _NoGraph(f"{type(told).__name__}: {line}") from None


def _first_error(error: BaseException) -> BaseException:
    """Return torch's first error; the later ones only say that the capture failed before."""
    first = error
    while error.__context__ is not None:
        error = error.__context__
        if isinstance(error, RuntimeError):
            first = error
    return first


def _replay(graph: torch.cuda.CUDAGraph, read: Mapping[int, Tensor]) -> None:
    """Replay a graph; the `read` argument keeps alive the tensors that it reads (`HostWaits`)."""
    graph.replay()
