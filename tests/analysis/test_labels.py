"""Lines are named by the options and settings in which they differ, in words for readers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep

from lt_sweeps.analysis.curve import curves
from lt_sweeps.analysis.labels import readable, usual_settings
from lt_sweeps.analysis.line_names import check_planned
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.report_config import layout
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.reporting.figures.accuracy_curves import metric_figures
from lt_sweeps.reporting.sweep_report import report


def test_a_method_that_takes_no_criterion_is_not_named_by_one(tmp_path: Path) -> None:
    # What version 0.1.0 wrote: every option in config.yaml, and the true ones in the records.
    sweep = FakeSweep(tmp_path)
    untaken = {"criterion": None, "reset": None, "freeze": None}
    chosen: dict[str, str | None] = {
        "mask_criterion": "random",
        "reset": "rewind",
        "freeze": "zero",
    }
    sweep.cell("g", accuracies=[0.9, 0.8], choices={**chosen, "method": "gmp"}, more=untaken)
    for name in ("random", "movement"):
        mine = {**chosen, "method": "magnitude", "mask_criterion": name}
        sweep.cell(name, accuracies=[0.9, 0.8], choices=mine)
    folder = report(sweep.folder, figures=["curves"])
    summary = pd.read_csv(folder / "summary.csv")
    lines = ["gmp", "random magnitude", "movement magnitude"]
    assert summary["curve"].unique().tolist() == lines
    gmp = summary[summary["curve"] == "gmp"]
    assert all(pd.isna(gmp[column]).all() for column in ("criterion", "reset", "freeze"))
    assert pd.read_csv(folder / "accuracy.csv")["line"].unique().tolist() == lines


def test_settings_of_a_group_that_a_method_does_not_take_tell_no_lines_apart(
    tmp_path: Path,
) -> None:
    sweep = FakeSweep(tmp_path)
    for seed, final in enumerate(["end", "best"]):
        sweep.cell(
            "g",
            seed,
            accuracies=[0.9, 0.8],
            choices={"method": "gmp"},
            more={"criterion": None},
            mask_criterion__final=final,
        )
    cells = read_results(sweep.folder, metrics=[]).cells
    assert [key for cell in cells for key in cell.settings if "criterion" in key] == []


def test_a_cell_is_stored_with_the_options_that_count(
    cell: Callable[..., Cell], tmp_path: Path
) -> None:
    gmp = cell(method={"_target_": "lt_sweeps.plan.methods.gmp"})
    groups = ("method", "mask_criterion", "reset", "freeze", "schedule")
    chosen: dict[str, str | None] = dict.fromkeys(groups, "x")
    planned = planned_cell(Cell(gmp.config, chosen, ()))
    labels = {group: planned.labels[group] for group in chosen}
    assert labels == {**chosen, "mask_criterion": None, "reset": None, "freeze": None}
    # A worker plans the cell again from its manifest, which holds the labels.
    assert planned_cell(Cell(gmp.config, planned.labels, ())).labels == planned.labels


def test_a_transfer_takes_what_its_search_takes(cell: Callable[..., Cell]) -> None:
    method = {
        "_target_": "lt_sweeps.plan.methods.transfer",
        "source": dict(cell().config["dataset"]),
        "search": {
            "_target_": "lt_sweeps.plan.methods.continuous_sparsification",
            "protocol": "ticket",
        },
    }
    model = {**cell().config["model"], "prunable": {"exclude": ["output.weight"]}}
    made = cell(method=method, model=model)
    chosen: dict[str, str | None] = dict.fromkeys(
        ("mask_criterion", "reset", "freeze", "schedule"), "x"
    )
    labels = planned_cell(Cell(made.config, chosen, ())).labels
    assert {group: labels[group] for group in chosen} == dict.fromkeys(chosen)


def test_a_setting_is_called_by_its_last_word_where_that_is_clear() -> None:
    assert readable(["a mask_criterion.init=start mask_criterion.final=best", "b"]) == [
        "a init=start final=best",
        "b",
    ]
    assert readable(["recipe.lr=1", "method.lr=1"]) == ["recipe.lr=1", "method.lr=1"]
    named = readable(["model.init._target_=lt_sweeps.models.glorot_normal", "hidden=[30,10]"])
    assert named == ["init=glorot_normal", "hidden=[30,10]"]


def test_one_setting_at_a_time_is_named_by_what_it_varies() -> None:
    usual = {"lmbda": "1e-8", "beta": "200", "anneal": "epoch", "lr": "1.0"}
    varied = [{}, {"lmbda": "0.0"}, {"lmbda": "1e-3"}, {"beta": "50"}, {"anneal": "step"}]
    names = [
        " ".join(["cs", *(f"method.{k}={v}" for k, v in {**usual, **own}.items())])
        for own in varied
    ]
    assert readable([*names, "dense"]) == [
        *("cs", "cs lmbda=0.0", "cs lmbda=1e-3", "cs beta=50", "cs anneal=step"),
        "dense",
    ]
    assert usual_settings(names) == [f"method.{key}={value}" for key, value in usual.items()]


def test_a_grid_is_named_by_all_of_its_settings() -> None:
    grid = [f"a={a} b={b} c={c} d={d}" for a, b, c, d in product((1, 2), repeat=4)]
    assert readable(grid) == grid
    few = ["a=1 b=1 c=1", "a=2 b=1 c=1", "a=1 b=2 c=1", "a=1 b=1 c=2"]
    assert readable(few) == few  # short enough for a legend
    spaced = ["a=x y b=1 c=1 d=1", "a=x y b=2 c=1 d=1", "a=x y b=1 c=2 d=1", "a=z b=1 c=1 d=1"]
    assert readable(spaced) == [spaced[0], "b=2", "c=2", "a=z"]


def two_criteria(root: Path) -> FakeSweep:
    sweep = FakeSweep(root)
    for name, accuracy in (("large_final", 0.85), ("random", 0.8)):
        mine = {"mask_criterion": name}
        sweep.cell(name, accuracies=[0.9, accuracy], choices=mine, stages=["dense", f"{name}-1"])
    return sweep


@pytest.mark.parametrize(
    "given",
    [
        {"large_final": "ours", "random": "ours"},
        {"large_final": "random"},
        {"large_final": "random", "random": "large_final"},
    ],
)
def test_a_label_that_would_mean_two_lines_is_refused(
    tmp_path: Path, given: dict[str, str]
) -> None:
    """Tables, figures and `baseline` find a line by its label, so two lines would be confused."""
    both = "would mean both large_final and random"
    with pytest.raises(ValueError, match=both):
        report(two_criteria(tmp_path).folder, labels=given)
    cells = read_results(tmp_path / "sweeps" / "fig3", metrics=[]).cells
    with pytest.raises(ValueError, match=both):
        check_planned(cells, layout({"labels": given}))


def test_functions_of_one_name_are_called_by_all_of_it() -> None:
    names = [f"model.init._target_={path}.normal_" for path in ("mine", "torch.nn.init")]
    assert readable(names) == names
    assert readable([*names[:1], "random"]) == ["init=normal_", "random"]


def test_a_text_is_told_from_the_number_that_looks_like_it(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    values = [1, "1", 1.0, None, "null", [1, 2], "[1, 2]", True, "true", "10ep"]
    for n, value in enumerate(values):
        stages = [f"dense-{n}", f"{n}-1"]
        sweep.cell(f"cell{n}", accuracies=[0.9, 0.8], stages=stages, recipe__at=value)
    drawn = curves(read_results(sweep.folder, metrics=[]).cells, metric="test_accuracy")
    told = ["1", '"1"', "1.0", "null", '"null"', "[1,2]", '"[1, 2]"', "true", '"true"', "10ep"]
    assert [curve.label for curve in drawn] == [f"at={text}" for text in told]


def test_a_line_is_highlighted_by_its_label_too(tmp_path: Path) -> None:
    sweep = two_criteria(tmp_path)
    labels = {"large_final": "large final"}
    bands = []
    for name in ("large_final", "large final"):
        asked = {"labels": labels, "highlight": [name]}
        (one,) = analyses(read_results(sweep.folder, metrics=[]), asked).values()
        bands.append(len(metric_figures(one)[0].draw().axes[0].collections))
    assert bands == [1, 1]
