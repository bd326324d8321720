"""A report's contents, compared with numbers that can be worked out by hand."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fixtures.fake_results import FakeSweep
from rich.console import Console
from scipy import stats

from lt_sweeps.analysis.curve import Point
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.config.quantities import TEST_ACCURACY, Quantity
from lt_sweeps.reporting.figures import draw_figures
from lt_sweeps.reporting.figures.axes import y_limits
from lt_sweeps.reporting.figures.style import LOOKS
from lt_sweeps.reporting.result_tables import accuracy_tables
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.storage import manifest
from lt_sweeps.storage.pack_profile import PackProfile


def _run(where: Path, **options: Any) -> tuple[str, Any]:
    """Return the terminal's text and summary.csv; warnings are errors, also while drawing."""
    console = Console(width=160, record=True, file=io.StringIO())
    folder = report(where, console=console, **{"figures": [], **options})
    assert (folder / "records.csv").exists()
    return console.export_text(), pd.read_csv(folder / "summary.csv")


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def test_a_profile_of_time_is_in_the_terminal_and_on_the_page(
    sweep: FakeSweep,
) -> None:
    sweep.cell("a", 0, accuracies=[0.5, 0.9])
    assert "profile of" not in _run(sweep.folder)[0]
    logs = sweep.folder / "logs"
    logs.mkdir()
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        profile = PackProfile({"forward": seconds}, steps=10, stack_size=2, device="cpu")
        (logs / f"{name}.profile.json").write_text(json.dumps(vars(profile)))
    text, page = _run(sweep.folder)[0], (sweep.folder / "report" / "index.html").read_text()
    for shown in (" ".join(text.split()), page):
        assert "profile of 2 packs, 40 replicate-steps" in shown and "3.00" in shown


def test_statistics_over_seeds_agree_with_hand_and_scipy(sweep: FakeSweep) -> None:
    values = [0.90, 0.92, 0.94, 0.96, 0.98]
    for seed, value in enumerate(values):
        sweep.cell("a", seed, accuracies=[0.5, value])
    text, summary = _run(sweep.folder)
    point = summary.iloc[1]
    assert (point["n"], point["n_finite"], point["n_collapsed"]) == (5, 5, 0)
    assert point["mean"] == pytest.approx(0.94)
    assert (point["min"], point["max"]) == (0.90, 0.98)
    assert point["sd"] == pytest.approx(
        math.sqrt(0.004 / 4)
    )  # .04² + .02² + .02² + .04² over n - 1
    expected = stats.t.interval(0.95, 4, loc=0.94, scale=stats.sem(values))
    assert (point["ci_low"], point["ci_high"]) == pytest.approx(expected)
    assert point["percent_remaining"] == 80 and point["sparsity"] == pytest.approx(0.2)
    assert "94.00 [90.00, 98.00]" in text and "5 seeds" in text


def test_both_sparsities_and_dense_resources_are_columns_if_the_records_have_them(
    sweep: FakeSweep,
) -> None:
    more = {"sparsity_total": 0.15, "dense_resources": False}
    sweep.cell("a", accuracies=[0.9, 0.8], more=more)
    unknown = {"sparsity_total": None, "dense_resources": None}
    sweep.cell("b", accuracies=[0.9, 0.8], more=unknown, choices={"mask_criterion": "movement"})
    text, summary = _run(sweep.folder)
    new, old = (summary[summary["level"] == 1].iloc[i] for i in (0, 1))
    assert (new["sparsity_total"], new["dense_resources"]) == (pytest.approx(0.15), "no")
    assert pd.isna(old["sparsity_total"]) and pd.isna(old["dense_resources"])
    assert text.count("never dense") == 1


def test_the_band_is_the_one_asked_for(sweep: FakeSweep) -> None:
    for seed, value in enumerate([0.90, 0.92]):
        sweep.cell("a", seed, accuracies=[value])
    assert "91.00 [90.00, 92.00]" in _run(sweep.folder)[0]
    assert "91.00 ± 1.41" in _run(sweep.folder, band="sd")[0]  # √2 · 1
    assert "91.00 ± 12.71" in _run(sweep.folder, band="ci")[0]  # t(.975, 1) = 12.706, times 1


