"""Endpoints of curves, compared with numbers that were worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep

from lt_sweeps.analysis.endpoint import Endpoint, crossing, endpoints, shared_density
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.config.report_config import layout

HALVES = [0.0, 0.5, 0.75]


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def found(sweep: FakeSweep, *, least: float = 25.0, **asked: Any) -> dict[str, Endpoint]:
    """Return the endpoints of the sweep's only curve."""
    how = layout(asked)
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), asked).values()
    (curve,) = one.curves
    return endpoints(curve, how, least=least)


def test_the_area_is_the_mean_accuracy_over_log_density(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, 0.8], sparsities=HALVES)
    # halves are equal steps of log density: (.9 + .9) / 2 and (.9 + .8) / 2, averaged
    assert found(sweep)["area"].values["0"] == pytest.approx(0.875)
    # down to 50 / √2 percent: half a step at .9 to .85 more
    assert found(sweep, least=50 / math.sqrt(2))["area"].values["0"] == pytest.approx(
        (0.9 * 1 + 0.5 * (0.9 + 0.85) / 2) / 1.5
    )


def test_the_sparsest_not_inferior_is_each_runs_own(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.9, 0.88], sparsities=HALVES)
    sweep.cell("a", 1, accuracies=[0.9, 0.86, 0.88], sparsities=HALVES)
    values = found(sweep, margin=0.02)["sparsest_not_inferior"].values
    assert values == pytest.approx({"0": 0.75, "1": 0.75})
    assert found(sweep, margin=0.0)["sparsest_not_inferior"].values["1"] == 0  # .86 and .88
    relative = found(sweep, margin="5%")["sparsest_not_inferior"].values  # .9 * .95 = .855
    assert relative["1"] == pytest.approx(0.75)


def test_the_sparsest_not_inferior_lies_where_the_line_between_two_points_leaves_the_margin(
    sweep: FakeSweep,
) -> None:
    """2 % below .90 is .882, which is .18 of the way from .90 to .80; for .89 to .79 it is .08."""
    sweep.cell("a", 0, accuracies=[0.9, 0.90, 0.80], sparsities=[0.0, 0.5, 0.75])
    sweep.cell("a", 1, accuracies=[0.9, 0.89, 0.79], sparsities=[0.0, 0.5, 0.75])
    found_at = found(sweep, margin="2%")["sparsest_not_inferior"]
    assert found_at.values == pytest.approx({"0": 0.5 + 0.18 * 0.25, "1": 0.5 + 0.08 * 0.25})
    # means .895 and .795: .13 of the way
    assert found_at.crossing is not None and not found_at.at_least
    assert found_at.sparsity == found_at.crossing.sparsity == pytest.approx(0.5 + 0.13 * 0.25)
    assert (found_at.crossing.inside, found_at.crossing.outside) == pytest.approx((0.5, 0.75))


def test_means_are_not_taken_in_by_the_lucky_point_of_one_seed(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.88, 0.90], sparsities=HALVES)
    sweep.cell("a", 1, accuracies=[0.9, 0.88, 0.80], sparsities=HALVES)
    found_at = found(sweep, margin="2%")["sparsest_not_inferior"]
    assert found_at.values["0"] == pytest.approx(0.75) and found_at.at_least
    # .882 lies nine tenths of the way from dense to the means' .88 at a half
    assert found_at.sparsity == found_at.values["1"] == pytest.approx(0.45)


def test_it_is_what_launch_results_interpolates_by_hand(sweep: FakeSweep) -> None:
    """CIFAR-10 at 16x16, two seeds, dense 49.4 and 50.3: magnitude pruning reaches 81 %."""
    sparsities = [0.0, 0.5, 0.7, 0.8, 0.9]
    sweep.cell("m", 0, accuracies=[0.494, 0.499, 0.493, 0.488, 0.461], sparsities=sparsities)
    sweep.cell("m", 1, accuracies=[0.503, 0.507, 0.499, 0.495, 0.467], sparsities=sparsities)
    found_at = found(sweep, least=10, margin="2%")["sparsest_not_inferior"]
    assert found_at.sparsity == pytest.approx(0.81, abs=0.005)


def test_a_worse_metric_is_worse_in_any_unit() -> None:
    """Tiny squared errors: 2e-10 for dense, up to 3e-10 is within the margin, and 4e-10 is not."""
    at = crossing([(0.0, -2e-10), (0.5, -4e-10)], least=-3e-10)
    assert at.sparsity == pytest.approx(0.25)


def test_a_loss_of_exactly_the_margin_is_not_shown_to_be_less(sweep: FakeSweep) -> None:
    """0.94 - 0.935 is 0.005, but as a float it is smaller in the last bit."""
    for seed in range(3):
        sweep.cell("a", seed, accuracies=[0.94, 0.935, 0.8], sparsities=HALVES)
    assert found(sweep, margin=0.005)["sparsest_tested"].sparsity == 0


