"""The tables of tests and endpoints, as CSV files and in the terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep
from rich.console import Console
from scipy import stats

from lt_sweeps.analysis import audited_files, record_audit
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses
from lt_sweeps.reporting import csv_tables
from lt_sweeps.reporting.csv_tables import (
    endpoints_table,
    records_csv,
    records_table,
    verdicts_table,
)
from lt_sweeps.reporting.figures.captions import caption
from lt_sweeps.reporting.figures.figure import csv_bytes
from lt_sweeps.reporting.result_tables import accuracy_tables, print_tables
from lt_sweeps.reporting.terminal_tables import endpoint_tables, p_text, verdict_tables


@pytest.fixture
def found(tmp_path: Path) -> Analysis:
    """Two lines of four seeds; the second is a point worse, and loses a seed at its last level."""
    sweep = FakeSweep(tmp_path)
    for criterion, down in (("large_final", 0.0), ("random", 0.01)):
        for seed in range(4):
            last: Any = 0.88 - down + down * seed / 10
            if (criterion, seed) == ("random", 3):
                last = None
            sweep.cell(
                criterion,
                seed,
                accuracies=[0.9 + seed / 1000, 0.89 - down + down * seed / 10, last],
                stages=["dense", f"{criterion}-1", f"{criterion}-2"],
                choices={"mask_criterion": criterion},
            )
    asked = {"baseline": "large_final", "control": "large_final"}
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), asked).values()
    return one


def test_records_are_written_row_by_row_as_a_frame_would_write_them(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = csv_bytes(records_table(found.curves))
    monkeypatch.setattr(csv_tables.pd, "DataFrame", None)  # the function must not create one
    assert records_csv(found.curves) == whole
    assert records_csv([]).startswith(b"curve,format,experiment,")
    assert len(records_csv([]).splitlines()) == 1


def test_an_audit_lists_a_stage_once_and_makes_no_path_of_tickets_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building 65,000 paths, one per record, takes seconds, and so does looking for each file."""
    sweep = FakeSweep(tmp_path)
    for seed in range(5):
        sweep.cell("a", seed, accuracies=[0.9, 0.8, 0.7])
    listed: list[str] = []
    list_folder = audited_files._listed
    monkeypatch.setattr(
        audited_files, "_listed", lambda path: listed.append(path.name) or list_folder(path)
    )
    monkeypatch.setattr(record_audit, "ticket_path", None)
    assert (
        "4 not checked (headers, paths, metrics, seeds)"
        in record_audit.audited_cells(sweep.folder)[0]
    )
    assert listed == ["a-1", "a-2", "dense", "init"]


def test_a_row_of_tests_has_everything_that_is_needed_to_judge_the_test(found: Analysis) -> None:
    table = verdicts_table(found)
    assert table["level"].tolist() == [1, 2] and set(table["test"]) == {"paired t"}
    assert table["n"].tolist() == [4, 3] and table["n_asked"].tolist() == [4, 4]
    differences = [-0.01, -0.009, -0.008, -0.007]
    assert table["difference"][0] == pytest.approx(-0.0085)
    assert table["p"][0] == pytest.approx(stats.ttest_1samp(differences, 0.0)[1])
    assert table["p_exact"][0] == table["p_exact_least"][0] == 2 / 2**4
    assert table["p_holm"][0] == pytest.approx(max(2 * min(table["p"]), table["p"][0]))


def test_an_endpoint_is_compared_with_the_baselines_and_counts_its_runs(found: Analysis) -> None:
    table = endpoints_table(found).set_index(["line", "endpoint"])
    area = table.loc[("random", "area")]
    assert (area["n"], area["n_asked"]) == (3, 4)  # a run without its last level has no area
    assert area["test"] == "paired t" and area["difference"] < 0
    peak = table.loc[("random", "peak")]
    assert peak["difference"] == pytest.approx(-0.0085)
    assert math.isnan(table.loc[("large_final", "peak")]["difference"])


def test_the_sparsity_within_the_margin_is_printed_per_run_and_of_means(tmp_path: Path) -> None:
    """2 % below .90 is .882, which is .18 of the way from .90 to .80; for .89 to .79 it is .08."""
    sweep = FakeSweep(tmp_path)
    for seed, half in enumerate((0.90, 0.89)):
        sweep.cell("a", seed, accuracies=[0.9, half, half - 0.1], sparsities=[0.0, 0.5, 0.75])
    results = read_results(sweep.folder, metrics=["test_accuracy"])
    (one,) = analyses(results, {"margin": "2%"}).values()
    runs, _ = endpoint_tables(one)
    per_run, means = (next(iter(column.cells)) for column in runs.columns[1:3])
    assert "within 2% (relative) of dense" in str(runs.title)
    interval = stats.t.ppf(0.975, 1) * stats.sem([54.5, 52.0])
    assert per_run == f"53.25 ± {interval:.2f}" and means == "53.25\n(50.0 to 75.0)"
    row = endpoints_table(one).set_index("endpoint").loc["sparsest_not_inferior"]
    assert (row["inside"], row["outside"], row["at_least"]) == (0.5, 0.75, "no")
    assert (row["mean"], row["sparsity"]) == pytest.approx((0.5325, 0.5325))


def test_a_row_of_a_ticket_has_its_level_and_its_cost(found: Analysis) -> None:
    best = (
        endpoints_table(found)
        .set_index(["line", "endpoint"])
        .loc[("large_final", "best_performing")]
    )
    assert best["level"] == 1 and best["value"] == pytest.approx(0.89)
    assert best["search_epochs"] == 2  # the dense training
    assert best["search_hours"] * 3600 == pytest.approx(0.5)