def test_a_diverged_replicate_is_counted_and_left_out_of_the_mean(sweep: FakeSweep) -> None:
    for seed, value in enumerate([0.8, 0.9, None]):
        sweep.cell("a", seed, accuracies=[0.9, value])
    text, summary = _run(sweep.folder)
    assert summary["n"][1] == 3 and summary["n_finite"][1] == 2
    assert summary["mean"][1] == pytest.approx(0.85)
    assert "2 of 3 finite" in text


def test_a_point_without_a_finite_replicate_is_shown_as_such(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, None])
    assert "none finite" in _run(sweep.folder)[0]


def test_a_collapsed_replicate_is_counted_and_kept_in_the_mean(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.9])
    sweep.cell("a", 1, accuracies=[0.9, 0.1], collapsed={1})
    text, summary = _run(sweep.folder)
    assert summary["n_collapsed"].tolist() == [0, 1]
    assert summary["mean"][1] == pytest.approx(0.5)
    assert "1 of 2 collapsed" in text


def test_cells_that_differ_in_length_alone_are_one_curve_and_share_their_tickets(
    sweep: FakeSweep,
) -> None:
    stages = ["dense", "s1", "s2"]
    sweep.cell("short", accuracies=[0.9, 0.8], stages=stages)
    sweep.cell("long", accuracies=[0.9, 0.8, 0.7], stages=stages)
    _, summary = _run(sweep.folder)
    assert summary["level"].tolist() == [0, 1, 2]
    assert summary["n"].tolist() == [1, 1, 1]
    records = pd.read_csv(sweep.folder / "report" / "records.csv")
    assert len(records) == 5 and records["repeats"].tolist().count(True) == 2


def test_a_one_shot_multirun_is_one_curve(sweep: FakeSweep) -> None:
    for seed in (0, 1):
        for sparsity in (0.5, 0.9):
            sweep.cell(
                f"s{sparsity}",
                seed,
                accuracies=[0.9, 1 - sparsity],
                sparsities=[0, sparsity],
                schedule__sparsity=sparsity,
            )
    _, summary = _run(sweep.folder)
    assert summary["curve"].nunique() == 1
    assert summary["percent_remaining"].tolist() == [100, 50, 10]
    assert summary["n"].tolist() == [2, 2, 2]


def test_schedules_that_disagree_where_they_overlap_are_two_curves(sweep: FakeSweep) -> None:
    sweep.cell("slow", accuracies=[0.9, 0.8, 0.7], schedule__rate=0.2)
    sweep.cell("fast", accuracies=[0.9, 0.8, 0.7], sparsities=[0, 0.5, 0.75], schedule__rate=0.5)
    _, summary = _run(sweep.folder)
    assert set(summary["curve"]) == {"rate=0.2", "rate=0.5"}


def test_two_versions_of_one_config_are_never_pooled(sweep: FakeSweep) -> None:
    sweep.cell("old", accuracies=[0.9, 0.8])
    sweep.cell("new", accuracies=[0.9, 0.7])
    _, summary = _run(sweep.folder)
    assert set(summary["curve"]) == {"large_final old", "large_final new"}
    assert set(summary["n"]) == {1}


def test_seeds_that_were_trained_otherwise_are_never_pooled(sweep: FakeSweep) -> None:
    """Their code or schedule was changed before more seeds were added; no cell repeats a seed."""
    for seed in range(4):
        stages = ["dense", "before" if seed < 3 else "after"]
        sweep.cell(stages[1], seed, accuracies=[0.9, 0.8 - 0.1 * seed], stages=stages)
        scope = "global" if seed < 3 else "layer"
        choices = {"mask_criterion": "random"}
        stages = ["dense", scope]
        sweep.cell(
            scope,
            seed,
            accuracies=[0.9, 0.7],
            stages=stages,
            choices=choices,
            schedule__scope=scope,
        )
    _, summary = _run(sweep.folder)
    assert set(summary["curve"]) == {
        *("large_final before", "large_final after"),
        *("random scope=global", "random scope=layer"),
    }
    assert sorted(set(summary["n"])) == [1, 3]


