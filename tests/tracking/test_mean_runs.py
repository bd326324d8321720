"""Means of a cell over its seeds, compared with values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lt_sweeps.storage.record import Record
from lt_sweeps.tracking.mean_runs import runs_over_seeds
from lt_sweeps.tracking.tracked_runs import Level, TrackedCell

RECORD = Record(
    experiment="e",
    cell="0" * 16,
    seed="0",
    level=0,
    stage="s",
    kind="train",
    step=10,
    sparsity=0.5,
    **Record.weight_columns({"w": 2}, {"w": 4}),
    report_at="end",
    train_steps=10,
    finite=True,
    collapsed=False,
)


def level(number: int, accuracy: float | None, **more: Any) -> Level:
    curve = {"step": 10, "val_loss": 1.0, "val_accuracy": accuracy or 0.0, "train_loss": 1.0}
    return Level(number, 10 * number, (curve,), replace(RECORD, test_accuracy=accuracy, **more))


def source(seed: int, *levels: Level, done: bool = True) -> TrackedCell:
    labels = {"experiment": "e", "method": "imp", "mask_criterion": "random"}
    return TrackedCell("0" * 16, str(seed), labels, {"seed": seed}, levels, done)


def test_mean_and_interval_over_three_seeds() -> None:
    (run,) = runs_over_seeds(source(seed, level(0, seed / 10)) for seed in (1, 2, 3))
    curve, result = run.rows
    assert curve["mean/val/accuracy"] == pytest.approx(0.2)
    assert result["mean/ticket/test_accuracy"] == pytest.approx(0.2)
    # t(0.975, 2) = 4.302653; sd = 0.1
    assert result["ci_high/ticket/test_accuracy"] == pytest.approx(0.2 + 4.302653 * 0.1 / 3**0.5)
    assert result["mean/layers/w"] == 0.5
    assert run.config["over_seeds"] == ["1", "2", "3"] and "seed" not in run.config


def test_a_diverged_seed_is_counted_and_not_averaged() -> None:
    bad = level(0, 0.1, finite=False)
    (run,) = runs_over_seeds([source(0, level(0, 0.5)), source(1, bad), source(2, level(0, 0.7))])
    curve, result = run.rows
    assert (result["ticket/seeds"], result["ticket/finite_seeds"]) == (3, 2)
    assert result["mean/ticket/test_accuracy"] == pytest.approx(0.6)
    assert curve["mean/val/accuracy"] == pytest.approx(0.6)
    assert (curve["min/val/accuracy"], curve["max/val/accuracy"]) == (0.5, 0.7)


def test_without_a_finite_seed_a_level_has_its_sparsity_and_no_mean() -> None:
    (run,) = runs_over_seeds(source(seed, level(0, 0.1, finite=False)) for seed in (0, 1))
    curve, result = run.rows
    assert (result["sparsity"], result["ticket/finite_seeds"]) == (0.5, 0)
    assert not [name for name in {**curve, **result} if name.startswith("mean/")]


def test_a_level_is_there_once_every_seed_has_it() -> None:
    one, two = source(0, level(0, 0.5), level(1, 0.4)), source(1, level(0, 0.7), done=False)
    (run,) = runs_over_seeds([one, two])
    assert [row["level"] for row in run.rows] == [0, 0] and not run.done
    (later,) = runs_over_seeds([one, replace(two, levels=(*two.levels, level(1, 0.6)), done=True)])
    assert later.rows[:2] == run.rows and len(later.rows) == 4 and later.done


def test_other_seeds_are_another_run_and_one_seed_is_none() -> None:
    keys = {
        runs_over_seeds(source(seed, level(0, 0.5)) for seed in seeds)[0].key
        for seeds in ((0, 1), (1, 0), (0, 2), (0, 1, 2))
    }
    assert len(keys) == 3
    assert runs_over_seeds([source(0, level(0, 0.5))]) == []
