"""A report warns about results that its reader would not expect."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep
from rich.console import Console

from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses
from lt_sweeps.cli.command_line import main
from lt_sweeps.reporting.figures.figure import NotDrawn
from lt_sweeps.reporting.figures.mask_overlap import overlap_figures
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.storage.record import ALL_DIVERGED


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def analysis(folder: Path) -> Analysis:
    return next(iter(analyses(read_results(folder, metrics=[]), {}).values()))


def arm(sweep: FakeSweep, name: str, accuracies: list[float | None], **options: Any) -> None:
    sweep.cell(name, accuracies=accuracies, choices={"mask_criterion": name}, **options)


def test_an_ordinary_sweep_raises_no_alarm(sweep: FakeSweep) -> None:
    arm(sweep, "large_final", [0.9, 0.8, 0.7])
    arm(sweep, "random", [0.9, 0.7, 0.6])
    assert raised_alarms(analysis(sweep.folder)) == []


def test_a_control_that_is_its_treatment_is_named(sweep: FakeSweep) -> None:
    arm(sweep, "large_final", [0.9, 0.8, 0.7])
    arm(sweep, "random", [0.9, 0.8, 0.7])
    line = (
        "fc on digits: large_final and random have equal losses and accuracies in 2 of 2 networks: "
        "they are one arm under two names."
    )
    assert raised_alarms(analysis(sweep.folder)) == [line]
    console = Console(record=True, width=200, file=io.StringIO())
    folder = report(sweep.folder, console=console, figures=["curves"])
    assert line in console.export_text() and line in (folder / "index.html").read_text()


def test_lines_that_are_equal_at_some_levels_are_one_arm_only_there(sweep: FakeSweep) -> None:
    """For example, IMP-Continued prunes exactly like IMP at first, and differently after that."""
    arm(sweep, "large_final", [0.9, 0.8, 0.7, 0.6])
    arm(sweep, "random", [0.9, 0.8, 0.7, 0.5])
    (said,) = raised_alarms(analysis(sweep.folder))
    assert said.endswith("2 of 3 networks: they are one arm under two names there, at levels 1, 2.")


def test_networks_that_both_collapsed_may_be_equal(sweep: FakeSweep) -> None:
    arm(sweep, "large_final", [0.9, 0.1], collapsed={1})
    arm(sweep, "random", [0.9, 0.1], collapsed={1})
    assert raised_alarms(analysis(sweep.folder)) == []


@pytest.mark.parametrize("fact", [{"reported_step": 0}, {"collapsed": True}])
def test_dense_networks_that_learned_nothing_are_named_once(
    sweep: FakeSweep, fact: dict[str, Any]
) -> None:
    """A learning rate of 1e9: every ticket "matches" a network that guesses."""
    for name, pruned in (("large_final", 0.1), ("random", 0.2)):
        arm(sweep, name, [0.14, pruned], stages=["dense", name], more=fact)
        arm(sweep, name, [0.9, pruned], stages=["dense", name], seed=1)
    assert raised_alarms(analysis(sweep.folder)) == [
        "fc on digits: 1 of 2 dense networks of large_final, random learned nothing: they predict "
        "one class, or no step lowered the validation loss."
    ]


def test_a_missed_target_is_named(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8], more={"target_sparsity": 0.25})
    assert raised_alarms(analysis(sweep.folder)) == [
        "fc on digits: large_final misses its target sparsity in 2 networks; at level 0 of seed 0 "
        "it is 0.0000, and 0.2500 was asked for."
    ]


def test_a_line_with_two_dense_networks_is_named(sweep: FakeSweep) -> None:
    """`along` has a key that changes the dense network: each learning rate has its own."""
    for lr, dense in ((0.1, 0.9), (0.2, 0.7)):
        stages = [f"dense {lr}", f"half {lr}"]
        sweep.cell(str(lr), accuracies=[dense, 0.8], stages=stages, recipe__lr=lr)
    results = read_results(sweep.folder, metrics=[])
    (both,) = analyses(results, {"along": ["recipe.lr"]}).values()
    assert raised_alarms(both) == [
        "fc on digits: large_final has 2 dense networks (recipe.lr=0.1, recipe.lr=0.2), so it has "
        "no endpoint that is measured from dense. Remove the keys that change the dense network "
        "from `report.along`."
    ]
    ((curve, ends),) = both.endpoints
    assert curve.dense is None
    measured = {name for name, end in ends.items() if not math.isnan(end.sparsity)}
    assert not {"sparsest_matching", "sparsest_not_inferior"} & measured


def test_a_target_missed_by_the_rounding_of_a_layer_is_met(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.8], sparsities=[0.2], more={"target_sparsity": 0.2005})
    assert raised_alarms(analysis(sweep.folder)) == []


def test_a_line_that_diverged_for_every_seed_is_named(sweep: FakeSweep) -> None:
    arm(sweep, "large_final", [0.9, 0.8])
    arm(sweep, "random", [0.9, None])
    assert raised_alarms(analysis(sweep.folder)) == [
        "fc on digits: every replicate of random diverged."
    ]


def test_equal_masks_of_different_criteria_are_named(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    # The fault: |w_f| twice, once under another name, so that the masks are equal. The recipes
    # differ in what comes after the masks, as do the accuracies.
    one = cell(mask_criterion={"_target_": "lt_sweeps.sparsity.criteria.large_final"})
    own = {"_target_": "lt_sweeps.sparsity.criteria.large_final", "final": "end"}
    other = cell(mask_criterion=own, reset={"_target_": "lt_sweeps.sparsity.resets.reinit"})
    run(one, other)
    # These trainings are so short that the dense networks learn nothing, which is another alarm.
    lines = [
        line for line in raised_alarms(analysis(tmp_path / "results")) if "learned" not in line
    ]
    assert [line.partition(" keep ")[2] for line in lines] == [
        "the same weights at their first level (1 of 1 seeds)."
    ]


def test_networks_without_a_stored_mask_are_not_compared(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Each two criteria of a supermask sweep were said to keep the same weights."""
    kinds = (f"lt_sweeps.sparsity.criteria.{name}" for name in ("large_final", "random"))
    method = {"_target_": "lt_sweeps.plan.methods.supermask"}
    run(*(cell(mask_criterion={"_target_": kind}, method=method) for kind in kinds))
    one = analysis(tmp_path / "results")
    assert len(one.curves) == 2 and one.curves[0].points[-1].pruned
    assert not [line for line in raised_alarms(one) if " keep " in line]
    with pytest.raises(NotDrawn, match="the store lacks the masks"):
        overlap_figures(one)


def test_a_sweep_in_which_every_replicate_diverged_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["name=d", "seed=0", "mask_criterion=random", "schedule.levels=1", "recipe.lr=1e30"]
    assert main([*words, "recipe.optimizer=sgd", "recipe.length=1ep", "workers=1"]) == 1
    said = capsys.readouterr()
    assert f"error: {ALL_DIVERGED}\n" in said.err and f"{ALL_DIVERGED}." in said.out
    assert main(["status", "d"]) == 1
    assert ALL_DIVERGED in capsys.readouterr().out
