"""Tests of lines against a baseline: which are made, how they are corrected, what is printed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.significance import winning
from lt_sweeps.analysis.stats import detectable
from lt_sweeps.analysis.verdict_sentences import caveats, conclusions
from lt_sweeps.api.opened_sweep import open_sweep
from lt_sweeps.reporting.csv_tables import verdicts_table
from lt_sweeps.reporting.figures.captions import winning_sentences
from lt_sweeps.reporting.sweep_report import report

NOISE = (0.000, 0.002, -0.001, 0.003, -0.002)


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def line(
    sweep: FakeSweep,
    criterion: str,
    levels: list[float],
    *,
    seeds: int = 5,
    spread: float = 0.0,
    **more: Any,
) -> None:
    """A criterion's cells: each seed has the same noise at every level, plus `spread` by seed."""
    for seed in range(seeds):
        own = spread * (seed - 2) ** 2
        sweep.cell(
            criterion,
            seed,
            accuracies=[0.9 + NOISE[seed], *(each + NOISE[seed] + own for each in levels)],
            choices={"mask_criterion": criterion},
            **more,
        )


def test_each_level_is_tested_by_itself_and_holm_counts_a_panel(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "movement", [0.89, 0.88], spread=0.001)
    line(sweep, "random", [0.85, 0.899], spread=0.002)
    verdicts = sweep.analysis(baseline="large_final").verdicts
    assert [(v.curve.name, v.point.level) for v in verdicts] == [
        *(("movement", 1), ("movement", 2), ("random", 1), ("random", 2)),
    ]
    by_hand = []
    for v in verdicts:
        theirs = v.baseline.points[v.point.level].values
        by_hand.append(stats.ttest_rel(*_side_by_side(v.point.values, theirs))[1])
    assert [v.comparison.p for v in verdicts] == pytest.approx(by_hand)
    assert [v.p_holm for v in verdicts] == pytest.approx(multipletests(by_hand, method="holm")[1])


def _side_by_side(mine: Any, theirs: Any) -> Any:
    return [mine[seed] for seed in mine], [theirs[seed] for seed in mine]


def test_the_family_that_holm_corrects_is_the_one_declared(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "movement", [0.89, 0.88], spread=0.001)
    line(sweep, "random", [0.85, 0.899], spread=0.002)
    lines = sweep.analysis(baseline="large_final", family="line").verdicts
    first = lines[:2]
    expected = multipletests([v.comparison.p for v in first], method="holm")[1]
    assert [v.p_holm for v in first] == pytest.approx(expected)


def test_a_mark_says_above_below_and_whether_it_outlives_holm(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9, 0.9])
    line(sweep, "movement", [0.95, 0.85, 0.9 + 0.0001], spread=0.0005)
    (up, down, level) = sweep.analysis(baseline="large_final").verdicts
    assert (up.mark(0.05), down.mark(0.05), level.mark(0.05)) == ("★", "×", "")
    assert up.comparison.p_student < 1e-8 < up.p_holm
    assert (up.mark(1e-8), up.mark(1e-15)) == ("☆", "")


def test_shared_tickets_are_not_tested_against_themselves(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9], stages=["dense", "a"])
    line(sweep, "movement", [0.8], stages=["dense", "b"], spread=0.001)
    assert [v.point.level for v in sweep.analysis(baseline="large_final").verdicts] == [1]


def test_densities_are_one_level_if_they_differ_by_at_most_a_hundredth(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9], sparsities=[0.0, 0.5, 0.8])
    # 504 against 500 of 1000 weights are 0.8% of 504; 205 against 200 are 2.4% of 205
    line(sweep, "movement", [0.8, 0.8], sparsities=[0.0, 0.496, 0.795], spread=0.001)
    # 508 against 500 are 1.6% of 508
    line(sweep, "random", [0.8, 0.8], sparsities=[0.0, 0.492, 0.792], spread=0.001)
    assert [v.point.level for v in sweep.analysis(baseline="large_final").verdicts] == [1]


