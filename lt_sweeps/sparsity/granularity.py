"""`Granularity`: which weights are kept or pruned together (`mask_criterion.granularity`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import nearest

FAMILY = "granularity"  # the first part of these names in stage keys; never changes

WHERE = "mask_criterion.granularity"
_WORDS = ("weight", "filter", "neuron", "channel", "kernel", "head")


@dataclass(frozen=True)
class Granularity:
    """The kind of groups that are kept or pruned as a whole; None stands for single weights.

    `word` is the value of the key. `shape` is the shape of a block, or (N, M) of a pattern.
    """

    word: str
    shape: tuple[int, ...] = ()
    function: Call | None = None

    @classmethod
    def of(cls, value: Any) -> Granularity | None:
        """The granularity that a value of the key names; None for single weights.

        Raises: ValueError: the value names no granularity.
        """
        if isinstance(value, Mapping):
            call = Call.of(value, where=WHERE, supplied=("layer",))
            return cls(call.target.rpartition(".")[2], function=call)
        if isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value):
            value = "x".join(map(str, value))
        word = value if isinstance(value, str) else ""
        if word in _WORDS:
            return None if word == "weight" else cls(word)
        if found := re.fullmatch(r"(\d+)([x:])(\d+)", word):
            first, last = int(found[1]), int(found[3])
            if first and last and (found[2] == "x" or first < last):
                return cls(word, (first, last))
        quoted = '; a yaml needs quotes: granularity: "2:4"' if isinstance(value, int) else ""
        raise ValueError(
            f"{WHERE}: got {value!r}; give one of {', '.join(_WORDS)}, a block such as 4x4, a "
            f"pattern such as 2:4, or a `_target_`{quoted or nearest(str(value), _WORDS)}"
        )

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(N, M) if N of each M inputs stay, otherwise None."""
        return (self.shape[0], self.shape[1]) if ":" in self.word else None

    @property
    def noun(self) -> str:
        """The name of one group: `filter`, `4x4 block`."""
        if self.pattern:
            return "input"
        return f"{self.word} block" if self.shape else self.word

    def identity(self) -> dict[str, Any]:
        if self.function is not None:
            return {"function": self.function.identity()}
        return {"groups": "filter" if self.word == "neuron" else self.word}

    def __str__(self) -> str:
        return self.word
