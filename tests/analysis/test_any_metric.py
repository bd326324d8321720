"""Tasks judged by R2 or by a perplexity: endpoints, tests, figures, objectives, trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fixtures.fake_results import FakeSweep
from fixtures.tiny_cell import compute_cells, tiny_cell
from torch import Tensor

from lt_sweeps.analysis import cell_settings
from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.objective import Objective
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses
from lt_sweeps.config.errors import CONF
from lt_sweeps.reporting.csv_tables import records_table, summary_table
from lt_sweeps.reporting.figures.accuracy_curves import metric_figures
from lt_sweeps.reporting.figures.endpoint_dots import endpoint_figures
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.tracking.wandb_dashboard import sections, verdict_table

R2, PERPLEXITY = ("r2", False), ("perplexity", True)
NOISE = (0.0, 0.2, -0.1, 0.3, -0.2)


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def line(sweep: FakeSweep, name: str, values: list[float], **more: Any) -> None:
    """Five seeds whose noise is the same at every level: 0.1 % of the first value times NOISE."""
    for seed, noise in enumerate(NOISE):
        own = (value + 0.001 * values[0] * noise for value in values)
        sweep.cell(name, seed, accuracies=[*own], choices={"mask_criterion": name}, **more)


def ends(analysis: Analysis) -> dict[str, Endpoint]:
    ((_, endpoints),) = analysis.endpoints
    return dict(endpoints)


def test_a_record_has_what_its_task_measures_and_reads_rows_that_have_none(
    sweep: FakeSweep,
) -> None:
    folder = sweep.cell("a", accuracies=[0.8, None], val=[0.7, 0.6], judged_by=R2)
    dense, lost = RunFolder(folder).read().records
    assert dense.metrics == {
        "test_r2": 0.8,
        "val_r2": 0.7,
        "best_test_r2": 0.8,
        "best_val_r2": 0.7,
        "end_test_r2": 0.8,
        "end_val_r2": 0.7,
    }
    assert dense.value("test_r2") == dense.value("test_metric") == 0.8
    assert dense.test_accuracy is None and "test_accuracy" not in dense.metric_names
    assert lost.metrics is not None and lost.metrics["test_r2"] is None  # JSON knows no NaN
    path = folder / "records.jsonl"
    added = ("task", "metric", "lower_is_better", "metrics")
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    old = [{k: v for k, v in row.items() if k not in added} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    (folder / "DONE").unlink()
    assert [row.metric_of("test_metric").name for row in RunFolder(folder).read().records] == [
        "test_accuracy"
    ] * 2


def test_a_finite_row_without_its_tasks_metric_is_a_fault(sweep: FakeSweep) -> None:
    more = {"metrics": {"test_r2": None}, "metric": "r2", "test_accuracy": None}
    sweep.cell("a", accuracies=[0.9], more=more)
    with pytest.raises(ValueError, match="`test_r2` is null though `finite` is true"):
        read_results(sweep.folder, metrics=["test_metric"])


def test_the_margin_of_a_perplexity_lies_above_the_dense_one(sweep: FakeSweep) -> None:
    values, sparsities = [100.0, 90.0, 100.5, 101.5, 200.0], [0.0, 0.5, 0.6, 0.8, 0.9]
    sweep.cell("a", accuracies=values, sparsities=sparsities, judged_by=PERPLEXITY)
    of_run = ends(sweep.analysis())
    # 1% of dense: 101 is half way from 100.5 at 60% to 101.5 at 80%
    assert of_run["sparsest_not_inferior"].values == {"0": pytest.approx(0.7)}
    assert of_run["peak"].values == {"0": 90.0}
    assert of_run["sparsest_matching"].sparsity == pytest.approx(0.5)
    best = of_run["best_performing"].ticket
    assert best is not None and best.level == 1


def test_an_r2_below_0_has_a_margin_too(sweep: FakeSweep) -> None:
    values = [-0.2, -0.201, -0.203]
    sweep.cell("a", accuracies=values, sparsities=[0, 0.5, 0.6], judged_by=R2)
    assert ends(sweep.analysis())["sparsest_not_inferior"].values == {"0": pytest.approx(0.55)}


def test_a_star_is_given_to_the_lower_perplexity(sweep: FakeSweep) -> None:
    line(sweep, "random", [100.0, 110.0], judged_by=PERPLEXITY)
    line(sweep, "large_final", [100.0, 105.0], judged_by=PERPLEXITY)
    for seed in range(5):  # a spread of the differences, so that they can be tested
        own = [100.0, 110.0 + 0.1 * seed]
        sweep.cell("movement", seed, accuracies=[*own], choices={"mask_criterion": "movement"},
                   judged_by=PERPLEXITY)  # fmt: skip
    analysis = sweep.analysis(baseline="movement")
    marks = {
        v.curve.name: (v.mark(0.05), v.words(0.05)) for v in analysis.verdicts if v.point.level
    }
    assert marks["large_final"] == ("★", ("below",))
    # 0.2 on average is within 1% of the baseline's dense network, which is 1.
    assert "equivalent" in marks["random"][1]
    said = " ".join(analysis.test_sentences)
    assert "in test perplexity (lower is better): below at 1" in said
    assert "equivalent within 1% (relative)" in said and "points" not in said
    (figure,) = metric_figures(analysis)
    star = "Star: below the baseline (movement), which is better; cross: above it."
    assert star in figure.caption
    assert figure.name == "test_perplexity"


@pytest.mark.parametrize(
    ("judged_by", "label"),
    [(R2, "Test R2"), (PERPLEXITY, "Test perplexity (lower is better)")],
)
def test_an_axis_says_what_it_shows(
    sweep: FakeSweep, judged_by: tuple[str, bool], label: str
) -> None:
    line(sweep, "random", [0.5, 0.4], judged_by=judged_by)
    analysis = sweep.analysis()
    (figure,) = metric_figures(analysis)
    sheet = figure.draw()
    assert sheet.axes[0].get_ylabel().replace("\n", " ") == label  # a panel is not high
    assert np.max(sheet.axes[0].lines[0].get_ydata()) == pytest.approx(
        0.5, rel=1e-3
    )  # not times 100
    (dots,) = endpoint_figures(analysis)
    labels = [axes.get_xlabel().replace("\n", " ") for axes in dots.draw().axes]
    assert f"Mean over log density: {label[0].lower()}{label[1:]}" in labels
    assert "Highest sparsity within the margin of dense (%)" in labels


def test_an_objective_is_any_metric_of_the_record(sweep: FakeSweep) -> None:
    folder = sweep.cell("a", accuracies=[50.0, 60.0], val=[55.0, 54.0], judged_by=PERPLEXITY)
    numbers = {
        word: Objective.of(word).of_trial(folder.parent, ["0"], {})["0"]
        for word in ("val_metric", "val_perplexity@0", "test_perplexity@1", "peak")
    }
    assert numbers == {
        "val_metric": 54,
        "val_perplexity@0": 55,
        "test_perplexity@1": 60,
        "peak": 54,
    }
    with pytest.raises(ValueError, match="objective: got 'val_accuracy'; give one of"):
        Objective.of("val_accuracy").of_trial(folder.parent, ["0"], {})


def test_a_tracker_gets_the_metric_and_the_best_level_by_it(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[50.0, 40.0, 60.0], judged_by=PERPLEXITY)
    (cell,) = tracked_cells(sweep.folder)
    assert [row["ticket/test_perplexity"] for row in cell.run.rows] == [50, 40, 60]
    summary = cell.run.summary
    assert (summary["dense_test_perplexity"], summary["best_test_perplexity"]) == (50, 40)
    drawn = sections([cell.metric])
    titles = {plot.title: plot.y for plot in drawn["Perplexity"]}
    name = "Test perplexity against percent remaining (lower is better)"
    assert titles[name] == "ticket/test_perplexity"
    assert not any("ccuracy" in plot.title for plots in drawn.values() for plot in plots)


def test_metrics_are_columns_of_the_table(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.5, 0.4], judged_by=R2)
    table = records_table(sweep.analysis().curves)
    assert list(table["test_r2"]) == [0.5, 0.4] and "metrics" not in table
    assert list(table["metric"]) == ["r2", "r2"]


def test_tasks_with_other_metrics_never_share_a_panel_or_a_mean(sweep: FakeSweep) -> None:
    line(sweep, "random", [0.9, 0.8], task__name="classes")
    for seed in range(2):
        sweep.cell("r", seed, accuracies=[0.5, 0.4], choices={"mask_criterion": "random"},
                   judged_by=R2, task__name="numbers")  # fmt: skip
    analysis = sweep.analysis()
    panels = {curve.panel: (curve.metric.name, len(curve.seeds)) for curve in analysis.curves}
    assert panels == {
        "fc on digits, by accuracy": ("test_accuracy", 5),
        "fc on digits, by r2": ("test_r2", 2),
    }
    assert [figure.name for figure in metric_figures(analysis)] == ["accuracy", "test_r2"]
    assert analysis.metric_label == "test accuracy (%) and test R2"
    # A metric that only one of them has is drawn for that one.
    assert [curve.metric.name for curve in analysis.curves_of("test_r2")] == ["test_r2"]
    # The losses of two tasks have no axis in common either.
    assert len({curve.panel for curve in analysis.curves_of("test_loss")}) == 2
    with pytest.raises(ValueError, match=r"report.along: cells .* judged by accuracy, r2"):
        assert sweep.analysis(along=["task.name"]).curves


def test_a_metric_that_no_record_has_is_refused_with_those_that_there_are(
    sweep: FakeSweep,
) -> None:
    sweep.cell("a", accuracies=[0.5, 0.4], judged_by=R2)
    results = read_results(sweep.folder, metrics=())
    with pytest.raises(ValueError, match=r"report.metrics: got 'test_r3'.*`test_r2`"):
        results.check_metrics("report.metrics", ["test_r3"])
    with pytest.raises(ValueError, match=r"report.metrics: got 'test_accuracy'"):
        results.check_metrics("report.metrics", ["test_accuracy"])


def test_a_cell_of_an_earlier_version_is_on_the_line_of_today(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config has neither task nor precision, because only one of each existed then."""
    today = {"task.loss._target_": "torch.nn.functional.cross_entropy"}
    monkeypatch.setattr(cell_settings, "_default_task", lambda: today)
    now = {"task": "classification", "mask_criterion": "random"}
    loss = {"_target_": today["task.loss._target_"]}
    values: Any = {"accuracies": [0.9, 0.8], "stages": ["dense", "pruned"]}
    sweep.cell("new", 0, choices=now, task__loss=loss, **values)
    sweep.cell("old", 1, choices={"mask_criterion": "random"}, **values)
    (line,) = sweep.analysis().curves
    assert line.seeds == ("0", "1")


