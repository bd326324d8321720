"""`Lanes`: replicates side by side on a GPU, each in one of a few streams; on a CPU in turn.

One replicate's kernels leave a GPU partly idle, and in one stream the next one's wait for them.
Where a step is captured, its graph has a branch for each lane. A row's kernels are the same ones in
the same order in any lane, so which lane it takes changes no byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of 4, 8 and 16 lanes, 8 were fastest on an H100, or within 4 % (convolutions of Conv-4 and
# ResNet-20, R = 15, bf16); one took 1.5 to 3 times as long.
_MOST = 8
_streams: dict[tuple[str, int], torch.cuda.Stream] = {}


class Lanes:
    """The streams of one stack of replicates; none on a CPU, or for a single replicate."""

    def __init__(self, device: torch.device, replicates: int) -> None:
        count = min(_MOST, replicates) if device.type == "cuda" and replicates > 1 else 0
        self._device = device
        self._streams = [stream_of(device, number) for number in range(count)]

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Around all replicates: lanes begin after what was begun before, and end before the rest.

        What a lane computes may be read only after this. Its memory can be used again by the same
        lane alone, and not before the next fork, so that no tensor has to be recorded in a stream.
        """
        if not self._streams:
            yield
            return
        here = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            stream.wait_stream(here)
        try:
            yield
        finally:
            for stream in self._streams:
                here.wait_stream(stream)

    @contextmanager
    def lane(self, replicate: int) -> Iterator[None]:
        """Around one replicate."""
        if not self._streams:
            yield
            return
        with torch.cuda.stream(self._streams[replicate % len(self._streams)]):
            yield


def stream_of(device: torch.device, number: int) -> torch.cuda.Stream:
    """One of the streams of this process on a device, the same one for all stacks.

    For each stream, and each thread that multiplies in it, cuBLAS gets a workspace that torch never
    takes back (32 MiB where the bytes are repeated, see `arithmetic`), from a graph's own memory if
    the first product is captured. A process trains many packs, and torch has 32 streams.
    """
    key = str(device), number
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(device)
    return _streams[key]
