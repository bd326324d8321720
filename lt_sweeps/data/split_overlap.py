"""Examples that two splits of a data set share, found by their content."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lt_sweeps.data.dataset import Split

# Published data sets hold a few images twice, and a small data set with few gray values may do so
# by chance. If two splits share more than this fraction, one was taken from the other by mistake.
# An exception is a table with few distinct rows: it repeats them within a split as often as between
# two splits, up to the standard deviation of a count of `size` draws.
_BY_CHANCE = 0.02
_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


class Shared(NamedTuple):
    """The number of examples of `split` whose inputs are also in `other`; targets do not count.

    `size` is the number of examples of `split`, and `repeated` the fraction of examples of `other`
    that occur more than once in `other`.
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
    """Yield the pairs of splits that share examples.

    Images that do not fit into memory stay in their file and are identified by their row in it:
    comparing their content would mean reading the whole file.
    """
    contents = {name: _contents(split) for name, split in splits.items()}
    for split, other in _PAIRS:
        others = Counter(contents[other])
        count = sum(content in others for content in contents[split])
        if count:
            repeated = sum(number for number in others.values() if number > 1) / others.total()
            yield Shared(split, other, count, len(contents[split]), repeated)


def _contents(split: Split) -> Sequence[int]:
    """A hash for each example, equal for equal bytes; row numbers for images in their file."""
    if split.rows is not None:
        return split.rows.tolist()
    flat = np.ascontiguousarray(split.inputs.numpy()).reshape(len(split.inputs), -1)
    return [hash(row.tobytes()) for row in flat]
