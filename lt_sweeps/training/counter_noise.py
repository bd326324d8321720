"""Uniform noise from a counter-based generator: the same numbers on every device.

A number is a function of a key and of its position alone. So a mask that is drawn anew in every
forward pass has no generator's state to save, needs no numbers from the host but its key, and can
be drawn inside a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Uniform numbers in [0, 1): `[R, size]`, each row from its replicate's own key."""

    def __init__(self, replicates: int, size: int, device: str | torch.device = "cpu") -> None:
        positions = torch.arange(size, dtype=torch.int32, device=device)
        self._positions = _mix_(_mix_(positions + 1))
        self.keys = torch.zeros(replicates, 1, dtype=torch.int32, device=device)

    def seed(self, keys: Sequence[int]) -> None:
        """Set each replicate's key; until the next one every draw is the same."""
        # The low 32 bits, as torch's signed integers.
        low = [(key & 0xFFFFFFFF) - ((key & 0x80000000) << 1) for key in keys]
        self.keys.copy_(torch.tensor(low, dtype=torch.int32)[:, None])

    def draw(self) -> Tensor:
        """The numbers of the keys, multiples of 2^-24, which float32 holds exactly: `[R, size]`."""
        bits = _mix_(self._positions + self.keys)
        return _shifted(bits, 8).float().mul_(2.0**-24)


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
