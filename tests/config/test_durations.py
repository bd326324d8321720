"""Times are given in epochs or steps, never as a bare number."""

import pytest

from lt_sweeps.config.durations import readable, steps


@pytest.mark.parametrize(
    ("time", "expected"), [("160ep", 1600), ("500it", 500), ("0.5ep", 5), ("0it", 0), (0, 0)]
)
def test_durations_are_converted_to_steps(time: str, expected: int) -> None:
    assert steps(time, 10) == expected


@pytest.mark.parametrize("wrong", ["160", 160, "ep", "-1ep", "1.5it", "2 epochs"])
def test_any_other_duration_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="recipe.length: "):
        steps(wrong, 10, where="recipe.length")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.14, "0.1 s"), (9.94, "9.9 s"), (75, "75 s"), (720, "12 min"), (12600, "3.5 h")],
)
def test_a_time_is_printed_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert readable(seconds) == text