def test_what_a_header_says_is_what_a_record_has() -> None:
    header = {
        "metric": "r2",
        "lower_is_better": False,
        "metrics": {"best_val_r2": 0.5, "end_val_r2": 0.4, "hard_val_r2": 0.3},
    }
    assert Record.metric_columns(header, "end") == {
        "metric": "r2",
        "lower_is_better": False,
        "lower_metrics": None,
        "metrics": {"val_r2": 0.4, "best_val_r2": 0.5, "end_val_r2": 0.4, "hard_val_r2": 0.3},
    }
    assert Record.metric_columns({}, "end") == dict.fromkeys(
        ("metric", "lower_is_better", "metrics", "lower_metrics")
    )


@pytest.mark.parametrize("kind", ["bits_per_token", "badness"])
def test_a_metric_beside_the_main_one_keeps_its_direction(
    tmp_path: Path, kind: str, sweep: FakeSweep
) -> None:
    # The name does not say that lower is better, and no record has it as its main metric.
    accuracy = {"_target_": "lt_sweeps.training.metrics.accuracy"}
    task = {
        "loss": {"_target_": "torch.nn.functional.cross_entropy"},
        "metrics": {
            "accuracy": accuracy,
            kind: {"_target_": f"{__name__}.brier", "better": "lower"},
        },
    }
    made, _ = compute_cells(tiny_cell(task=task), root=tmp_path / "root")
    (planned,) = made.cells
    folder = RunFolder.of(tmp_path / "root", planned.signature, planned.seed)
    for row in folder.read().records:
        assert row.metric_of(f"test_{kind}").lower_is_better
        assert not row.metric_of("test_accuracy").lower_is_better
        assert row.metric_of("test_loss").lower_is_better
    for seed in range(3):
        own = {"metrics": {f"test_{kind}": 3.0 - seed}, "lower_metrics": [kind]}
        sweep.cell("a", seed, accuracies=[0.9, 0.8], more=own)
    results = read_results(sweep.folder, metrics=[f"test_{kind}"])
    analysis = next(iter(analyses(results, {"metrics": [f"test_{kind}"]}).values()))
    assert [curve.metric.lower_is_better for curve in analysis.curves] == [True]


