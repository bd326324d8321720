"""The images that this process has read, kept for the next pack that trains on them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lt_sweeps.data.dataset import Split

_MOST = 2  # data sets in memory: a transfer trains on two
_read: dict[str, dict[str, Split]] = {}
# By the id of a split, by device and form. The split is kept too, as Python uses an id again.
_placed: dict[tuple[int, str, str], tuple[Split, Split]] = {}


def read_once(name: str, read: Callable[[], dict[str, Split]]) -> dict[str, Split]:
    """The splits of a data set; equal names must mean equal content."""
    if name not in _read:
        while len(_read) >= _MOST:  # before the next one takes memory
            del _read[next(iter(_read))]
            _placed.clear()
        _read[name] = read()
    return _read[name]


def place_once(
    split: Split, device: torch.device, form: str, place: Callable[[Split, torch.device], Split]
) -> Split:
    """The split on a device, where `place` puts it; kept as long as its data set is.

    `form` names what `place` makes of its inputs.
    """
    key = id(split), str(device), form
    if key in _placed:
        return _placed[key][1]
    there = place(split, device)
    if any(split is kept for splits in _read.values() for kept in splits.values()):
        _placed[key] = split, there
    return there
