"""The name of a metric gives its unit, and a record says whether lower values are better."""

from __future__ import annotations

import math

import pytest

from lt_sweeps.config.quantities import (
    TEST_ACCURACY,
    Quantity,
    check_name,
    kind_of,
    looks_at_test,
    named,
    names_measured,
    on_validation,
)

PERPLEXITY = Quantity("test_perplexity", lower_is_better=True)


def test_a_number_without_an_end_has_no_decimals_where_it_is_large() -> None:
    r2 = Quantity("test_r2")
    assert [r2.value_text(x) for x in (0.5, -303_000.0, -1.01e6)] == [
        "0.5000",
        "-303000",
        "-1.01e+06",
    ]
    assert TEST_ACCURACY.value_text(1.0) == "100.00"
    assert r2.value_text(-0.00001) == "0.0000"
    assert TEST_ACCURACY.difference_text(-0.00001, signed=True) == "+0.00 points"
    assert TEST_ACCURACY.difference_text(-0.0001, signed=True) == "-0.01 points"
    assert [TEST_ACCURACY.margin_text(x) for x in (0.005, 0.01)] == ["0.5 points", "1 point"]
    assert PERPLEXITY.difference_text(160.4, digits=2) == "160"


def test_a_name_is_a_moment_a_split_and_a_kind() -> None:
    assert [kind_of(name) for name in ("best_val_r2", "test_top5_accuracy", "best_step")] == [
        *("r2", "top5_accuracy", "best_step"),
    ]
    assert named("end_test_metric", "r2") == "end_test_r2"
    assert named("test_loss", "r2") == "test_loss"
    assert on_validation("best_test_contest") == "best_val_contest"
    assert [looks_at_test(name) for name in ("test_r2", "val_contest")] == [True, False]


@pytest.mark.parametrize(
    ("metric", "label", "shown"),
    [
        (TEST_ACCURACY, "test accuracy (%)", "97.5%"),
        (Quantity("test_r2"), "test R2", "0.975"),
        (PERPLEXITY, "test perplexity (lower is better)", "0.975"),
        (Quantity.of("val_loss"), "val loss", "0.975"),
        (Quantity.of("best_step"), "early-stop step", "0.975"),
    ],
)
def test_a_label_has_the_unit_and_the_direction(metric: Quantity, label: str, shown: str) -> None:
    assert metric.label == label
    assert metric.number_text(0.975) == shown


def test_a_margin_is_a_difference_or_a_part_of_dense_on_the_worse_side() -> None:
    assert TEST_ACCURACY.limit(0.01, 0.9) == pytest.approx(0.89)
    assert TEST_ACCURACY.limit("2%", 0.9) == pytest.approx(0.882)
    assert TEST_ACCURACY.limit("auto", 0.9) == pytest.approx(0.895)
    # Half a point means nothing here, so that it is a percent of the dense network's.
    assert PERPLEXITY.limit("auto", 50) == pytest.approx(50.5)
    assert PERPLEXITY.limit(2.0, 50) == 52
    assert Quantity("test_r2").limit("auto", -0.2) == pytest.approx(-0.202)
    assert PERPLEXITY.margin_text("auto") == "1% (relative)"
    assert TEST_ACCURACY.margin_text("auto") == "0.5 points"


def test_a_wrong_name_is_answered_with_those_of_the_task() -> None:
    names = names_measured(["r2"])
    assert "val_r2" in names and "val_accuracy" not in names
    with pytest.raises(ValueError, match=r"objective: got 'val_r3'; did you mean `val_r2`\? give"):
        check_name("objective", "val_r3", names)


def test_nan_is_not_better_than_any_number() -> None:
    assert math.isnan(PERPLEXITY.worth(math.nan)) and PERPLEXITY.worth(2) > PERPLEXITY.worth(3)