def test_a_p_value_has_few_digits_and_is_a_bound_below_0_001() -> None:
    assert [p_text(p) for p in (0.0342, 0.0004, math.nan)] == ["0.034", "<0.001", "-"]
    assert p_text(0.0625, digits=4) == "0.0625"


def test_options_have_the_names_of_this_sweep_even_in_records_of_other_sweeps(
    tmp_path: Path,
) -> None:
    """Two sweeps share a cell if options of two names have the same content."""
    sweep = FakeSweep(tmp_path)
    chosen = {"mask_criterion": "mine"}
    sweep.cell("a", accuracies=[0.9, 0.8], choices=chosen, more={"criterion": "theirs"})
    (one,) = analyses(read_results(sweep.folder, metrics=[]), {}).values()
    assert set(records_table(one.curves)["criterion"]) == {"mine"}
    assert set(csv_tables.summary_table(one.curves)["criterion"]) == {"mine"}


def test_a_ticket_is_not_picked_where_a_seed_diverged_and_says_which_seeds_are_missing(
    tmp_path: Path,
) -> None:
    """The mean without the diverged seeds may be the highest of all."""
    sweep = FakeSweep(tmp_path)
    sweep.cell("a", 0, accuracies=[0.9, 0.91, 0.95, 0.89])
    sweep.cell("a", 1, accuracies=[0.8, 0.81, None])
    (one,) = analyses(read_results(sweep.folder, metrics=[]), {}).values()
    _, tickets = endpoint_tables(one)
    shown = dict(zip(tickets.columns[1].cells, tickets.columns[3].cells, strict=True))
    # 89 is below 90, the dense network of its seed, if not below 85, the mean of both.
    assert shown["best"] == "86.00" and shown["matching"] == "86.00"
    assert shown["within 1 SE"] == "89.00\n1 of 2 seeds"


def test_seeds_that_are_missing_are_counted_on_their_side(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for name, seeds in (("large_final", 3), ("random", 4)):
        for seed in range(seeds):
            value = None if (name, seed) == ("random", 3) else 0.8 + 0.01 * seed
            sweep.cell(name, seed, accuracies=[0.9, value], choices={"mask_criterion": name})
    (one,) = analyses(read_results(sweep.folder, metrics=[]), {"baseline": "random"}).values()
    (table,) = verdict_tables(one)
    assert "with 95% intervals" in str(table.title)
    assert list(table.columns[-1].cells) == ["3, 3 of 4"]


def test_a_narrow_terminal_has_more_tables_and_breaks_no_number(found: Analysis) -> None:
    tables = [*endpoint_tables(found), *verdict_tables(found)]
    words = {str(cell) for table in tables for column in table.columns for cell in column.cells}
    console = Console(file=io.StringIO(), record=True, width=80)
    print_tables(console, tables)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(line in text for cell in words for line in cell.split("\n"))
    assert text.count("random minus large_final") == 1  # several tables under one title
    assert text.count("% left") == 2


def test_long_names_leave_room_for_the_numbers_beside_them(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    usual = {"recipe__lr": 0.1, "recipe__momentum": 0.9, "recipe__decay": 1e-4, "model__width": 8}
    varied = [{}, {"recipe__lr": 0.3}, {"recipe__decay": 0}, {"model__width": 16}]
    varied.append({"recipe__momentum": 0})
    for n, own in enumerate(varied):
        for seed in (0, 1):
            sweep.cell(f"c{n}", seed, accuracies=[0.9, 0.89 + 0.01 * seed], **{**usual, **own})
    found = sweep.analysis()
    assert [curve.label for curve in found.curves[1:]] == [
        *("lr=0.3", "decay=0", "width=16", "momentum=0"),
    ]
    console = Console(file=io.StringIO(), record=True, width=60)
    tables = list(endpoint_tables(found))
    words = {str(cell) for table in tables for column in table.columns for cell in column.cells}
    print_tables(console, tables)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 60
    assert all(line in text for cell in words for line in cell.split("\n"))
    assert "lr=0.1 momentum=0.9" in text  # a line without a setting of its own has all of them
    assert "Names of lines omit what most of them share: model.width=8, recipe.lr" in caption(found)


def test_a_name_of_several_words_is_as_wide_as_the_numbers_below_it(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for seed in (0, 1):
        sweep.cell("a", seed, accuracies=[0.9, 0.8 + 0.01 * seed])
    one = sweep.analysis(
        labels={"large_final": "reshuffle, init sign, and a long_word_of_25_letters"}
    )
    (table,) = accuracy_tables(one.curves, title="t", band="range", speeds={})
    head = str(table.columns[2].header)
    assert head == "reshuffle, init\nsign, and a\nlong_word_of_25_letters\n2 seeds"


def test_lines_at_the_same_percentage_share_a_row_even_at_different_levels(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for method, sparsities in (("gmp", [0.0, 0.75]), ("imp", [0.0, 0.5, 0.75, 0.75])):
        sweep.cell(
            method,
            accuracies=[0.9] * len(sparsities),
            sparsities=sparsities,
            choices={"method": method},
        )
    (one,) = analyses(read_results(sweep.folder, metrics=["test_accuracy"]), {}).values()
    (table,) = accuracy_tables(one.curves, title="t", band="range", speeds={})
    left, level, gmp, _ = ([str(cell) for cell in column.cells] for column in table.columns)
    # The second level of imp at 25 % prunes nothing, and keeps a row of its own.
    assert list(zip(left, level, strict=True)) == [
        ("100", "0"),
        ("50.0", "1"),
        ("25.0", "1, 2"),
        ("25.0", "3"),
    ]
    assert gmp == ["90.00", "-", "90.00", "-"]
