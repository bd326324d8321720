"""`Lanes`: run replicates side by side on a GPU, in a few streams; on a CPU one after another.

The kernels of one replicate leave a GPU partly idle, and in a single stream the kernels of the next
replicate would wait for them. If a step is captured, its graph has a branch for each lane. A
replicate runs the same kernels in the same order in any lane, so its lane changes no byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# On an H100, among 4, 8 and 16 lanes, 8 were the fastest or within 4 % of it (convolutions of
# Conv-4 and ResNet-20, R = 15, bf16); a single lane took 1.5 to 3 times as long.
_MOST = 8
_streams: dict[tuple[str, int], torch.cuda.Stream] = {}


class Lanes:
    """The streams of one stack of replicates; empty on a CPU, or for a single replicate."""

    def __init__(self, device: torch.device, replicates: int) -> None:
        count = min(_MOST, replicates) if device.type == "cuda" and replicates > 1 else 0
        self._device = device
        self._streams = [stream_of(device, number) for number in range(count)]

    @contextmanager
    def fork(self) -> Iterator[None]:
        """A context for the work of all replicates.

        Lanes start after all work that was queued before the context. Work that is queued after the
        context waits for all lanes, so results of a lane may be read only then. Memory that a lane
        frees can be used again only by the same lane, and only after the next fork, so tensors need
        no `record_stream`.
        """
        if not self._streams:
            yield
            return
        current = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            stream.wait_stream(current)
        try:
            yield
        finally:
            for stream in self._streams:
                current.wait_stream(stream)

    @contextmanager
    def lane(self, replicate: int) -> Iterator[None]:
        """A context for the work of one replicate, inside of `fork`."""
        if not self._streams:
            yield
            return
        with torch.cuda.stream(self._streams[replicate % len(self._streams)]):
            yield


def stream_of(device: torch.device, number: int) -> torch.cuda.Stream:
    """Return the stream with this number on a device; all stacks of the process share it.

    A process trains many packs, and torch has 32 streams. For each stream, and each thread that
    multiplies in it, cuBLAS gets a workspace that torch never frees (32 MiB with
    `deterministic=true`, see `arithmetic`); it is part of a graph's memory if the first product in
    the stream is captured.
    """
    key = str(device), number
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(device)
    return _streams[key]
