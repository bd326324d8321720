"""A key of a method counts as read if another value changes the result or is refused."""

from pathlib import Path
from typing import Any

import pytest
from fixtures.tiny_cell import tiny_cell

from lt_sweeps.execution.unread_keys import refuse_unread
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.methods import dense
from lt_sweeps.plan.stages import Init, Train, Training

LENGTHS = {"short": 1, "long": 2}


def own(init: Init, recipe: Training, mode: str = "short", file: str = "", note: str = "") -> Train:
    """A user-defined method that does not check its arguments."""
    assert LENGTHS[mode] and (not file or Path(file).read_text())
    return dense(init, recipe)


@pytest.mark.parametrize(("key", "value"), [("mode", "long"), ("file", __file__)])
def test_a_key_that_takes_only_some_texts_is_read(key: str, value: str) -> None:
    refuse(f"method.{key}={value}", _target_=f"{__name__}.own", **{key: value})


def test_a_key_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="method.note: got mine; .* method does not read it"):
        refuse("method.note=mine", _target_=f"{__name__}.own", note="mine")


@pytest.mark.parametrize("to", ["1it", "1ep", "2it"])
def test_a_time_is_read_where_an_epoch_is_one_step(to: str) -> None:
    ticket = {"_target_": "lt_sweeps.plan.methods.magnitude", "protocol": "ticket", "to": to}
    refuse(f"method.to={to}", **ticket)


def refuse(word: str, **method: Any) -> None:
    refuse_unread([planned_cell(tiny_cell(method=method, recipe__batch_size=64))], [word])