def test_equal_settings_are_one_line_however_they_are_typed(sweep: FakeSweep) -> None:
    stages = ["dense", "pruned"]
    sweep.cell("a", 0, accuracies=[0.9, 0.8], stages=stages, recipe__lr=1)
    sweep.cell("a", 1, accuracies=[0.9, 0.8], stages=stages, recipe__lr=1.0)
    _, summary = _run(sweep.folder)
    assert summary["n"].tolist() == [2, 2]


def test_a_shared_dense_network_has_the_seeds_of_all_its_points(sweep: FakeSweep) -> None:
    for seed in range(5):
        bias = 0.1 if seed < 3 else 0.2
        sweep.cell(
            f"b{bias}",
            seed,
            accuracies=[0.9 if seed < 3 else 0.8, 0.7],
            sparsities=[0, bias],
            stages=["dense", f"s{bias}"],
            method__bias=bias,
        )
    (line,) = sweep.analysis(along=["method.bias"]).curves
    assert [point.n for point in line.points] == [5, 3, 2]
    assert line.points[0].mean == pytest.approx((3 * 0.9 + 2 * 0.8) / 5)


def test_a_label_says_what_differs_options_first(sweep: FakeSweep) -> None:
    for criterion in ("movement", "random"):
        for lr in (0.1, 0.2):
            sweep.cell(
                f"{criterion}{lr}",
                accuracies=[0.9, 0.8],
                choices={"mask_criterion": criterion},
                recipe__lr=lr,
            )
    _, summary = _run(sweep.folder)
    assert list(dict.fromkeys(summary["curve"])) == [
        "movement lr=0.1",
        "movement lr=0.2",
        "random lr=0.1",
        "random lr=0.2",
    ]


def test_a_setting_that_its_option_implies_is_not_in_the_label(sweep: FakeSweep) -> None:
    for criterion in ("movement", "random"):
        sweep.cell(criterion, accuracies=[0.9], choices={"mask_criterion": criterion})
    assert set(_run(sweep.folder)[1]["curve"]) == {"movement", "random"}


def test_each_model_has_its_own_panel_and_its_own_sparsities(sweep: FakeSweep) -> None:
    for model, sparsity in (("fc", 0.2), ("conv4", 0.19)):
        sweep.cell(model, accuracies=[0.9, 0.8], sparsities=[0, sparsity], choices={"model": model})
    text, summary = _run(sweep.folder)
    assert "fc on digits" in text and "conv4 on digits" in text
    assert summary["percent_remaining"].tolist() == [100, 80, 100, 81]


def test_the_tables_of_endpoints_say_once_what_each_column_answers(sweep: FakeSweep) -> None:
    for model in ("fc", "conv4"):
        sweep.cell(model, accuracies=[0.9, 0.8], choices={"model": model})
    text = " ".join(_run(sweep.folder)[0].split())
    assert text.count("with margin=2%, next to the response to arXiv:1912.04427") == 1
    assert text.count("lead up to a ticket; its own training comes on top") == 1


def test_the_terminal_says_up_to_which_sparsity_a_line_matches_dense(
    sweep: FakeSweep,
) -> None:
    for seed in range(3):
        for criterion, drop in (("movement", 0), ("random", 0.1)):
            accuracies = [0.9, 0.9 - drop + seed / 1000, 0.5]
            chosen = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=accuracies, choices=chosen)
    text = " ".join(_run(sweep.folder)[0].split())
    assert "Not inferior to dense by 0.5 points" in text
    assert "down to these weights remaining: movement 80%, random at no level." in text