def test_only_the_lines_asked_for_are_tested(sweep: FakeSweep) -> None:
    for criterion in ("large_final", "movement", "random"):
        line(sweep, criterion, [0.9], spread=0.001 * len(criterion))
    verdicts = sweep.analysis(baseline="random", tested=["movement"]).verdicts
    assert {v.curve.name for v in verdicts} == {"movement"}


def test_a_line_that_is_not_there_is_answered_with_the_nearest(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9])
    with pytest.raises(ValueError, match="report.baseline: .*`large_fina`; did you mean `large_f"):
        _ = sweep.analysis(baseline="large_fina").verdicts


def test_a_comparison_without_its_line_is_never_left_out_silently(sweep: FakeSweep) -> None:
    """An experiment names lines that a smaller sweep lacks, and its own labels may have typos."""
    line(sweep, "large_final", [0.9])
    line(sweep, "random", [0.85])
    keys = {"labels": {"large_fina": "IMP", "moves": "moved"}, "baseline": "IMP"}
    one = sweep.analysis(**keys, tested=["random"], pairs=[["random", "moved"]], control="IMP")
    assert one.all_verdicts == []
    assert (
        "Comparisons are left out, because no line has the name IMP, moved (report.baseline and "
        "report.control and report.pairs)." in raised_alarms(one)
    )


@pytest.mark.parametrize("lines", [{}, {"lines": ["mask_criterion"]}])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"labels": {"large_fina": "IMP"}, "baseline": "IMP"}, "`large_fina`; did you mean `large"),
        ({"labels": {"x": "A"}, "pairs": [["A", "random"]]}, "`x`"),
    ],
)
def test_a_label_typed_for_a_report_names_a_line(
    sweep: FakeSweep, keys: dict[str, Any], said: str, lines: dict[str, Any]
) -> None:
    line(sweep, "large_final", [0.9])
    line(sweep, "random", [0.85])
    with pytest.raises(ValueError, match=f"report.labels: no line is called {said}"):
        report(sweep.folder, **keys, **lines)
    with pytest.raises(ValueError, match=f"report.labels: no line is called {said}"):
        open_sweep(sweep.folder).tests(**keys, **lines)
    layout_file = sweep.root / "layout.yaml"  # an experiment's, with lines that the sweep lacks
    layout_file.write_text(json.dumps({"report": {**keys, **lines, "figures": ["curves"]}}))
    report(sweep.folder, layout_file=layout_file)
    with pytest.raises(ValueError, match="report.tested: no line is called"):
        report(sweep.folder, layout_file=layout_file, tested=["IMP"])


def test_the_limits_of_five_seeds_are_said(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9])
    line(sweep, "movement", [0.899], spread=0.001)
    one = sweep.analysis(baseline="large_final")
    says = " ".join(caveats(one.verdicts, one.layout))
    assert "paired t, beside Student's" in says and "Holm within each panel (1 tests)" in says
    assert "cannot fall below p = 0.0625, so it never reaches 0.05" in says
    assert "Power: 5 seeds show a difference of" in says


def test_a_verdict_that_depends_on_the_size_of_the_family_says_so(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9, 0.9])
    for criterion in ("movement", "random"):  # p = 0.03 at two levels, and 0.4 at the last
        line(sweep, criterion, [0.8952, 0.8952, 0.8972], spread=0.001)
    one = sweep.analysis(baseline="large_final", equivalence=None)
    both, hint, *_ = one.test_sentences
    assert both.startswith("fc on digits: movement, random, each against large_final: undecided")
    assert both.endswith("without the correction for 6 tests, below at 2 of the undecided.")
    assert hint.startswith("Hint: ") and "family=line" in hint and "tested=" in hint


def test_a_family_that_cannot_be_smaller_gets_no_hint(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "movement", [0.9008, 0.9008], spread=0.001)
    one, *rest = sweep.analysis(baseline="large_final").test_sentences
    assert one == (
        "fc on digits: movement against large_final: undecided at 2 of 2 levels; without the "
        "correction for 2 tests, above at 2 of the undecided."
    )
    assert "Hint" not in " ".join(rest)


