"""What to do, as values: stages, the methods that chain them, and the plan of all cells.

In a notebook `lt_sweeps.plan("seed=range(5)")` plans the words of a command line, by
`lt_sweeps.api.typed_words.plan_words`.
Start at `planning.plan`, which turns cells into a plan of units; `packing.packs` stacks them.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _PlanRoom(ModuleType):
    def __call__(self, *words: str, **keyed: object) -> Any:
        """Plan a multirun; see `lt_sweeps.api.typed_words.plan_words`."""
        return importlib.import_module("lt_sweeps.api.typed_words").plan_words(*words, **keyed)


# `lt_sweeps.plan(...)` plans the words of a command line, and this room has the same name: once
# anything has imported it, Python finds the room first.
sys.modules[__name__].__class__ = _PlanRoom
