"""The cost of finding a ticket, compared with values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.search_cost import makespan, ticket_cost
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.config.cells import Cell

Make = Callable[..., Cell]


def curve(folder: Path, **asked: Any) -> Curve:
    (found,) = analyses(read_results(folder, metrics=["test_accuracy"]), asked).values()
    (one,) = found.curves
    return one


@pytest.mark.parametrize(("workers", "end"), [(1, 15), (2, 8), (3, 7), (9, 7)])
def test_a_free_worker_takes_the_first_training_that_waits_for_none(workers: int, end: int) -> None:
    epochs = {"a": 3.0, "b": 2.0, "c": 4.0, "d": 4.0, "e": 2.0}
    after = {"a": (), "b": (), "c": ("a",), "d": ("b",), "e": ()}
    # two workers: a 0-3, b 0-2, d 2-6, c 3-7, e 6-8
    # three: e 0-2, d 2-6, c 3-7
    assert makespan(epochs, after, workers=workers) == end


def test_what_ends_at_one_moment_frees_all_its_workers_before_any_is_given_work() -> None:
    epochs = {"a": 1.0, "b": 1.0, "first": 5.0, "last": 1.0}
    after = {"a": (), "b": (), "first": ("b",), "last": ("a",)}
    assert makespan(epochs, after, workers=2) == 6


def test_an_unknown_length_makes_an_unknown_makespan() -> None:
    assert math.isnan(makespan({"a": math.nan}, {"a": ()}, workers=1))


def test_an_early_round_does_not_count_later_ones(cell: Make, swept: Callable[..., Path]) -> None:
    search = {
        "_target_": "lt_sweeps.plan.methods.continuous_sparsification",
        "rounds": 3,
        "protocol": "ticket",
        "restart": True,
    }
    cells = [cell(method={**search, "s0": s0}, recipe__length="2ep") for s0 in (0.0, 0.1, 0.2)]
    found = curve(swept(*cells), along=["method.s0"])
    for point in found.points[1:]:
        spent, rounds = ticket_cost(found, point, workers=2), point.level
        assert spent.chain == spent.parallel == 2 * rounds
        assert spent.sequential == 3 * 2 * rounds
        # two of the chains side by side, and the third after them
        assert spent.makespan == 2 * 2 * rounds
    assert {point.level for point in found.points} == {0, 1, 2, 3}


def test_levels_that_runs_share_are_searched_once(cell: Make, swept: Callable[..., Path]) -> None:
    found = curve(swept(*[cell(schedule__levels=levels) for levels in (1, 2, 3)]))
    spent = [ticket_cost(found, point, workers=1) for point in found.points if point.pruned]
    for rounds, each in enumerate(spent, start=1):  # of three epochs, the dense one the first
        assert each.chain == each.sequential == each.parallel == each.makespan == 3 * rounds