@pytest.mark.parametrize(("seeds", "sparsity"), [(2, 0), (4, 0), (5, 0.5)])
def test_equal_seeds_are_shown_to_match_dense_only_from_five_seeds_on(
    sweep: FakeSweep, seeds: int, sparsity: float
) -> None:
    for seed in range(seeds):
        sweep.cell("a", seed, accuracies=[0.94, 0.939, 0.8], sparsities=HALVES)
    assert found(sweep, margin=0.005)["sparsest_tested"].sparsity == sparsity


def test_a_grid_that_ends_within_the_margin_gives_a_lower_bound(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, 0.89], sparsities=HALVES)
    found_at = found(sweep, margin="2%")["sparsest_not_inferior"]
    assert found_at.at_least and found_at.crossing is not None
    assert math.isnan(found_at.crossing.outside) and found_at.sparsity == pytest.approx(0.75)


def test_a_dense_network_alone_has_no_sparsity_to_keep(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9])
    found_at = found(sweep)["sparsest_not_inferior"]
    assert not found_at.values and found_at.crossing is None and math.isnan(found_at.sparsity)


def test_nothing_is_interpolated_towards_a_network_that_diverged(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, None], sparsities=HALVES)
    found_at = found(sweep, margin="2%")["sparsest_not_inferior"]
    assert found_at.values == pytest.approx({"0": 0.5}) and not found_at.at_least
    assert found_at.sparsity == pytest.approx(0.5)


def test_a_network_without_a_weight_ends_the_margin(sweep: FakeSweep) -> None:
    """Otherwise a line whose last network has no weights left would end within the margin."""
    sweep.cell("a", accuracies=[0.9, 0.9, 0.1], sparsities=[0.0, 0.5, 1.0])
    found_at = found(sweep, margin="2%")["sparsest_not_inferior"]
    assert not found_at.at_least
    assert found_at.sparsity == pytest.approx(0.5 + 0.5 * (0.9 - 0.882) / 0.8)


def test_the_peak_is_picked_by_validation_or_by_test(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.95, 0.6, 0.8], sparsities=HALVES, val=[0.95, 0.9, 0.5])
    assert found(sweep)["peak"].values["0"] == 0.6
    assert found(sweep, select="test")["peak"].values["0"] == 0.8  # dense is not a ticket


def test_a_level_that_lacks_seeds_is_compared_with_the_dense_networks_of_its_seeds(
    sweep: FakeSweep,
) -> None:
    """Only the five better seeds were pruned to 75 %, at a cost of two points."""
    for seed in range(10):
        dense = 0.92 if seed < 5 else 0.88
        lengths = {"a": 2, "longer": 3} if seed < 5 else {"a": 2}
        for name, levels in lengths.items():
            values = [dense, dense, dense - 0.02][:levels]
            stages = ["dense", "s1", "s2"]
            sweep.cell(name, seed, accuracies=values, sparsities=HALVES[:levels], stages=stages)
    ends = found(sweep, margin=0.005)
    at = ends["sparsest_not_inferior"].crossing
    assert at is not None and at.sparsity == pytest.approx(0.5 + 0.25 * 0.25)
    assert ends["sparsest_matching"].sparsity == ends["best_performing"].sparsity == 0.5


def test_areas_end_where_every_finished_run_has_arrived(sweep: FakeSweep) -> None:
    """A learned mask has another density in each run; the mean of them is beyond the densest."""
    for seed in range(3):
        ends: Any = {"accuracies": [0.9, 0.8], "sparsities": [0, 0.5 + 0.1 * seed]}
        sweep.cell("cs", seed, more={"target_sparsity": None}, **ends)
    sweep.cell("cs", 3, accuracies=[0.9], sparsities=[0], done=False)
    (one,) = sweep.analysis().endpoints
    assert set(one[1]["area"].values) == {"0", "1", "2"}
    assert one[1]["area"].sparsity == pytest.approx(0.5)


def test_a_run_that_lost_a_level_has_no_area_and_is_missing_from_n(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.9, 0.8], sparsities=HALVES)
    sweep.cell("a", 1, accuracies=[0.9, 0.9, None], sparsities=HALVES)
    assert set(found(sweep)["area"].values) == {"0"}


def test_matching_and_best_tickets_come_from_means_with_their_search_cost(sweep: FakeSweep) -> None:
    sparsities = [0.0, 0.2, 0.5, 0.75]
    sweep.cell("a", 0, accuracies=[0.90, 0.94, 0.91, 0.80], sparsities=sparsities)
    sweep.cell("a", 1, accuracies=[0.90, 0.92, 0.91, 0.99], sparsities=sparsities)
    ends = found(sweep)
    # means: dense .90, then .93, .91, .895
    assert ends["sparsest_matching"].sparsity == pytest.approx(0.5)
    assert ends["best_performing"].sparsity == pytest.approx(0.2)
    assert ends["sparsest_matching"].cost.chain == 4  # two levels before it, two epochs each
    assert ends["best_performing"].cost.chain == 2