def test_an_unfinished_sweep_is_reported_as_far_as_it_goes_and_says_so(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.8])
    sweep.cell("a", 1, accuracies=[0.9], done=False)
    sweep.cell("a", 2)
    text, summary = _run(sweep.folder)
    assert "2 of 3 cells unfinished" in text
    assert summary["n"].tolist() == [2, 1]
    assert "1 of 3 seeds" in text


def test_a_level_that_no_seed_has_reached_is_marked(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8], choices={"mask_criterion": "movement"})
    sweep.cell("b", accuracies=[0.9], done=False)
    assert "not yet" in _run(sweep.folder)[0]


def test_a_sweep_that_has_not_started_is_reported_and_an_empty_root_is_not(
    sweep: FakeSweep, tmp_path: Path
) -> None:
    sweep.cell("a")
    text, summary = _run(sweep.folder)
    assert "1 of 1 cells unfinished" in text and "no records yet" in text
    assert summary.empty
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="report: `.*empty` has no cell yet; give a sweep"):
        _run(empty)
    assert not [*empty.iterdir()]


def test_a_sweep_whose_manifest_names_its_lines_is_reported_before_its_first_record(
    sweep: FakeSweep,
) -> None:
    for criterion in ("movement", "random"):
        chosen = {"mask_criterion": criterion}
        shutil.rmtree(sweep.cell(criterion, accuracies=[0.9, 0.8], choices=chosen))
    text, _ = _run(sweep.folder)
    assert "2 of 2 cells unfinished" in text and "random" in text
    assert "2 cells, 1 seed, 0 stages" in (sweep.folder / "report" / "index.html").read_text()


def test_a_root_is_the_runs_of_all_its_sweeps(tmp_path: Path) -> None:
    for name, criterion in (("one", "movement"), ("two", "random")):
        FakeSweep(tmp_path, name).cell(
            criterion, accuracies=[0.9], choices={"mask_criterion": criterion}
        )
    _, summary = _run(tmp_path)
    assert summary["curve"].tolist() == ["movement", "random"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"cell": "a", "se', "not valid JSON"),
        ("[1]", "a JSON list"),
        ("", "not valid JSON"),
        ("level: null", "`level` is None"),
        ("test_accuracy: null", "`test_accuracy` is null though `finite` is true"),
        ("test_accuracy: 97.2", "it lies in [0, 1]"),
        ("seed: '7'", "its folder says otherwise"),
        ("stage:", "no stage"),
    ],
)
def test_a_corrupt_record_stops_the_report_and_is_named(
    sweep: FakeSweep, line: str, fault: str
) -> None:
    path = sweep.cell("a", accuracies=[0.9, 0.8]) / "records.jsonl"
    first, second, _ = path.read_text().split("\n")
    if line.endswith(":"):
        row = json.loads(second)
        del row[line[:-1]]
        line = json.dumps(row)
    elif ": " in line and not line.startswith("{"):
        line = json.dumps(json.loads(second) | yaml.safe_load(line))
    path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(ValueError) as error:
        report(sweep.folder)
    assert f"{path}:2: " in str(error.value) and fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_half_written_last_line_is_left_out_only_while_the_cell_runs(sweep: FakeSweep) -> None:
    folder = sweep.cell("a", accuracies=[0.9, 0.8], done=False)
    path = folder / "records.jsonl"
    path.write_text(path.read_text()[:-40])
    text, summary = _run(sweep.folder)
    assert "records.jsonl:2: half-written" in text.replace("\n", "")
    assert summary["level"].tolist() == [0]
    (folder / "DONE").touch()
    with pytest.raises(ValueError, match=r"records\.jsonl:2: not valid JSON"):
        report(sweep.folder)


