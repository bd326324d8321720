"""The garbage collector of Python, which takes a third of the time that importing torch takes."""

from __future__ import annotations

import atexit
import gc

_USUAL = gc.get_threshold()
_OBJECTS = 50_000  # new objects between two collections; Python's own number is 700


def collect_rarely() -> None:
    """Collect seldom, and not at all when the process ends.

    Imports make 400,000 objects, and all of them stay. The collector visits them again and again
    while they are made, and once more at the end, when the system takes back all memory anyway.
    Measured with torch 2.14: 1.2 instead of 1.7 CPU seconds for `import torch`, its exit included.
    """
    gc.set_threshold(_OBJECTS, 20, 20)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Collect as often as Python does, but only objects that are made from now on.

    A process that trains needs it: a few objects that refer to one another may hold large tensors.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL)
