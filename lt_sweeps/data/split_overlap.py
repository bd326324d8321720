"""Examples that two splits of a data set share, found by their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lt_sweeps.data.dataset import Split

# Published data sets hold a few pictures twice, and a small set of few gray values may by chance.
# More than this part of a split is a mistake: a split that was taken from another one.
_BY_CHANCE = 0.02
_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


class Shared(NamedTuple):
    """How many of the images of `split` are images of `other` too, whatever their labels."""

    split: str
    other: str
    count: int
    size: int

    @property
    def is_a_mistake(self) -> bool:
        return self.count > max(2, _BY_CHANCE * self.size)

    def __str__(self) -> str:
        return f"{self.count} of {self.size} {self.split} images are {self.other} images too"


def shared_examples(splits: Mapping[str, Split]) -> Iterator[Shared]:
    """The pairs of splits that share images.

    Images that stay in their file, because they do not fit into memory, are told apart by their
    place in it and not by their content, which would have to be read whole.
    """
    known = {name: _contents(split) for name, split in splits.items()}
    for split, other in _PAIRS:
        others = set(known[other])
        count = sum(content in others for content in known[split])
        if count:
            yield Shared(split, other, count, len(known[split]))


def _contents(split: Split) -> Sequence[int]:
    """A number for each image: equal for equal bytes."""
    if split.rows is not None:
        return split.rows.tolist()
    flat = np.ascontiguousarray(split.images.numpy()).reshape(len(split.images), -1)
    return [hash(row.tobytes()) for row in flat]
