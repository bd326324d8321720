"""Examples that two splits of a data set share, found by their content."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lt_sweeps.data.dataset import Split

# Published data sets hold a few pictures twice, and a small set of few gray values may by chance.
# More than this part of a split is a mistake: a split that was taken from another one. A table of
# few distinct rows repeats them within a split as often as between two, give or take the deviation
# of a count of `size` draws.
_BY_CHANCE = 0.02
_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


class Shared(NamedTuple):
    """How many examples of `split` are examples of `other` too, whatever their targets.

    `repeated` is the part of `other` that it holds more than once itself.
    """

    split: str
    other: str
    count: int
    size: int
    repeated: float = 0.0

    @property
    def is_a_mistake(self) -> bool:
        deviation = math.sqrt(self.size * self.repeated * (1 - self.repeated))
        chance = (_BY_CHANCE + self.repeated) * self.size + 3 * deviation
        return self.count > max(2, chance)

    def __str__(self) -> str:
        return f"{self.count} of {self.size} {self.split} examples are {self.other} examples too"


def shared_examples(splits: Mapping[str, Split]) -> Iterator[Shared]:
    """The pairs of splits that share examples.

    Images that do not fit into memory, and so stay in their file, are told apart by their place in
    it: to compare their content, the whole file would have to be read.
    """
    known = {name: _contents(split) for name, split in splits.items()}
    for split, other in _PAIRS:
        others = Counter(known[other])
        count = sum(content in others for content in known[split])
        if count:
            repeated = sum(number for number in others.values() if number > 1) / others.total()
            yield Shared(split, other, count, len(known[split]), repeated)


def _contents(split: Split) -> Sequence[int]:
    """A number for each example: equal for equal bytes."""
    if split.rows is not None:
        return split.rows.tolist()
    flat = np.ascontiguousarray(split.inputs.numpy()).reshape(len(split.inputs), -1)
    return [hash(row.tobytes()) for row in flat]
