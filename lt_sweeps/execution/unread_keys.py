"""Keys of the method that a command gives and no cell reads, such as `to` with `protocol=prune`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lt_sweeps.config.call import Config
from lt_sweeps.plan.cell_plan import Planned, planned_cell


def refuse_unread(cells: Sequence[Planned], words: Iterable[str]) -> None:
    """Raises: ValueError: with any other value of a given key all cells would be planned alike."""
    given = (re.match(r"\+{0,2}method\.(\w+)=", word) for word in words)
    for name in dict.fromkeys(match[1] for match in given if match):
        taking = [cell for cell in cells if name in cell.cell.config["method"]]
        firsts = {cell.signature: cell for cell in taking}.values()  # other seeds read the same
        if firsts and not any(_reads(cell, name) for cell in firsts):
            option, value = taking[0].cell.choices["method"], taking[0].cell.config["method"][name]
            raise ValueError(
                f"method.{name}: got {value}; with its other keys as they are, {option} does not "
                f"read it: leave it out, or see `{name}` in method/{option}.yaml"
            )


def _reads(cell: Planned, name: str) -> bool:
    method = cell.cell.config["method"]
    changed = {**method, name: _another(method[name])}
    try:
        other = planned_cell(
            replace(cell.cell, config=Config({**cell.cell.config, "method": changed}))
        )
    except ValueError:  # it looked at the value, which it does not allow
        return True
    return [last.key for last in other.lasts] != [last.key for last in cell.lasts]


def _another(value: Any) -> Any:
    """A value of the same kind; of a text, a time."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "2it" if value == "1it" else "1it"
