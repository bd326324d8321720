"""Learning-rate schedules: a factor of the learning rate at each step.

A schedule is a function of `step`, which counts from the end of the warmup, and of `length`, the
number of steps from there to the end. It may also have a parameter `steps_per_epoch`; its other
arguments come from the yaml. It is a pure function of the step, so a training that rewinds or
resumes continues with the same learning rates.
"""

from __future__ import annotations

import math

FAMILY = "decays"  # the first part of these names in stage keys; it must never change


def linear(step: int, *, length: int, end: float = 0.0) -> float:
    """Change linearly from 1 to `end`, as torch's LinearLR."""
    return 1 + (end - 1) * step / length


def polynomial(step: int, *, length: int, power: float = 2.0) -> float:
    """(1 - t)^power with t from 0 to 1, as torch's PolynomialLR."""
    return (1 - step / length) ** power


def trapezoidal(step: int, *, length: int, rise: float = 0.1, fall: float = 0.2) -> float:
    """Rise to 1 in the first fraction `rise` of steps, stay, fall to 0 in the last `fall`."""
    up = (step + 1) / (rise * length) if rise else 1.0
    down = (length - step) / (fall * length) if fall else 1.0
    return min(1.0, up, down)


def triangular(step: int, *, length: int, rise: float = 0.3) -> float:
    """Rise to 1 in the first fraction `rise` of steps, then fall to 0."""
    return trapezoidal(step, length=length, rise=rise, fall=1 - rise)


def one_cycle(
    step: int, *, length: int, rise: float = 0.3, start: float = 0.04, end: float = 4e-6
) -> float:
    """Rise from `start` to 1, then fall to `end`, along cosines, as torch's OneCycleLR."""
    top, last = rise * length - 1, length - 1
    if step <= top:
        return _cosine(start, 1.0, step / top if top > 0 else 1.0)
    return _cosine(1.0, end, (step - top) / (last - top))


def _cosine(first: float, last: float, part: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))