def test_the_seeds_needed_are_counted_for_the_whole_family_too(sweep: FakeSweep) -> None:
    """A single test of this difference needs fewer seeds than a verdict after Holm's correction."""
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "movement", [0.9008, 0.9008], spread=0.001)
    one = sweep.analysis(baseline="large_final")
    (verdict, _), effect = one.verdicts, 0.0028 / (0.001 * 3.5**0.5)  # sd of 4, 1, 0, 1, 4
    single, corrected = (
        math.ceil(TTestPower().solve_power(effect_size=effect, alpha=alpha, power=0.8))
        for alpha in (0.05, 0.025)
    )
    assert single < corrected
    assert verdict.comparison.seeds_needed == single
    assert verdict.seeds_needed(0.05) == corrected
    assert f"need {single} seeds in a single test, and {corrected} seeds after Holm's" in " ".join(
        one.test_sentences
    )
    tests = verdicts_table(one)
    assert {*tests["seeds_needed"]} == {single} and {*tests["seeds_needed_holm"]} == {corrected}


def test_power_is_of_one_kind_of_test_and_the_most_common(sweep: FakeSweep) -> None:
    """Five pairs of seeds have small deviations; three seeds against five have large ones."""
    line(sweep, "large_final", [0.9, 0.9, 0.9])
    line(sweep, "movement", [0.899, 0.898, 0.897], spread=0.001)
    line(sweep, "random", [0.8, 0.7], seeds=3, spread=0.01)
    one = sweep.analysis(baseline="large_final")
    (says,) = [text for text in caveats(one.verdicts, one.layout) if text.startswith("Power: ")]
    sd = one.verdicts[0].comparison.sd
    assert [v.comparison.sd for v in one.verdicts[:3]] == pytest.approx([sd] * 3)
    visible = detectable(sd, 5, paired=True, alpha=0.05)
    assert f"Power: 5 seeds show a difference of {100 * visible:.2g} points" in says
    assert "the median of the 3 tests with 5 pairs)" in says


def test_a_count_of_winning_levels_says_of_how_many(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.901, 0.903, 0.7], spread=0.0001)
    line(sweep, "random", [0.8, 0.7, 0.7])
    (says,) = winning_sentences(sweep.analysis(control="random"))
    assert says.endswith("better than random): large_final 2 of 3.")


def test_the_limit_of_sets_of_two_sizes_names_both(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "random", [0.85, 0.84], seeds=2)
    analysis = sweep.analysis(baseline="large_final")
    says = " ".join(caveats(analysis.verdicts, analysis.layout))
    # 21 ways to call two of seven seeds `random`
    assert "With 2 against 5 seeds the exact test cannot fall below p = 0.09524" in says


def test_no_difference_is_said_only_where_it_was_shown(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9, 0.9, 0.9])
    line(sweep, "movement", [0.9005, 0.9, 0.87, 0.9005], spread=0.0002)
    # Level 2 has the same mean difference as level 1, but seeds that differ too much to show it.
    for seed, off in enumerate((0.02, -0.03, 0.025, -0.015, 0.003)):
        sweep.cell(
            "random",
            seed,
            accuracies=[0.9 + NOISE[seed], 0.9 + NOISE[seed] + off],
            choices={"mask_criterion": "random"},
        )
    one = sweep.analysis(baseline="large_final")
    movement = [v for v in one.verdicts if v.curve.name == "movement"]
    assert [v.words(0.05) for v in movement] == [
        *(("above", "equivalent"), ("equivalent",), ("below",), ("above", "equivalent")),
    ]
    assert replace(movement[0], p_equivalent_holm=0.06).words(0.05) == ("above",)
    (random,) = (v for v in one.verdicts if v.curve.name == "random")
    assert random.comparison.p > 0.9 and random.words(0.05) == ("undecided",)
    said = " ".join(conclusions(one.verdicts, one.layout))
    assert (
        "fc on digits: movement against large_final: above at 2, below at 1, equivalent within 0.5 "
        "points at 3 of 4 levels." in said
    )
    assert "random against large_final: undecided at 1 of 1 level." in said


