"""Uniform noise from a counter-based generator: the same numbers on every device.

Each number depends only on a key and on its position. So a mask that is drawn in every forward pass
has no generator state to save, needs nothing from the host but the key, and can be drawn inside a
CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lt_sweeps.config.seeds import draws

_STEPS = 1024  # the keys of this many steps are sent to the device at once


class Noise:
    """Uniform numbers in [0, 1): `[R, size]`, each row from its replicate's own key."""

    def __init__(self, replicates: int, size: int, device: str | torch.device = "cpu") -> None:
        positions = torch.arange(size, dtype=torch.int32, device=device)
        self._positions = _mix_(_mix_(positions + 1))
        self.keys = torch.zeros(replicates, 1, dtype=torch.int32, device=device)

    def seed(self, keys: Sequence[int] | Tensor) -> None:
        """Set each replicate's key; until the next call, every draw returns the same numbers.

        A tensor of keys (int32 `[R]`, on the device) is copied on the device. Python integers are
        filled in one by one, because a copy from the host would wait for the device.
        """
        if isinstance(keys, Tensor):
            self.keys.copy_(keys[:, None])
            return
        for place, key in zip(self.keys, keys, strict=True):
            place.fill_(_low_bits(key))

    def draw(self) -> Tensor:
        """The numbers for the current keys: `[R, size]`, multiples of 2^-24 (exact in float32)."""
        bits = _mix_(self._positions + self.keys)
        return _shifted(bits, 8).float().mul_(2.0**-24)


class StepKeys:
    """A key per replicate and step: `draw(seed, *index, step)` for its stream `(seed, *index)`.

    The host draws the keys of many steps at once and sends them together. A step then only reads
    its column on the device. A copy from the host in every step would make the host wait for the
    previous step, and the device wait for the host.
    """

    def __init__(
        self, streams: Sequence[tuple[int, str, int]], device: str | torch.device = "cpu"
    ) -> None:
        self._streams, self._device = streams, device
        self._first = -1

    def at(self, step: int) -> Tensor:
        """The keys of a step: int32 `[R]`."""
        first = step - step % _STEPS
        if first != self._first:
            steps = range(first, first + _STEPS)
            table = np.stack([draws(*stream, last=steps) for stream in self._streams])
            self._table = torch.from_numpy(table.astype(np.int32)).to(self._device)  # low bits
            self._first = first
        return self._table[:, step - first]


def _low_bits(key: int) -> int:
    """The low 32 bits of a number, read as a signed integer (torch's int32)."""
    return (key & 0xFFFFFFFF) - ((key & 0x80000000) << 1)


def _mix_(x: Tensor) -> Tensor:
    """Apply the integer hash `lowbias32` in place: every output bit depends on every input bit."""
    x ^= _shifted(x, 16)
    x *= 0x7FEB352D
    x ^= _shifted(x, 15)
    x *= 0x846CA68B - (1 << 32)
    x ^= _shifted(x, 16)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift repeats the sign bit."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)