def test_a_ticket_may_be_a_standard_error_of_dense_below_it(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.92, 0.93, 0.89, 0.875], sparsities=[0.0, 0.2, 0.5, 0.75])
    sweep.cell("a", 1, accuracies=[0.88, 0.93, 0.88, 0.875], sparsities=[0.0, 0.2, 0.5, 0.75])
    ends = found(sweep)
    # dense .90, whose standard error is .02 (.0283 / sqrt 2); then .93, .885, .875
    assert ends["sparsest_matching"].sparsity == pytest.approx(0.2)
    assert ends["sparsest_within_error"].sparsity == pytest.approx(0.5)


def test_a_ticket_that_is_as_good_as_dense_matches_it(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, 0.8], sparsities=HALVES)
    assert found(sweep)["sparsest_matching"].sparsity == pytest.approx(0.5)


def test_a_ticket_matches_dense_by_as_many_images_whatever_rounding_says(sweep: FakeSweep) -> None:
    """Both have 997 correct images over three seeds, but rounding makes one mean smaller."""
    for seed, (dense, pruned) in enumerate(zip((332, 332, 333), (327, 335, 335), strict=True)):
        sweep.cell("a", seed, accuracies=[dense / 360, pruned / 360, 0.8], sparsities=HALVES)
    assert found(sweep)["sparsest_matching"].sparsity == pytest.approx(0.5)


def test_a_single_seed_has_no_standard_error(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.95, 0.9], sparsities=HALVES)
    assert found(sweep)["sparsest_within_error"].ticket is None


def test_no_ticket_matches_a_better_dense_network(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8, 0.7], sparsities=HALVES)
    assert found(sweep)["sparsest_matching"].ticket is None


def test_a_search_over_several_runs_costs_their_sum_or_with_workers_the_longest(
    sweep: FakeSweep,
) -> None:
    for bias in (0, 1):
        sweep.cell(
            f"b{bias}",
            accuracies=[0.9, 0.95, 0.91],
            sparsities=[0.0, 0.5, 0.6 + 0.2 * bias],
            stages=["dense", f"round{bias}", f"ticket{bias}"],
            method__bias=bias,
        )
    cost = found(sweep, along=["method.bias"], least=50)["sparsest_matching"].cost
    assert (cost.chain, cost.sequential, cost.parallel) == (4, 6, 4)


def test_a_cost_is_the_exact_sum_in_whatever_order_its_trainings_come(sweep: FakeSweep) -> None:
    short = {"epochs": 0.1, "search_epochs": None, "seconds": 0.1}
    sweep.cell("a", accuracies=[0.9] * 11, more=short)
    cost = found(sweep)["sparsest_matching"].cost
    added = 0.0
    for _ in range(10):  # ten trainings lead to the ticket of level 10
        added += 0.1
    assert added != 1.0 == cost.chain
    assert cost.hours == 1.0 / 3600


def test_the_tested_sparsity_stops_at_the_first_level_that_is_not_shown(sweep: FakeSweep) -> None:
    for seed, wobble in enumerate((-0.001, 0.0, 0.001)):
        accuracies: list[float | None] = [0.9, 0.9 + wobble, 0.85 + wobble, 0.9 + wobble]
        sweep.cell("a", seed, accuracies=accuracies, sparsities=[0.0, 0.5, 0.75, 0.9])
    assert found(sweep, margin=0.01, least=10)["sparsest_tested"].sparsity == pytest.approx(0.5)
    # nine tenths is as good as a half, but behind a level that failed
    assert found(sweep, margin=0.1, least=10)["sparsest_tested"].sparsity == pytest.approx(0.9)


def test_a_line_that_is_not_pruned_yet_has_no_tested_sparsity(sweep: FakeSweep) -> None:
    for seed in range(3):
        sweep.cell("a", seed, accuracies=[0.9], done=False)
    assert math.isnan(found(sweep)["sparsest_tested"].sparsity)


def test_a_level_without_all_its_seeds_is_not_shown_to_be_as_good(sweep: FakeSweep) -> None:
    for seed in range(3):
        last = None if seed == 2 else 0.9 + 0.001 * seed
        sweep.cell("a", seed, accuracies=[0.9, last], sparsities=[0.0, 0.5])
    assert found(sweep, margin=0.05, least=50)["sparsest_tested"].sparsity == 0