def test_lines_with_equal_verdicts_share_a_sentence(sweep: FakeSweep) -> None:
    """Ten lines in two panels had eighteen sentences."""
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "magnitude_increase", [0.8, 0.85], spread=0.001)
    line(sweep, "movement", [0.89, 0.88], spread=0.001)
    line(sweep, "random", [0.9, 0.9], spread=0.001)
    label = {"movement": "movement, as in the paper"}
    one = sweep.analysis(baseline="large_final", equivalence=None, labels=label)
    assert {v.curve.name for v in one.verdicts if v.words(0.05) == ("below",)} == {
        *("magnitude_increase", "movement")
    }
    assert conclusions(one.verdicts, one.layout)[:2] == [
        "fc on digits: `movement, as in the paper`, magnitude_increase, each against large_final: "
        "below at 2 of 2 levels.",
        "fc on digits: random against large_final: undecided at 2 of 2 levels.",
    ]


def test_a_pair_of_lines_is_a_question_and_a_family_of_its_own(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.9])
    line(sweep, "movement", [0.89, 0.88], spread=0.001)
    line(sweep, "random", [0.85, 0.87], spread=0.002)
    one = sweep.analysis(
        baseline="large_final", tested=["movement"], pairs=[["movement", "random"]]
    )
    alone = sweep.analysis(baseline="large_final", tested=["movement"])
    assert [v.p_holm for v in one.verdicts] == [v.p_holm for v in alone.verdicts]
    pair = one.all_verdicts[len(one.verdicts) :]
    assert {(v.curve.name, v.baseline.name) for v in pair} == {("movement", "random")}
    expected = multipletests([v.comparison.p for v in pair], method="holm")[1]
    assert [v.p_holm for v in pair] == pytest.approx(expected)
    says = " ".join(caveats(one.all_verdicts, one.layout))
    assert "Holm within each panel (2 tests) and within each pair (2 tests)" in says


def test_a_pair_may_lie_in_two_panels_that_differ_by_one_option(sweep: FakeSweep) -> None:
    for model in ("fc", "conv2"):
        for to, level in (("0it", 0.9), ("2ep", 0.7)):
            choices = {"model": model, "mask_criterion": "large_final"}
            for seed in range(3):
                sweep.cell(
                    f"{model}-{to}",
                    seed,
                    accuracies=[0.9 + NOISE[seed], level + NOISE[seed + (to == "2ep")]],
                    choices=choices,
                    stages=[f"{model}-dense", f"{model}-{to}"],
                    reset__to=to,
                )
    panels = {"panels": ["model", "dataset", "reset.to"], "lines": ["mask_criterion"]}
    late = ["large_final @ reset.to=2ep", "large_final @ reset.to=0it"]
    one = sweep.analysis(**panels, pairs=[late])
    assert [(v.curve.panel, v.baseline.panel, v.point.level) for v in one.all_verdicts] == [
        (f"{model} on digits, reset.to=2ep", f"{model} on digits, reset.to=0it", 1)
        for model in ("fc", "conv2")
    ]
    assert [v.comparison.difference < -0.19 for v in one.all_verdicts] == [True, True]
    said = " ".join(one.test_sentences)
    assert "large_final against large_final of fc on digits, reset.to=0it: below at 1" in said
    # The areas of two panels go down to other densities.
    assert {v.endpoint for v in one.endpoint_verdicts} == {"peak", "sparsest_not_inferior"}
    assert sweep.analysis(**panels, pairs=[[late[0], "large_final"]]).all_verdicts == []
    with pytest.raises(ValueError, match="by `recipe.lr=1`; panels are split by"):
        _ = sweep.analysis(**panels, pairs=[[late[0], "large_final @ recipe.lr=1"]]).all_verdicts


def test_a_pair_that_is_a_line_and_its_baseline_is_tested_once(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9, 0.89])
    line(sweep, "random", [0.8, 0.7], spread=0.001)
    named = ["large_final", "random"]
    one = sweep.analysis(baseline="random", pairs=[named, named, named[::-1]])
    assert [(v.point.level, v.family) for v in one.all_verdicts] == [(1, "panel"), (2, "panel")]
    assert "large_final against random: above at 2 of 2 levels." in " ".join(one.test_sentences)
    assert [v.endpoint for v in one.endpoint_verdicts] == ["peak", "sparsest_not_inferior", "area"]
    one = sweep.analysis(pairs=[named, named, named[::-1]])
    assert [(v.point.level, v.family) for v in one.all_verdicts] == [(1, "pair"), (2, "pair")]
    assert {v.curve.name for v in one.all_verdicts} == {"large_final"}