def brier(outputs: Tensor, targets: Tensor) -> Tensor:
    return (1 - outputs.softmax(1).gather(1, targets[:, None])).square().squeeze(1)


@pytest.mark.parametrize(
    ("objective", "option", "better"),
    [
        ("val_metric", "classification", "maximize"),
        ("val_loss@3", "classification", "minimize"),
        ("val_mse", "regression", "minimize"),
        ("peak", "language_model", "minimize"),
        ("val_bits_per_token", "language_model", "minimize"),
        ("sparsest_not_inferior", "language_model", "maximize"),
    ],
)
def test_a_search_for_the_worst_is_refused(objective: str, option: str, better: str) -> None:
    task = yaml.safe_load((CONF / "task" / f"{option}.yaml").read_text())
    asked = Objective.of(objective)
    asked.check_direction(better, task)
    asked.check_direction("None", task)  # a sweeper without a direction
    (worse,) = {"minimize", "maximize"} - {better}
    with pytest.raises(ValueError, match=f"hydra.sweeper.direction: got {worse}, .*give {better}"):
        asked.check_direction(worse, task)


def test_a_cell_that_does_not_measure_the_metric_is_named_and_keeps_its_records(
    sweep: FakeSweep,
) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8])
    own = {"dataset": "diabetes"}
    sweep.cell("r", accuracies=[0.5, 0.4], choices=own, judged_by=("rmse", True), stages=["d", "r"])
    (one,) = analyses(read_results(sweep.folder, metrics=[]), {"metrics": ["test_loss"]}).values()
    assert one.unmeasured == [] and not raised_alarms(one)
    asked = {"metrics": ["test_accuracy"], "labels": {"large_final": "ours"}}
    (one,) = analyses(read_results(sweep.folder, metrics=[]), asked).values()
    assert raised_alarms(one) == [
        "fc on diabetes: large_final has no test_accuracy, which the tables compare; its task "
        "is judged by test RMSE. Its rows are only in records.csv."
    ]
    assert len(records_table(one.every_curve)) == 4 and len(records_table(one.curves)) == 2