def test_a_network_that_was_only_scored_is_nothing_to_be_as_good_as(sweep: FakeSweep) -> None:
    scored = {"more": {"kind": "score"}, "sparsities": HALVES}
    sweep.cell("mask", accuracies=[0.1, 0.8, 0.7], **scored)
    ends = found(sweep)
    assert not ends["sparsest_not_inferior"].values and ends["sparsest_matching"].ticket is None
    assert math.isnan(ends["sparsest_tested"].sparsity)
    assert ends["peak"].values == {"0": 0.8} and ends["best_performing"].sparsity == 0.5


def test_a_line_without_a_dense_network_of_its_own_is_measured_by_its_panels(
    sweep: FakeSweep,
) -> None:
    for seed in (0, 1):
        sweep.cell("d", seed, accuracies=[0.7], choices={"method": "dense"})
        sweep.cell(
            "mask",
            seed,
            accuracies=[0.1, 0.8 + 0.001 * seed, 0.6 + 0.001 * seed],
            sparsities=HALVES,
            stages=["guess", "m1", "m2"],
            more={"kind": "score"},
            choices={"method": "supermask"},
        )
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), {}).values()
    (ends,) = (ends for curve, ends in one.endpoints if len(curve.points) > 1)
    # a half is at .8 and .801, and the margin ends at .695 on the way to .2 less at three quarters
    expected = {"0": 0.5 + 0.25 * 0.105 / 0.2, "1": 0.5 + 0.25 * 0.106 / 0.2}
    assert ends["sparsest_not_inferior"].values == pytest.approx(expected)
    assert ends["sparsest_matching"].sparsity == pytest.approx(0.5)
    assert ends["sparsest_tested"].sparsity == pytest.approx(0.5)


def test_a_dense_line_in_the_panel_takes_no_area_from_the_others(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, 0.8], sparsities=HALVES)
    sweep.cell("d", accuracies=[0.9], choices={"method": "dense", "mask_criterion": None})
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), {}).values()
    areas = {curve.label: ends["area"] for curve, ends in one.endpoints}
    assert areas["imp"].values["0"] == pytest.approx(0.875) and not areas["dense"].values
    assert areas["imp"].sparsity == 0.75  # down to there


def test_a_level_without_a_weight_ends_the_area_of_a_panel_before_it(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.9, 0.1], sparsities=[0.0, 0.5, 1.0])
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), {}).values()
    ((curve, ends),) = one.endpoints
    assert shared_density([curve]) == 50
    assert ends["area"].values == pytest.approx({"0": 0.9})


def test_a_run_that_diverged_between_two_levels_has_no_area(sweep: FakeSweep) -> None:
    """Interpolating over the gap would give a failed run the score of a run that did not fail."""
    sweep.cell("a", accuracies=[0.9, None, 0.8], sparsities=HALVES)
    assert not found(sweep)["area"].values
    # densities that only some lines reach do not count
    sweep.cell("a", 1, accuracies=[0.9, 0.7, None], sparsities=HALVES)
    assert found(sweep, least=50)["area"].values == pytest.approx({"1": 0.8})


def test_a_line_that_was_pruned_further_is_not_sparser_for_that(sweep: FakeSweep) -> None:
    """Both match dense at all of their levels, so none is known to be sparser."""
    for seed in range(3):
        for name, length in (("short", 2), ("long", 3)):
            sweep.cell(
                name,
                seed,
                accuracies=[0.9 + seed / 1000, *[0.91 + seed / 1000] * (length - 1)],
                sparsities=HALVES[:length],
                choices={"mask_criterion": name},
            )
    asked = {"baseline": "short"}
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), asked).values()
    of_line = {curve.label: ends for curve, ends in one.endpoints}
    assert of_line["long"]["sparsest_not_inferior"].values == {"0": 0.75, "1": 0.75, "2": 0.75}
    (verdict,) = [v for v in one.endpoint_verdicts if v.endpoint == "sparsest_not_inferior"]
    assert verdict.comparison.difference == 0


def test_levels_that_one_line_alone_reached_do_not_change_a_test_of_sparsities(
    sweep: FakeSweep,
) -> None:
    """Up to three quarters both lines are equal: each run leaves the margin between two levels."""
    accuracies, sparsities = [0.9, 0.9, 0.8, 0.9], [0.0, 0.5, 0.75, 0.9]
    for seed in (0, 1):
        for name, levels in (("far", 4), ("near", 3)):
            sweep.cell(
                name,
                seed,
                accuracies=accuracies[:levels],
                sparsities=sparsities[:levels],
                choices={"mask_criterion": name},
            )
    one = sweep.analysis(baseline="near", margin=0.05)
    (verdict,) = [v for v in one.endpoint_verdicts if v.endpoint == "sparsest_not_inferior"]
    assert verdict.comparison.difference == 0
