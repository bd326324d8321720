"""Refuse keys of the method that no cell reads, such as `to` with `protocol=prune`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lt_sweeps.config.call import Config
from lt_sweeps.plan.cell_plan import Planned, planned_cell


def refuse_unread(cells: Sequence[Planned], words: Iterable[str]) -> None:
    """Check that each typed key of the method changes the plan of a cell.

    Raises: ValueError: with another value of a typed key, all cells would be planned the same.
    """
    given = (re.match(r"\+{0,2}method\.(\w+)=", word) for word in words)
    for name in dict.fromkeys(match[1] for match in given if match):
        taking = [cell for cell in cells if name in cell.cell.config["method"]]
        firsts = {cell.signature: cell for cell in taking}.values()  # all seeds read the same keys
        if firsts and not any(_reads(cell, name) for cell in firsts):
            option, value = taking[0].cell.choices["method"], taking[0].cell.config["method"][name]
            raise ValueError(
                f"method.{name}: got {value}; with its other keys as they are, {option} does not "
                f"read it: leave it out, or see `{name}` in method/{option}.yaml"
            )


def _reads(cell: Planned, name: str) -> bool:
    method = cell.cell.config["method"]
    changed = ({**method, name: other} for other in _others(method[name]))
    return any(_differs(cell, Config({**cell.cell.config, "method": each})) for each in changed)


def _differs(cell: Planned, config: Config) -> bool:
    try:
        other = planned_cell(replace(cell.cell, config=config))
    except Exception:  # it read the value: a user-defined method may raise any exception
        return True
    return [last.key for last in other.lasts] != [last.key for last in cell.lasts]


def _others(value: Any) -> Sequence[Any]:
    """Other values of the same type. For a str two durations: `1it` may be equal to `1ep`."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int | float):
        return (value + 1,)
    return ("1it", "2it")