def test_a_line_that_the_layout_expects_may_be_missing(sweep: FakeSweep) -> None:
    """If only a part of an experiment has run, the report shows that part."""
    line(sweep, "large_final", [0.9])
    line(sweep, "movement", [0.88], spread=0.001)
    expected = {"labels": {"random": "random mask"}, "pairs": [["random", "movement"]]}
    one = sweep.analysis(baseline="large_final", **expected)
    assert [(v.curve.name, v.baseline.name) for v in one.all_verdicts] == [
        ("movement", "large_final")
    ]
    with pytest.raises(ValueError, match="report.pairs: no line is called `randm`"):
        _ = sweep.analysis(pairs=[["randm", "movement"]]).all_verdicts


def test_lost_seeds_are_counted_beside_the_tests(sweep: FakeSweep) -> None:
    line(sweep, "large_final", [0.9])
    line(sweep, "movement", [0.89], seeds=4, spread=0.001)
    sweep.cell("movement", 4, accuracies=[0.898, None], choices={"mask_criterion": "movement"})
    one = sweep.analysis(baseline="large_final")
    (verdict,) = one.verdicts
    assert (verdict.comparison.n, verdict.comparison.asked) == ((4, 4), (5, 5))
    assert "1 of 1 tests lack seeds" in " ".join(caveats(one.verdicts, one.layout))


def test_two_seeds_against_more_are_counted_and_have_one_degree_of_freedom(
    sweep: FakeSweep,
) -> None:
    line(sweep, "large_final", [0.9])
    line(sweep, "movement", [0.9], seeds=2, spread=0.0001)
    (verdict,) = sweep.analysis(baseline="large_final").verdicts
    found = verdict.comparison
    error = (found.ci_high - found.difference) / 12.706  # the 97.5% quantile of one degree
    for errors, word in ((6.2, "undecided"), (6.4, "equivalent")):  # the 95% quantile is 6.314
        margin = abs(found.difference) + errors * error
        one = sweep.analysis(baseline="large_final", equivalence=margin)
        assert [verdict.words(0.05) for verdict in one.verdicts] == [(word,)]
    assert "1 of 1 tests compare a line of two seeds" in " ".join(caveats([verdict], one.layout))


def test_a_winning_ticket_is_not_inferior_to_dense_and_better_than_the_control(
    sweep: FakeSweep,
) -> None:
    line(sweep, "large_final", [0.9, 0.8], spread=0.0003)
    line(sweep, "random", [0.85, 0.7])
    one = sweep.analysis(control="random", margin=0.01)
    (curve,) = (each for each in one.curves if each.name == "large_final")
    won = winning(curve, one.controlled, one.layout)
    assert [won[point.stages] for point in curve.points if point.pruned] == [True, False]
    uncertain = [replace(verdict, p_holm=0.06) for verdict in one.controlled]
    assert not any(winning(curve, uncertain, one.layout).values()), "after Holm's correction"


def test_points_along_a_line_are_tested_against_those_of_the_same_setting(sweep: FakeSweep) -> None:
    for criterion, better in (("random", 0.0), ("large_final", 0.01)):
        for lr in (0.1, 0.2):
            for seed in range(3):
                sweep.cell(
                    f"{criterion}-{lr}",
                    seed,
                    accuracies=[0.9, 0.5 + lr + better + NOISE[seed] * (1 + better)],
                    choices={"mask_criterion": criterion},
                    recipe__lr=lr,
                )
    verdicts = sweep.analysis(along=["recipe.lr"], baseline="random").verdicts
    assert [v.point.at for v in verdicts] == [("recipe.lr=0.1",), ("recipe.lr=0.2",)]
    assert [round(v.comparison.difference, 3) for v in verdicts] == [0.01, 0.01]