def test_only_a_trained_whole_network_is_a_trackers_dense_one(sweep: FakeSweep) -> None:
    """The first result of a supermask is untrained, and the first of other methods is pruned."""
    sweep.cell("trained", accuracies=[0.9, 0.8], choices={"method": "dense"})
    sweep.cell("scored", accuracies=[0.1, 0.7], stages=["s0", "s1"], more={"kind": "score"})
    sweep.cell("learned", accuracies=[0.6], sparsities=[0.5], stages=["m"])
    summaries = [cell.run.summary for cell in tracked_cells(sweep.folder)]
    assert [summary.get("dense_test_accuracy") for summary in summaries] == [0.9, None, None]
    assert [summary["best_test_accuracy"] for summary in summaries] == [0.8, 0.7, 0.6]


def test_lines_of_one_name_are_told_apart_by_their_panel_in_every_table(sweep: FakeSweep) -> None:
    for lr in (0.1, 0.2):
        sweep.cell(f"lr{lr}", accuracies=[0.9, lr], recipe__lr=lr, stages=[f"d{lr}", f"{lr}"])
    one = sweep.analysis(metrics=["test_metric"], panels=["recipe.lr"])
    panels = ["recipe.lr=0.1", "recipe.lr=0.2"]
    assert summary_table(one.curves)["panel"].unique().tolist() == panels
    assert records_table(one.curves)["panel"].unique().tolist() == panels
    shown = verdict_table(one)
    assert all(f"| large_final, {panel} | 80.0 |" in shown for panel in panels)
