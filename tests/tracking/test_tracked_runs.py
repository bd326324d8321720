"""A sweep as tracker runs: their rows only grow, and come from files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.training.training_loop import Interrupted

DENSE = {"_target_": "lt_sweeps.plan.methods.dense"}
Make = Callable[..., Cell]
Swept = Callable[..., Path]


def test_every_cell_and_seed_is_a_run_though_they_trained_stacked(cell: Make, swept: Swept) -> None:
    random = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    cells = [cell(seed=seed) for seed in (0, 1)]
    runs = [
        s.run
        for s in tracked_cells(
            swept(*cells, *(cell(seed=s, mask_criterion=random) for s in (0, 1)))
        )
    ]
    assert len({run.key for run in runs}) == 4
    assert [run.key.rpartition("-")[2] for run in runs] == ["0", "1", "0", "1"]
    # 3 levels of 3 epochs: 4 evaluations and a result each
    assert [len(run.rows) for run in runs] == [15] * 4
    assert all(run.done and run.kind == "method" and run.group == "tiny" for run in runs)
    # the dense training is shared by both criteria and is in the run of each
    assert runs[0].rows[:5] == runs[2].rows[:5]


def test_the_axes_go_on_from_level_to_level(cell: Make, swept: Swept) -> None:
    (source,) = tracked_cells(swept(cell()))
    rows = source.run.rows
    # 64 images in batches of 16: 4 steps an epoch, 12 a level
    assert [row["step"] for row in rows] == [
        0,
        4,
        8,
        12,
        12,
        12,
        16,
        20,
        24,
        24,
        24,
        28,
        32,
        36,
        36,
    ]
    assert [row["level"] for row in rows] == [0] * 5 + [1] * 5 + [2] * 5
    results = [row for row in rows if "sparsity" in row]
    assert [row["level_step"] for row in results] == [12, 12, 12]
    # (154 + 77 + 26) of 320 weights are left at level 1
    assert results[1]["percent_remaining"] == pytest.approx(100 * 257 / 320)
    assert results[1]["layers/output.weight"] == pytest.approx(1 - 26 / 32)


def test_a_result_is_the_record(cell: Make, swept: Swept) -> None:
    folder = swept(cell())
    (source,) = tracked_cells(folder)
    path = folder.parent.parent / "runs" / source.signature / "0" / "records.jsonl"
    record = json.loads(path.read_text().splitlines()[2])
    result = source.levels[2].result
    assert result["ticket/test_accuracy"] == record["test_accuracy"]
    assert result["ticket/best_step"] == record["best_step"]
    assert source.run.summary["last_test_accuracy"] == record["test_accuracy"]
    assert source.run.summary["levels"] == 3


def test_a_level_that_diverged_has_no_metrics(cell: Make, swept: Swept) -> None:
    (source,) = tracked_cells(swept(cell(recipe__optimizer="sgd", recipe__lr=1e20)))
    assert not any(record.finite for record in source.records)
    results = [row for row in source.run.rows if "sparsity" in row]
    facts = {"ticket/weights_remaining", "ticket/finite", "ticket/collapsed", "ticket/seconds"}
    for row in results:
        assert {name for name in row if name.startswith("ticket/")} == facts
        assert row["ticket/finite"] is False
    curve = [row for row in source.run.rows if "sparsity" not in row and row["level"] == 0]
    assert [math.isfinite(row["val/loss"]) for row in curve] == [True, False, False, False]
    assert ["val/accuracy" in row for row in curve] == [True, False, False, False]
    assert source.run.summary["diverged_levels"] == 3
    assert not [name for name in source.run.summary if name.endswith("accuracy")]


def test_the_best_level_is_chosen_on_validation_among_pruned_networks(
    cell: Make, swept: Swept
) -> None:
    (source,) = tracked_cells(swept(cell()))
    scores = [(0.9, 0.9), (0.6, 0.5), (0.5, 0.8)]  # validation and test: of dense, level 1 and 2
    levels = []
    for level, (val, test) in zip(source.levels, scores, strict=True):
        assert level.record is not None
        record = replace(level.record, val_accuracy=val, test_accuracy=test)
        levels.append(replace(level, record=record))
    summary = replace(source, levels=tuple(levels)).run.summary
    assert (summary["best_level"], summary["best_test_accuracy"]) == (1, 0.5)
    assert (summary["dense_test_accuracy"], summary["last_test_accuracy"]) == (0.9, 0.8)


def test_the_curve_of_a_training_that_runs_is_there_from_its_checkpoint(
    cell: Make, run, swept: Swept
) -> None:
    stops = iter([False] * 9 + [True])
    with pytest.raises(Interrupted):
        run(cell(method=DENSE), stopped=lambda: next(stops))
    # the frozen plan is all that a reader has beside the checkpoint
    (source,) = tracked_cells(swept(cell(method=DENSE), computed=False))
    assert [row["step"] for row in source.run.rows] == [0, 4, 8]
    before = source.run.rows
    (after,) = tracked_cells(swept(cell(method=DENSE)))
    assert after.run.rows[:3] == before and len(after.run.rows) == 5
    assert after.done and not source.done


def test_a_record_that_is_no_json_is_named(cell: Make, swept: Swept) -> None:
    folder = swept(cell())
    (path,) = folder.parent.parent.glob("runs/*/0/records.jsonl")
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(ValueError, match=r"records.jsonl:4: not valid JSON"):
        tracked_cells(folder)
