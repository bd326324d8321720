"""Uniform noise from a counter-based generator: the same numbers on every device.

A number is a function of a key and of its position alone. So a mask that is drawn anew in every
forward pass has no generator's state to save, needs no numbers from the host but its key, and can
be drawn inside a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lt_sweeps.config.seeds import draws

_STEPS = 1024  # whose keys are sent to the device at once


class Noise:
    """Uniform numbers in [0, 1): `[R, size]`, each row from its replicate's own key."""

    def __init__(self, replicates: int, size: int, device: str | torch.device = "cpu") -> None:
        positions = torch.arange(size, dtype=torch.int32, device=device)
        self._positions = _mix_(_mix_(positions + 1))
        self.keys = torch.zeros(replicates, 1, dtype=torch.int32, device=device)

    def seed(self, keys: Sequence[int] | Tensor) -> None:
        """Set each replicate's key; until the next one every draw is the same.

        Keys that lie on the device, int32 `[R]`, are copied there. Numbers are filled in one by
        one, since a copy from the host would wait for the device.
        """
        if isinstance(keys, Tensor):
            self.keys.copy_(keys[:, None])
            return
        for place, key in zip(self.keys, keys, strict=True):
            place.fill_(_low_bits(key))

    def draw(self) -> Tensor:
        """The numbers of the keys, multiples of 2^-24, which float32 holds exactly: `[R, size]`."""
        bits = _mix_(self._positions + self.keys)
        return _shifted(bits, 8).float().mul_(2.0**-24)


class StepKeys:
    """A key for each replicate and step: `draw(seed, *index, step)` of its own `(seed, *index)`.

    The host draws the keys of many steps at once, and sends them together. A step then only takes
    its column on the device: a copy from the host in every step would make the host wait for the
    step before, and the device for the host.
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
            self._table = torch.from_numpy(table.astype(np.int32)).to(self._device)  # the low bits
            self._first = first
        return self._table[:, step - first]


def _low_bits(key: int) -> int:
    """The low 32 bits of a number, as torch's signed integers have them."""
    return (key & 0xFFFFFFFF) - ((key & 0x80000000) << 1)


def _mix_(x: Tensor) -> Tensor:
    """The integer hash `lowbias32`, in place: every bit of it depends on every bit of `x`."""
    x ^= _shifted(x, 16)
    x *= 0x7FEB352D
    x ^= _shifted(x, 15)
    x *= 0x846CA68B - (1 << 32)
    x ^= _shifted(x, 16)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where torch's own shift repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)
