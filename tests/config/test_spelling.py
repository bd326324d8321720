"""Refusals list names in readable form."""

from __future__ import annotations

import pytest

from lt_sweeps.analysis.line_names import check_lines
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.config.spelling import listed, paired, unknown


def test_an_empty_list_is_printed_as_none() -> None:
    assert listed([]) == "none"
    assert listed(["a", 2, None]) == "a, 2, None"
    assert paired({"a": 1, "b": [2, 3]}) == "a: 1, b: [2, 3]"


def test_a_key_with_its_group_in_front_gets_the_right_key_as_a_hint() -> None:
    text = unknown("sync", "tracker.mode", ["group", "mode"], what="keys")
    assert text == "sync: tracker.mode; did you mean `mode`? keys: group, mode"


def test_names_that_hold_commas_are_told_apart() -> None:
    lines = ["random, rewind", "random, reinit", "dense"]
    with pytest.raises(ValueError, match="lines are `random, rewind`, `random, reinit`, dense"):
        check_lines(lines, ReportConfig(baseline="rndom"))