def test_a_wrong_request_is_refused_with_what_is_allowed(sweep: FakeSweep, tmp_path: Path) -> None:
    sweep.cell("a", accuracies=[0.9])
    with pytest.raises(ValueError, match="report.band: got 'iqr'; give one of range, sd, ci"):
        report(sweep.folder, band="iqr")
    with pytest.raises(ValueError, match="got 'accuracy'; did you mean `test_accuracy`"):
        report(sweep.folder, metrics=["accuracy"])
    with pytest.raises(ValueError, match="report.metrics: got 'acc'.*give one of"):
        report(sweep.folder, metrics=["acc"])
    with pytest.raises(ValueError, match=r"manifest\.json.*runs/"):
        report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="report.margin: got 5; test accuracy is a fraction"):
        report(sweep.folder, margin=5)
    (tmp_path / "afile").touch()
    with pytest.raises(ValueError, match="out: .*afile: .*; give out=DIR, a folder that can be w"):
        report(sweep.folder, out=tmp_path / "afile")


def test_the_page_to_open_is_named_by_its_path_from_the_current_folder(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8])
    monkeypatch.chdir(sweep.folder.parent)
    text, _ = _run(sweep.folder)
    assert f"open {sweep.folder.name}/report/index.html (" in text


def test_the_axis_leaves_out_a_collapsed_curve_but_holds_the_best_one_whole() -> None:
    good, bad = _line(0.98, 0.98, 0.98, 0.96), _line(0.98, 0.97, 0.11, 0.11)
    low, high = y_limits([good, good, bad], "range", TEST_ACCURACY)
    assert 0.85 < low < 0.96 and 0.98 < high < 1
    low, _ = y_limits([bad], "range", TEST_ACCURACY)
    assert low < 0.11


def test_an_axis_without_an_end_leaves_out_the_points_that_diverged() -> None:
    # Both lines diverge at the last level, so that even the best one leaves the panel.
    good, bad = _line(0.5, 0.52, 0.5, 0.45, -3e5), _line(0.5, 0.48, 0.4, -9.0, -1e6)
    low, high = y_limits([good, bad], "range", Quantity.of("test_r2"))
    assert -0.5 < low < 0.4 and 0.52 < high < 1
    # Perplexity is better low: its axis is cut at the top.
    good, bad = _line(20, 21, 22, 25, 4e4), _line(20, 22, 30, 5e3, 1e5)
    low, high = y_limits([good, bad], "range", Quantity.of("test_perplexity"))
    assert 15 < low < 20 and 30 < high < 60
    # Nothing diverges: the whole line is shown. A count of steps is never cut.
    falling = _line(0.5, 0.45, 0.4, 0.3, 0.1, -0.2)
    assert y_limits([falling], "range", Quantity.of("test_r2"))[0] < -0.2
    steps = _line(10, 10, 10, 10, 10, 9000)
    assert y_limits([steps], "range", Quantity.of("best_step"))[1] > 9000
    assert y_limits([_line(60, 60)], "range", Quantity.of("best_step")) == (57, 63)


def _line(*means: float) -> list[Point]:
    nan = math.nan
    return [
        Point(i, None, 100 * 0.5**i, 1, 1, 0, m, m, m, nan, nan, nan, frozenset())
        for i, m in enumerate(means)
    ]


def test_another_metric_has_its_own_figure_in_its_own_unit(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9])
    text, summary = _run(sweep.folder, metrics=["val_loss"], figures=["curves"])
    assert summary["mean"][0] == pytest.approx(0.1) and "0.1000" in text
    assert (sweep.folder / "report" / "val_loss.png").exists()


