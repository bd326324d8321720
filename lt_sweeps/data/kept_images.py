"""A cache of the data sets that this process has read, for later packs that train on them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lt_sweeps.data.dataset import Split

_MOST = 2  # at most this many data sets stay in memory: a transfer trains on two
_read: dict[str, dict[str, Split]] = {}
# Keys are the split's id, the device and the form. The split is kept as well, because Python may
# reuse its id after it is deleted.
_placed: dict[tuple[int, str, str], tuple[Split, Split]] = {}


def read_once(name: str, read: Callable[[], dict[str, Split]]) -> dict[str, Split]:
    """Return the splits of a data set, read on the first call; equal names mean equal content."""
    if name not in _read:
        while len(_read) >= _MOST:  # done first, so that three data sets are never in memory
            del _read[next(iter(_read))]
            _placed.clear()
        _read[name] = read()
    return _read[name]


def place_once(
    split: Split, device: torch.device, form: str, place: Callable[[Split, torch.device], Split]
) -> Split:
    """Return a split on a device; call `place` only once while this cache keeps its data set.

    `form` names how `place` changes the inputs: equal forms mean equal results.
    """
    key = id(split), str(device), form
    if key in _placed:
        return _placed[key][1]
    placed = place(split, device)
    if any(split is kept for splits in _read.values() for kept in splits.values()):
        _placed[key] = split, placed
    return placed
