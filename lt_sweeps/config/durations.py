"""Times: `160ep` and `500it` in yaml, optimizer steps in code."""

from __future__ import annotations

import re


def steps(time: str | int, steps_per_epoch: int, *, where: str = "time") -> int:
    """Optimizer steps in `time`: `160ep`, `500it`, `0.5ep`, or a bare 0.

    Raises:
        ValueError: anything else, a bare number above all: it could mean either unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|it)", str(time))
    if match is None:
        if str(time) == "0":
            return 0
        raise ValueError(f"{where}: {time!r} is no time; give epochs (`2ep`) or steps (`500it`)")
    number, unit = match.groups()
    if unit == "it" and "." in number:
        raise ValueError(f"{where}: {time!r} is no whole number of steps")
    return round(float(number) * steps_per_epoch) if unit == "ep" else int(number)
