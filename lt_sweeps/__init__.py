"""Lottery-ticket and pruning experiments, from one Hydra multirun to a figure.

In Python, `lt_sweeps.open` reads a sweep, and `lt_sweeps.plan` and `lt_sweeps.run` accept the
overrides of the command line. `lt_sweeps.load_compact` reads a network that `export form=compact`
wrote.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lt_sweeps.api.opened_sweep import open_sweep as open
    from lt_sweeps.api.typed_words import plan_words as plan
    from lt_sweeps.api.typed_words import run_words as run
    from lt_sweeps.interchange.compaction import load_compact as load_compact

__version__ = "0.1.0"
__all__ = ["__version__", "load_compact", "open", "plan", "run"]

_LATER = {
    "open": ("lt_sweeps.api.opened_sweep", "open_sweep"),
    "plan": ("lt_sweeps.api.typed_words", "plan_words"),
    "run": ("lt_sweeps.api.typed_words", "run_words"),
    "load_compact": ("lt_sweeps.interchange.compaction", "load_compact"),
}


def __getattr__(name: str) -> Any:
    # Imported at first use, so that code that only reads the version does not wait for pandas.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _LATER[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return [*__all__]
