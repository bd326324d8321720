"""Durations: `160ep` and `500it` in yaml, optimizer steps in code, seconds as readable text."""

from __future__ import annotations

import re
from typing import Annotated

_FORM = "a duration with its unit, such as 10ep or 500it"
Duration = Annotated[str, _FORM]
"""A duration of training in yaml, in epochs or optimizer steps."""


def steps(time: str | int, steps_per_epoch: int, *, where: str = "time") -> int:
    """Return the optimizer steps in `time`: `160ep`, `500it`, `0.5ep`, or a bare 0.

    Raises:
        ValueError: `time` has another form. A bare number other than 0 could mean either unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|it)", str(time))
    if match is None:
        if str(time) == "0":
            return 0
        raise ValueError(f"{where}: got {time!r}; give {_FORM}")
    number, unit = match.groups()
    if unit == "it" and "." in number:
        raise ValueError(f"{where}: got {time!r}; give a whole number of steps")
    return round(float(number) * steps_per_epoch) if unit == "ep" else int(number)


def readable(seconds: float) -> str:
    """Format seconds in the largest unit that fits: `1.4 s`, `75 s`, `12 min`, `3.5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
