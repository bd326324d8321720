"""`compare A B`: which results are compared with which, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep
from rich.console import Console
from scipy import stats

from lt_sweeps.analysis.comparison import SweepComparison
from lt_sweeps.analysis.endpoint import NAMES
from lt_sweeps.analysis.endpoint_tests import PER_RUN
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.report_config import ROLES, layout
from lt_sweeps.reporting.figures import draw_figures
from lt_sweeps.reporting.sweep_comparison import compare_sweeps

NOISE = (0.000, 0.002, -0.001, 0.003)


def made(root: Path, name: str, criteria: dict[str, float], **more: Any) -> FakeSweep:
    """A sweep of four seeds: an accuracy for each criterion, plus the noise of the seed."""
    sweep = FakeSweep(root, name)
    for criterion, accuracy in criteria.items():
        for seed, noise in enumerate(NOISE):
            sweep.cell(
                f"{name}-{criterion}",
                seed,
                accuracies=[0.9 + noise, accuracy + noise * (1 + 10 * (1 - accuracy))],
                choices={"mask_criterion": criterion, **more.get("choices", {})},
                **{key: value for key, value in more.items() if key != "choices"},
            )
    return sweep


def compared(one: FakeSweep, other: FakeSweep, **asked: Any) -> tuple[list[Any], str]:
    console = Console(file=io.StringIO(), record=True, width=200)
    found = compare_sweeps(one.folder, other.folder, console=console, **asked)
    return found, console.export_text()


def test_two_sweeps_that_differ_in_one_option_are_compared_level_by_level(tmp_path: Path) -> None:
    one, other = (
        made(tmp_path, name, {name: accuracy})
        for name, accuracy in (("movement", 0.8), ("random", 0.7))
    )
    found, text = compared(one, other, out=tmp_path / "out")
    pruned = [v for v in found if v.point.level]
    mine, theirs = (list(each.values()) for each in (pruned[0].point.values, _last(other)))
    assert pruned[0].comparison.p == pytest.approx(stats.ttest_rel(mine, theirs)[1])
    assert "movement minus random (mask_criterion: movement against random)" in text
    assert pd.read_csv(tmp_path / "out" / "tests.csv")["difference"].iloc[-1] == pytest.approx(
        pruned[-1].comparison.difference
    )


def _last(sweep: FakeSweep) -> dict[str, float]:
    from lt_sweeps.analysis.curve import curves
    from lt_sweeps.analysis.results import read_results

    cells = read_results(sweep.folder, metrics=["test_accuracy"]).cells
    return dict(curves(cells, metric="test_accuracy")[0].points[-1].values)


def test_curves_are_matched_by_what_varies_within_a_sweep_and_the_other_differences_are_printed(
    tmp_path: Path,
) -> None:
    one = made(tmp_path, "slow", {"movement": 0.8, "random": 0.7}, recipe__lr=0.1)
    other = made(tmp_path, "fast", {"movement": 0.8, "large_final": 0.8}, recipe__lr=0.3)
    found, text = compared(one, other, out=tmp_path / "out")
    assert {v.curve.label for v in found} == {"movement"}
    assert "recipe.lr: 0.1 against 0.3" in text
    assert "which the tables compare" not in (tmp_path / "out" / "index.html").read_text()
    assert "only in slow: random" in text and "only in fast: large_final" in text
    assert "movement, lr=0.1 minus movement, lr=0.3" in text
    assert "movement, lr=0.1 against movement, lr=0.3: " in text


def test_endpoints_are_compared_in_the_unit_of_the_metric(tmp_path: Path) -> None:
    pair = [{"movement": 0.8}, {"random": 0.7}]
    one, other = (
        made(tmp_path, name, criteria, judged_by=("r2", False))
        for name, criteria in zip("ab", pair, strict=True)
    )
    _, text = compared(one, other)
    assert "sparsities in % and test R2: difference" in text and "accuracies" not in text


def test_a_difference_that_rounds_to_nothing_has_no_sign_of_its_own(tmp_path: Path) -> None:
    one, other = (
        made(tmp_path, name, {name: accuracy})
        for name, accuracy in (("movement", 0.8), ("random", 0.800004))
    )
    _, text = compared(one, other, out=tmp_path / "out")
    assert "+0.00" in text and "-0.00" not in text


def test_the_title_says_all_options_that_by_allows_to_differ(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8, "random": 0.7}, choices={"reset": "rewind"})
    other = made(tmp_path, "two", {"movement": 0.7}, choices={"reset": "reinit"})
    _, text = compared(one, other, by=["reset", "mask_criterion"], out=tmp_path / "out")
    assert (
        "(mask_criterion: movement, random against movement; reset: rewind against reinit)" in text
    )


def test_in_a_narrow_terminal_each_number_stands_beside_its_endpoint(tmp_path: Path) -> None:
    """Three rows that all said only `movement` did not show which endpoint was which."""
    one = made(tmp_path, "fast", {"movement": 0.8}, recipe__lr=0.3)
    other = made(tmp_path, "slow", {"movement": 0.7}, recipe__lr=0.1)
    console = Console(file=io.StringIO(), record=True, width=80)
    compare_sweeps(one.folder, other.folder, console=console)
    text = console.export_text()
    _, _, ends = text.partition("endpoints per run")
    rows = [line for line in ends.splitlines() if line.startswith("│")]
    assert len(rows) == 2 * len(PER_RUN), "two parts"
    assert all(any(NAMES[name] in row for name in PER_RUN) for row in rows)


def test_cells_that_differ_in_more_are_refused_with_the_keys(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8}, recipe__lr=0.1)
    other = made(tmp_path, "two", {"random": 0.8}, recipe__lr=0.3)
    with pytest.raises(ValueError, match=r"differ in mask_criterion, recipe.lr.*by=mask"):
        compared(one, other)
    found, text = compared(one, other, by=["mask_criterion", "recipe.lr"])
    assert found and "mask_criterion: movement against random; recipe.lr: 0.1 against 0.3" in text


def test_schedules_with_other_levels_differ_and_schedules_with_more_levels_do_not(
    tmp_path: Path,
) -> None:
    one = made(tmp_path, "one", {"movement": 0.8})
    longer = FakeSweep(tmp_path, "longer")
    faster = FakeSweep(tmp_path, "faster")
    for seed in range(4):
        random: dict[str, Any] = {"choices": {"mask_criterion": "random"}}
        longer.cell("l", seed, accuracies=[0.9, 0.7 + seed / 100, 0.6], **random)
        faster.cell(
            "f", seed, accuracies=[0.9, 0.7], sparsities=[0, 0.5], schedule__rate=0.5, **random
        )
    assert compared(one, longer)[0]
    with pytest.raises(ValueError, match=r"mask_criterion, schedule.rate"):
        compared(one, faster)


def test_sweeps_without_a_common_curve_are_refused(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8, "random": 0.7}, recipe__lr=0.1)
    other = made(tmp_path, "two", {"large_final": 0.8, "large_init": 0.8}, recipe__lr=0.3)
    with pytest.raises(ValueError, match=r"no curve of one matches.*mask_criterion"):
        compared(one, other)


def test_other_seeds_are_compared_by_welch(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8})
    other = FakeSweep(tmp_path, "two")
    for seed in (7, 8, 9):
        other.cell(
            "r", seed, accuracies=[0.9, 0.7 + seed / 1000], choices={"mask_criterion": "random"}
        )
    found, text = compared(one, other)
    assert {v.comparison.test for v in found} == {"Welch t"} and "Welch t" in text


def test_the_same_tickets_are_not_compared_with_themselves(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8}, stages=["dense", "m"])
    other = made(tmp_path, "two", {"random": 0.7}, stages=["dense", "r"])
    found, text = compared(one, other)
    assert [v.point.level for v in found] == [1]
    assert "1 level is not compared: one side has only tickets that the other side has too" in text


@pytest.mark.parametrize(
    ("seeds", "change", "test", "difference"),
    [
        ((10, 11, 12, 13), 0.0, "Welch t", 0.0),  # other seeds, with the same noise by chance
        ((0, 1, 2, 3), 0.05, "paired t", 0.05),  # the same seeds, trained on another device
        ((2, 3, 4, 5), 0.0, "Welch t", 0.0),
    ],
)
def test_other_tickets_of_the_same_stages_are_compared(
    tmp_path: Path, seeds: tuple[int, ...], change: float, test: str, difference: float
) -> None:
    one, other = FakeSweep(tmp_path / "mine", "one"), FakeSweep(tmp_path / "theirs", "two")
    for sweep, numbers, off in ((one, (0, 1, 2, 3), 0.0), (other, seeds, change)):
        for seed, noise in zip(numbers, NOISE, strict=True):
            values = [0.9 + noise - off, 0.8 + noise - off]
            sweep.cell(f"{sweep.folder.name}-a", seed, accuracies=values, stages=["dense", "a"])
    found, text = compared(one, other, out=tmp_path / "out")
    assert [(v.point.level, v.comparison.test) for v in found] == [(0, test), (1, test)]
    assert [v.comparison.difference for v in found] == pytest.approx([difference] * 2)
    assert "not compared" not in text and "no level to compare" not in text
    assert "(the configs are equal)" in text


def test_a_side_with_fewer_of_the_same_tickets_is_not_compared(
    tmp_path: Path,
) -> None:
    one, other = FakeSweep(tmp_path, "one"), FakeSweep(tmp_path, "two")
    for sweep, count in ((one, 2), (other, 4)):
        for seed, noise in enumerate(NOISE[:count]):
            sweep.cell("a", seed, accuracies=[0.9 + noise, 0.8 + noise])
    found, text = compared(one, other)
    assert not found and "2 levels are not compared: one side has only tickets" in text


def test_dense_networks_of_other_seeds_are_drawn_as_two_lines(tmp_path: Path) -> None:
    one, other = FakeSweep(tmp_path, "one"), FakeSweep(tmp_path, "two")
    for sweep, first, dense in ((one, 0, 0.9), (other, 10, 0.8)):
        for seed in (first, first + 1):
            sweep.cell("a", seed, accuracies=[dense, 0.7])
    sides = [
        Analysis(read_results(s.folder, metrics=["test_accuracy"]), layout({}))
        for s in (one, other)
    ]
    (figure, *_), _ = draw_figures(SweepComparison.of(sides[0], sides[1], ()))
    lines = [line for line in figure.draw().axes[0].lines if line.get_linewidth() == 0.6]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in lines]
    assert sorted(heights) == [80, 90]


def test_two_cells_are_compared_by_their_signatures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "s", {"movement": 0.8, "random": 0.7})
    words = ["compare", "s-movement", "s-random", f"root={tmp_path}", "margin=2%"]
    assert main(words) == 0
    assert "mask_criterion: movement against random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["one"], 2, "compare: got one; write lt-sweeps compare A B; "),
        (["one", "none_such"], 1, "compare: none_such; sweeps in"),
        (["one", "one", "alfa=0.1"], 2, "compare: alfa; did you mean `alpha`?"),
        (["one", "one", "alpha=7"], 1, "report.alpha: got 7"),
    ],
)
def test_a_wrong_argument_is_refused_with_a_hint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    made(tmp_path, "one", {"movement": 0.8})
    assert main(["compare", *words, f"root={tmp_path}"]) == status
    assert said in capsys.readouterr().err


def test_a_sweep_that_has_not_started_cannot_be_compared(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"movement": 0.8})
    other = FakeSweep(tmp_path, "two")
    other.cell("queued")
    with pytest.raises(ValueError, match="compare: `two` has no records yet"):
        compared(one, other)


def test_a_key_of_by_that_neither_sweep_has_is_refused_even_for_equal_sweeps(
    tmp_path: Path,
) -> None:
    one = made(tmp_path, "one", {"movement": 0.8})
    with pytest.raises(
        ValueError, match="compare: by: these cells have no group or setting `nope`"
    ):
        compared(one, one, by=["nope"])


def test_both_sweeps_are_drawn_with_bands_and_stars_and_the_folder_is_printed(
    tmp_path: Path,
) -> None:
    one, other = (
        made(tmp_path, name, {name: accuracy})
        for name, accuracy in (("movement", 0.8), ("random", 0.7))
    )
    found, text = compared(one, other)
    folder = tmp_path / "compare" / "movement-random"
    assert f"open {folder / 'index.html'} (figures: 2, " in text
    for name in ("index.html", "accuracy.png", "accuracy.pdf", "report.json"):
        assert (folder / name).stat().st_size > 1000
    data = pd.read_csv(folder / "accuracy.csv", keep_default_na=False)
    assert list(dict.fromkeys(data["line"])) == ["movement", "random"]
    assert (
        data["mark"].tolist() == ["", found[-1].mark(0.05), "", ""]
        and found[-1].comparison.p < 0.05
    )
    assert (data["low"] < data["high"]).all() and set(data["n"]) == {4}
    caption = (folder / "accuracy.txt").read_text()
    assert caption.startswith("movement minus random (mask_criterion: movement against random).")


def test_equal_line_names_of_two_sweeps_are_told_apart_by_what_is_compared(tmp_path: Path) -> None:
    one = made(tmp_path, "slow", {"movement": 0.8, "random": 0.7}, recipe__lr=0.1)
    other = made(tmp_path, "fast", {"movement": 0.8, "random": 0.8}, recipe__lr=0.3)
    compared(one, other, out=tmp_path / "out", labels={"movement": "moved"})
    lines = pd.read_csv(tmp_path / "out" / "accuracy.csv")["line"].unique().tolist()
    assert lines == [f"{c}, lr={lr}" for c in ("moved", "random") for lr in (0.1, 0.3)]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"labels": {"movment": "m"}}, "labels: no line .* `movment`; did you mean `movement`"),
        ({"labels": {"recipe.lr=0.2": "s"}}, "report.labels: no line is called `recipe.lr=0.2`"),
    ],
)
def test_a_labelled_line_must_be_on_one_of_the_sides(
    tmp_path: Path, typed: dict[str, Any], said: str
) -> None:
    one = made(tmp_path, "slow", {"movement": 0.8}, recipe__lr=0.1)
    other = made(tmp_path, "fast", {"movement": 0.8, "random": 0.8}, recipe__lr=0.3)
    with pytest.raises(ValueError, match=said):
        compared(one, other, **typed)
    _, text = compared(one, other, labels={"random": "chance", "recipe.lr=0.3": "quick"})
    assert "movement, quick" in text and "only in fast: chance" in text


@pytest.mark.parametrize(
    "typed",
    [
        {"baseline": "random"},
        {"tested": ["random"]},
        {"pairs": [["movement", "random"]]},
        {"control": "random"},
        {"highlight": ["random"]},
    ],
)
def test_a_role_that_a_comparison_does_not_give_is_refused(
    tmp_path: Path, typed: dict[str, Any]
) -> None:
    one, other = (
        made(tmp_path, name, {"movement": 0.8, "random": 0.7}, recipe__lr=lr)
        for name, lr in (("slow", 0.1), ("fast", 0.3))
    )
    (key,) = typed
    assert key in ROLES
    with pytest.raises(ValueError, match=f"compare: report.{key} would have no effect: each line"):
        compared(one, other, **typed)


def test_two_networks_are_drawn_in_one_panel(tmp_path: Path) -> None:
    one, other = (
        made(tmp_path, model, {"movement": 0.8}, choices={"model": model})
        for model in ("fc", "conv4")
    )
    compared(one, other, out=tmp_path / "out")
    data = pd.read_csv(tmp_path / "out" / "accuracy.csv")
    assert data["panel"].unique().tolist() == ["fc on digits against conv4 on digits"]
    assert data["line"].unique().tolist() == ["movement, fc", "movement, conv4"]


def test_equal_configs_are_told_apart_by_the_names_of_the_sweeps(tmp_path: Path) -> None:
    one, other = (made(tmp_path, name, {"movement": 0.8}) for name in ("mine", "yours"))
    _, text = compared(one, other, out=tmp_path / "out")
    lines = pd.read_csv(tmp_path / "out" / "accuracy.csv")["line"].unique().tolist()
    assert lines == ["movement, mine", "movement, yours"]
    assert "mine minus yours (the configs are equal, but not the code or data)" in text


def test_figures_from_tickets_need_one_root(tmp_path: Path) -> None:
    one, other = (made(tmp_path / name, name, {name: 0.8}) for name in ("movement", "random"))
    with pytest.raises(ValueError, match=r"report.figures=\[overlap\] reads the tickets of both"):
        compared(one, other, figures=["overlap"])


def test_sweeps_that_end_without_a_weight_or_never_prune_are_compared(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"random": 0.8}, sparsities=[0.0, 1.0])
    other = made(tmp_path, "other", {"random": 0.8}, sparsities=[0.0, 1.0], recipe__lr=0.5)
    verdicts, text = compared(one, other)
    assert [v.point.percent for v in verdicts] == [0] and "mean over log density" in text