def test_the_report_needs_no_torch(sweep: FakeSweep) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8])
    code = (
        "import sys; from pathlib import Path\n"
        "from lt_sweeps.reporting.sweep_report import report\n"
        "report(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep.folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    png = (sweep.folder / "report" / "accuracy.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_a_report_reads_the_files_of_each_run_once(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        sweep.cell("a", seed, accuracies=[0.9, 0.8])
    opened: Counter[str] = Counter()
    real = os.open

    def counted(path: Any, *rest: Any, **options: Any) -> int:
        opened[str(path)] += 1
        return real(path, *rest, **options)

    parsed = manifest._parsed.cache_info().misses
    monkeypatch.setattr(os, "open", counted)
    _run(sweep.folder, metrics=["test_accuracy", "val_loss"])
    runs = {path: count for path, count in opened.items() if "/runs/" in path}
    names = Counter(Path(path).name for path in runs)
    assert names == {"records.jsonl": 3, "config.yaml": 3, "DONE": 3}
    assert all(count == 1 for path, count in runs.items() if not path.endswith("DONE"))
    assert manifest._parsed.cache_info().misses == parsed + 1


def test_lines_beyond_those_that_can_be_told_apart_are_not_drawn_and_the_caption_says_so(
    sweep: FakeSweep,
) -> None:
    for line in range(LOOKS + 2):
        choices = {"mask_criterion": f"criterion{line:02}"}
        sweep.cell(f"{line}", accuracies=[0.9, 0.8 - line / 1e3], choices=choices, freeze=False)
    sweep.freeze()
    results = read_results(sweep.folder, metrics=["test_accuracy"])
    (figure,), _ = draw_figures(analyses(results, {"figures": ["by_sparsity"]})[""])
    assert f"Only the first {LOOKS} lines of each panel are drawn" in figure.caption
    assert figure.data["line"].nunique() == LOOKS + 2
    (legend,) = figure.draw().legends
    assert len(legend.get_texts()) == LOOKS + 1, "and one for the dense network"


def test_a_report_in_the_folder_of_a_cell_does_not_count_as_a_seed(sweep: FakeSweep) -> None:
    cell = sweep.cell("a", accuracies=[0.9, 0.8]).parent
    first, again = (_run(where)[0] for where in (cell, cell))
    assert first == again and "unfinished" not in _run(sweep.root)[0]


@pytest.mark.parametrize("name", ["0~", "0.bak", "copy of 0", ".nfs0123"])
def test_a_backup_of_a_run_is_left_out_of_a_root_with_a_note(tmp_path: Path, name: str) -> None:
    run = FakeSweep(tmp_path).cell("0123456789abcdef", accuracies=[0.9, 0.8])
    text, summary = _run(tmp_path)
    for copy in (run.with_name(name), run.parent.with_name(f"{run.parent.name}_old") / "0"):
        shutil.copytree(run, copy)
    (tmp_path / "runs" / ".DS_Store").touch()
    again, after = _run(tmp_path)
    assert after.equals(summary) and "left out 2 folders" in again and "left out" not in text
    assert "says otherwise" not in again


def test_points_of_a_line_at_one_density_all_stand_in_its_table(sweep: FakeSweep) -> None:
    for lr in (0.1, 0.2):
        sweep.cell(
            f"lr{lr}", accuracies=[0.9, 0.8 + lr / 10], stages=["dense", f"lr{lr}"], recipe__lr=lr
        )
    text, summary = _run(sweep.folder, along=["recipe.lr"])
    assert summary["mean"].round(4).tolist().count(0.81) == 1
    for shown in ("81.00", "82.00", "recipe.lr=0.1", "recipe.lr=0.2"):
        assert shown in text


def test_targets_that_are_written_alike_have_a_row_each(sweep: FakeSweep) -> None:
    for sparsity, accuracy in ((0.8, 0.83), (0.8002, 0.82)):
        sweep.cell(
            f"s{sparsity}",
            accuracies=[0.9, accuracy],
            sparsities=[0.0, sparsity],
            stages=["dense", f"s{sparsity}"],
        )
    (one,) = analyses(read_results(sweep.folder, metrics=[]), {}).values()
    (curve,) = one.curves
    points = [replace(p, percent=100 - 100 * (p.target_sparsity or 0)) for p in curve.points]
    tables = accuracy_tables(
        [replace(curve, points=tuple(points))], title="", band="range", speeds={}
    )
    left, _, means = ([*column.cells] for column in next(iter(tables)).columns)
    assert left == ["100", "20", "19.98"]  # and not 20.0 twice
    assert [str(text) for text in means] == ["90.00", "83.00", "82.00"]
