"""Figures: what they plot, their layout, and the contents of their captions and files."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep
from matplotlib.colors import to_rgb
from rich.console import Console

from lt_sweeps.reporting.figures import draw_figures, layer_survival, mask_overlap, training_costs
from lt_sweeps.reporting.figures.accuracy_curves import metric_figures
from lt_sweeps.reporting.figures.axes import tick_text
from lt_sweeps.reporting.figures.captions import marker_sentence, not_inferior_sentence
from lt_sweeps.reporting.figures.curve_panel import MARKS
from lt_sweeps.reporting.figures.endpoint_dots import endpoint_figures
from lt_sweeps.reporting.figures.figure import figure_files
from lt_sweeps.reporting.figures.profile_bars import profile_figures
from lt_sweeps.reporting.figures.style import (
    COLUMN,
    LOOKS,
    MARKERS,
    PAGE,
    legend_entry,
    line_styles,
    new_sheet,
)
from lt_sweeps.reporting.figures.training_costs import cost_figures
from lt_sweeps.reporting.figures.worth import all_alike, capped, one_point
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.reporting.terminal_tables import endpoint_tables
from lt_sweeps.storage.pack_profile import PackProfile


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    return FakeSweep(tmp_path)


def criteria(sweep: FakeSweep, *names: str, seeds: int = 2, **more: Any) -> None:
    for number, name in enumerate(names):
        for seed in range(seeds):
            sweep.cell(
                f"{name}{len(more)}",
                seed,
                accuracies=[0.9, 0.8 - 0.1 * number + 0.01 * seed],
                choices={"mask_criterion": name, **more.get("choices", {})},
            )


def plotted(sweep: FakeSweep, **asked: Any) -> pd.DataFrame:
    return metric_figures(sweep.analysis(**asked))[0].data


def test_the_csv_holds_what_is_drawn(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final")
    data = plotted(sweep)
    last = data.iloc[-1]
    assert (last["mean"], last["low"], last["high"], last["n"]) == pytest.approx(
        (0.805, 0.8, 0.81, 2)
    )
    assert last["percent_remaining"] == 80


def test_lines_are_split_named_and_ordered_as_the_layout_says(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final", "random")
    labels = {"random": "a random mask", "large_final": "large final"}
    data = plotted(sweep, lines=["mask_criterion"], labels=labels)
    assert list(dict.fromkeys(data["line"])) == ["a random mask", "large final"]


def test_two_curves_of_one_name_are_refused_with_what_differs(sweep: FakeSweep) -> None:
    for lr in (0.1, 0.2):
        sweep.cell(f"lr{lr}", accuracies=[0.9, 0.8], recipe__lr=lr)
    with pytest.raises(ValueError, match=r"all called `large_final`; they differ in recipe.lr"):
        plotted(sweep, lines=["mask_criterion"])
    with pytest.raises(
        ValueError, match="report.lines: .*group or setting `mask_criterio`; did you mean"
    ):
        plotted(sweep, lines=["mask_criterio"])


def test_a_key_of_report_along_starts_no_new_line(sweep: FakeSweep) -> None:
    for bias, sparsity in ((0, 0.3), (-1, 0.6)):
        sweep.cell(
            f"b{bias}",
            accuracies=[0.9, 0.8],
            sparsities=[0, sparsity],
            stages=["dense", f"b{bias}"],
            method__bias=bias,
        )
    data = plotted(sweep, along=["method.bias"])
    assert data["line"].nunique() == 1 and data["percent_remaining"].tolist() == [100, 70, 40]


def test_one_line_in_another_panel_for_each_of_the_keys_asked_for(sweep: FakeSweep) -> None:
    for lr in (0.1, 0.2):
        sweep.cell(f"lr{lr}", accuracies=[0.9, 0.8], recipe__lr=lr)
    data = plotted(sweep, panels=["model", "dataset", "recipe.lr"])
    assert set(data["panel"]) == {"fc on digits, recipe.lr=0.1", "fc on digits, recipe.lr=0.2"}


def test_published_numbers_are_drawn_where_they_belong_with_their_source(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final")
    entry = {
        "label": "large_final",
        "source": "arXiv:1905.01067",
        "where": {"model": "fc", "dataset": "digits"},
        "points": [[0.2, 0.95]],
    }
    # The same net on other data, and another net on the same data.
    elsewhere = [
        {**entry, "where": {"model": "fc", "dataset": "mnist"}},
        {**entry, "where": {"model": "conv4", "dataset": "digits"}},
    ]
    figure = metric_figures(sweep.analysis(published=[entry, *elsewhere]))[0]
    given = figure.data[figure.data["source"] != ""]
    assert given["mean"].tolist() == [0.95] and given["percent_remaining"].tolist() == [80]
    assert "Rings: published numbers, arXiv:1905.01067." in figure.caption
    (axes,) = figure.draw().axes
    assert axes.get_ylim()[1] >= 95  # the axis makes room for it


def test_a_network_that_was_never_trained_is_not_called_dense(sweep: FakeSweep) -> None:
    sweep.cell("mask", accuracies=[0.1, 0.4], more={"kind": "score"})
    (sheet,) = (figure.draw() for figure in metric_figures(sweep.analysis()))
    texts = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert "untrained, no mask" in texts and "dense" not in texts


def test_a_caption_states_n_band_test_margin_and_stages(sweep: FakeSweep) -> None:
    for criterion, down in (("large_final", 0.0), ("random", 0.1)):
        for seed in range(3):
            sweep.cell(
                criterion,
                seed,
                accuracies=[0.9, 0.9 - down + 0.001 * seed],
                choices={"mask_criterion": criterion},
            )
    figure = metric_figures(sweep.analysis(baseline="large_final", margin=0.02, title="Which?"))[0]
    for says in (
        "Which? fc on digits: random against large_final: not testable at 1 of 1 level. Mean over",
        "Mean over seeds, n = 3; band: range over seeds.",
        "Evaluated at the lowest validation loss.",
        "paired t",
        "Holm within each panel",
        "Not inferior to dense by 2 points",
        "large_final 80% (its last level), random at no level",
    ):
        assert says in figure.caption
    assert figure.stages == ("dense", "large_final-1", "random-1")


def test_seeds_that_are_all_equal_have_no_interval_and_the_caption_says_so(
    sweep: FakeSweep,
) -> None:
    """The dense network has .9 for both seeds; the pruned network has .80 and .81."""
    criteria(sweep, "large_final")
    for band, gap in (("ci", True), ("sd", False)):
        (figure,) = metric_figures(sweep.analysis(band=band))
        assert figure.data["low"].isna().tolist() == [gap, False]
        assert ("(no band if all seeds are equal)" in figure.caption) == gap


def test_without_tests_a_caption_draws_no_conclusion(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final", "random")
    (figure,) = metric_figures(sweep.analysis(title="Which?"))
    assert figure.caption.startswith("Which? Mean over seeds, n = 2; band: range over seeds. Eval")


def test_no_difference_is_not_called_equality(sweep: FakeSweep) -> None:
    for criterion, downs in (("large_final", (0, 1, 2)), ("random", (2, 0, 1))):
        for seed, down in enumerate(downs):
            chosen: dict[str, str | None] = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=[0.9, 0.8 - 0.01 * down], choices=chosen)
    line, *_ = sweep.analysis(baseline="large_final").test_sentences
    assert line == "fc on digits: random against large_final: undecided at 1 of 1 level."


def test_a_caption_answers_its_question_by_the_tests_alone(sweep: FakeSweep) -> None:
    # Above by 10, 11, 12 points at the first level, below by as much at the second.
    for criterion, sign in (("large_final", 1), ("random", 0)):
        for seed in range(3):
            change = sign * (0.1 + 0.01 * seed)
            accuracies: list[float | None] = [0.9, 0.7 + change, 0.7 - change]
            sweep.cell(
                criterion, seed, accuracies=accuracies, choices={"mask_criterion": criterion}
            )
    asked = {"baseline": "random", "control": "random", "title": "Which?"}
    (figure,) = metric_figures(sweep.analysis(**asked))
    assert figure.caption.startswith(
        "Which? fc on digits: large_final against random: above at 1, below at 1 of 2 levels. "
        "Levels with a winning ticket (not inferior to dense, and better than random): none. Mean "
        "over"
    )


def test_a_caption_says_at_which_moment_each_line_was_evaluated(sweep: FakeSweep) -> None:
    for method, when in (("imp", "best"), ("l0", "end")):
        sweep.cell(method, accuracies=[0.9, 0.8], choices={"method": method}, report_at=when)
    (figure,) = metric_figures(sweep.analysis())
    says = "Evaluated at the lowest validation loss (imp report_at=best); at the end of training "
    says += "(l0 report_at=end)."
    assert says in figure.caption
    for n in range(6):
        sweep.cell(f"m{n}", accuracies=[0.9, 0.8], choices={"mask_criterion": f"m{n}"})
    (figure,) = metric_figures(sweep.analysis())
    assert "Evaluated at the lowest validation loss (7 lines); at the end" in figure.caption


@pytest.mark.parametrize(
    ("select", "says"),
    [
        ("validation", "chosen by validation accuracy; test accuracy shown"),
        ("test", "chosen by test accuracy itself"),
    ],
)
def test_tables_and_captions_say_how_a_ticket_was_chosen(
    sweep: FakeSweep, select: str, says: str
) -> None:
    criteria(sweep, "large_final", "random")
    analysis = sweep.analysis(select=select)
    titles = [str(table.title) for table in endpoint_tables(analysis)]
    assert [says in title for title in titles] == [True, True]
    assert f"Best level: {says}." in endpoint_figures(analysis)[0].caption


def test_an_unfinished_sweep_is_drawn_with_what_is_missing_marked(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.8])
    sweep.cell("a", 1, accuracies=[0.9], done=False)
    figure = metric_figures(sweep.analysis())[0]
    assert figure.data["n_missing"].tolist() == [0, 1]
    assert "Faint marker: seeds are missing there (1 in all)." in figure.caption
    assert "Unfinished: 1 of 2 cells unfinished." in figure.caption
    markers = [line for line in figure.draw().axes[0].lines if line.get_marker() == "o"]
    assert [line.get_alpha() for line in markers] == [1.0, 0.35]


def test_collapsed_and_diverged_replicates_are_marked_and_counted(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9, 0.1], collapsed={1})
    sweep.cell("a", 1, accuracies=[0.9, None])
    figure = metric_figures(sweep.analysis())[0]
    assert figure.data["n_collapsed"].tolist() == [0, 1]
    assert figure.data["n_diverged"].tolist() == [0, 1]
    assert (
        "collapsed (1 in all), or diverged and is left out of the mean (1 in all)" in figure.caption
    )


def test_versions_of_the_code_that_are_mixed_are_named(sweep: FakeSweep) -> None:
    sweep.cell("a", 0, accuracies=[0.9])
    sweep.cell("a", 1, accuracies=[0.9], more={"code_version": "0.2.0"})
    assert (
        "Made by 2 versions of the code: 0.1.0, 0.2.0."
        in metric_figures(sweep.analysis())[0].caption
    )


def test_each_experiment_of_a_sweep_is_reported_in_its_own_layout(sweep: FakeSweep) -> None:
    sweep.reports = {"one": {"band": "sd"}, "two": {"band": "ci"}}
    for name in sweep.reports:
        sweep.cell(name, accuracies=[0.9, 0.8], experiment=name)
    out = report(sweep.folder, console=Console(file=io.StringIO()), figures=["curves"])
    bands = [pd.read_csv(out / name / "accuracy.csv")["band"][0] for name in ("one", "two")]
    assert bands == ["sd", "ci"]


def test_a_figure_without_information_is_left_out_unless_it_is_requested(sweep: FakeSweep) -> None:
    # Two lines whose layers are equal, and whose trainings were best when they ended.
    for name in ("large_final", "random"):
        chosen, ended = {"mask_criterion": name}, {"best_step": 100}
        sweep.cell(name, accuracies=[0.9, 0.8], choices=chosen, more=ended)
    left_out = {
        "early_stop": "early_stop: not drawn, because at least half of the trainings were still",
        "layers": "layers: not drawn, because its lines are identical",
    }
    drawn, reasons = draw_figures(sweep.analysis(masks_at=[0.2]))
    assert len(reasons) < 8 and {"accuracy", "accuracy_by_sparsity"} <= {f.name for f in drawn}
    for name, why in left_out.items():
        assert any(reason.startswith(why) for reason in reasons), reasons
        asked, none = draw_figures(sweep.analysis(figures=name, masks_at=[0.2]))
        assert len(asked) == 1 and not none and asked[0].name not in {each.name for each in drawn}


def test_each_rule_by_which_a_figure_is_left_out() -> None:
    rows = [("p", line, x, 1.0 + x) for line in "ab" for x in range(2)]
    alike = pd.DataFrame(rows, columns=["panel", "line", "x", "y"])
    other = alike.assign(y=[1.0, 2.0, 1.0, 3.0])
    assert all_alike(alike, "x", ["y"]) and not all_alike(other, "x", ["y"])
    assert not all_alike(alike.query("line == 'a'"), "x", ["y"]), "one line is no repetition"
    assert not one_point([]) and not capped([])


def test_lines_of_one_point_have_only_one_figure(sweep: FakeSweep) -> None:
    for name in ("large_final", "random"):
        sweep.cell(name, accuracies=[0.9], choices={"mask_criterion": name}, stages=[name])
    drawn, reasons = draw_figures(sweep.analysis())
    assert "accuracy" in {figure.name for figure in drawn}
    assert "accuracy_by_sparsity" not in {figure.name for figure in drawn}
    why = "its lines are single points, which the main figure shows"
    assert f"by_sparsity: not drawn, because {why}" in reasons
    asked, _ = draw_figures(sweep.analysis(figures="by_sparsity"))
    assert [figure.name for figure in asked] == ["accuracy_by_sparsity"]


def test_a_line_costs_its_searches_too_and_no_evaluation(sweep: FakeSweep) -> None:
    """Each training has two epochs. Without its searches, this line would seem the cheapest."""
    sweep.cell("imp", accuracies=[0.9, 0.8])
    sweep.cell("cs", accuracies=[0.9, 0.8], choices={"method": "continuous_sparsification"})
    sweep.cell(
        "scored",
        accuracies=[0.1, 0.8],
        stages=["guess", "mask"],
        choices={"method": "supermask"},
        more={"kind": "score", "epochs": 0.0},
    )
    drawn = sweep.analysis()
    imp, cs, scored = drawn.results.cells
    searches = [replace(cs.rows[1], stage=name, kind="search") for name in ("s1", "s2")]
    cells = (imp, replace(cs, search=tuple(searches)), scored)
    (figure,) = cost_figures(replace(drawn, results=replace(drawn.results, cells=cells)))
    epochs = figure.data.query("quantity == 'epochs'").set_index("line")
    assert epochs["own"].to_dict() == {"imp": 2, "continuous_sparsification": 6, "supermask": 0}
    assert epochs["shared"].to_dict() == {"imp": 2, "continuous_sparsification": 2, "supermask": 0}
    assert "asked for 6 trainings; 5 were needed, and 1 of these" in figure.caption
    assert figure.stages == ("cs-1", "dense", "imp-1", "s1", "s2")


def test_the_profile_figure_has_a_bar_for_each_part_that_took_time() -> None:
    assert not profile_figures([])
    packs = [
        PackProfile({"forward": 1.0, "backward": s, "data": 0.0}, 10, 2, "cpu") for s in (2.0, 5.0)
    ]
    (figure,) = profile_figures(packs)
    seconds = dict(zip(figure.data["part"], figure.data["seconds"], strict=True))
    assert seconds == {"forward": 2.0, "backward": 7.0}
    assert figure.data["share"].sum() == pytest.approx(1.0)
    (axes,) = figure.draw().axes
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [2.0, 7.0]  # pyright: ignore
    assert [text.get_text() for text in axes.texts] == ["22%", "78%"]
    assert axes.get_xlabel() == "Seconds" and "9 in all" in figure.caption


def test_sentences_about_a_line_name_its_panel(sweep: FakeSweep) -> None:
    # Not inferior to dense at any level on one data set, and at none on the other.
    for data, pruned in (("digits", 0.95), ("cifar10", 0.2)):
        for seed in range(3):
            means = [0.9, pruned + 0.001 * seed, pruned + 0.001 * seed]
            names = [f"{data}-{level}" for level in range(3)]
            options = {"choices": {"dataset": data}, "stages": names}
            sweep.cell(data, seed, accuracies=means, **options)
    sentence = not_inferior_sentence(sweep.analysis(panels=["dataset"]))
    assert "digits: large_final 64%" in sentence and "cifar10: large_final at no level" in sentence


def test_a_line_that_a_noisy_level_stopped_says_so(sweep: FakeSweep) -> None:
    """`noisy` is above dense on average at its second level, and would read as the worse line."""
    for seed in range(3):
        first = 0.9 + 0.001 * seed
        levels: dict[str, list[float | None]] = {
            "noisy": [0.9, first, 0.9 + 0.031 * seed, 0.5],
            "calm": [0.9, first, first],
            "late": [0.9, first, first if seed else None],
        }
        for name, accuracies in levels.items():
            sweep.cell(name, seed, accuracies=accuracies, choices={"mask_criterion": name})
    sentence = not_inferior_sentence(sweep.analysis(lines=["mask_criterion"]))
    assert (
        "noisy 80% (at 64%: 93.10 is within the margin but not significant), calm 64% (its last "
        "level), late 80% (at 64%: 2 of 3 seeds have a value)."
    ) in sentence


def test_lines_of_almost_one_sparsity_share_a_panel(sweep: FakeSweep) -> None:
    for name, sparsity in (("large_final", 0.5), ("random", 0.48)):
        options = {"choices": {"mask_criterion": name}, "sparsities": [0.0, sparsity]}
        sweep.cell(name, accuracies=[0.9, 0.8], **options)
    (figure,), _ = draw_figures(sweep.analysis(figures="layers", masks_at=[0.5]))
    (panel,) = set(figure.data["panel"])
    assert panel == "fc on digits, 52.0 to 50.0% left"
    assert f"Weights remaining in {panel}: large_final 50.0%, random 52.0%." in figure.caption


def test_rows_of_marks_add_to_the_height_and_do_not_flatten_the_lines(sweep: FakeSweep) -> None:
    names = [f"m{number}" for number in range(10)]
    for number, name in enumerate(names):
        for seed in range(3):
            worse = 0.9 - 0.05 * number + 0.001 * seed * (number % 3)
            choices: dict[str, str | None] = {"mask_criterion": name}
            sweep.cell(name, seed, accuracies=[0.95, worse], choices=choices)
    heights, label = [], "m4 with a very long label of its own"
    for tested in (["m1"], names[1:]):
        asked = {"baseline": "m0", "tested": tested, "labels": {"m4": label}}
        (figure,) = metric_figures(sweep.analysis(**asked))
        sheet = figure.draw()
        sheet.canvas.draw()
        (axes,) = sheet.axes
        heights.append(axes.get_window_extent().height)
    assert heights[1] > 0.85 * heights[0]
    # Each row has the name of its line; no name covers another or is cut off.
    assert [text.get_text() for text in axes.texts] == [
        *("m4 with a ve… of its own", "m1", "m2", "m5", "m7", "m8")
    ]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(box.x0 >= 0 for box in boxes)
    assert all(high.y0 >= low.y1 - 1 for high, low in pairwise(boxes))


@pytest.mark.parametrize("networks", [["fc", "conv4"], ["fc", "conv4", "resnet20"]])
def test_each_network_has_a_row_of_endpoints_whatever_their_number(
    sweep: FakeSweep, networks: list[str]
) -> None:
    for model in networks:
        sweep.cell(model, accuracies=[0.9, 0.9, 0.8], choices={"model": model})
    (figure,) = endpoint_figures(sweep.analysis(lines=["mask_criterion"], panels=["model"]))
    sheet = figure.draw()
    sheet.canvas.draw()
    heights: dict[str, set[float]] = {}
    for axes in sheet.axes:
        heights.setdefault(axes.get_title(), set()).add(round(axes.bbox.y0))
    assert list(heights) == networks and all(len(own) == 1 for own in heights.values())
    names = [axes.get_xlabel() for axes in sheet.axes]
    assert names == names[:3] * len(networks) and len({*names}) == 3


def test_long_names_of_few_layers_do_not_collide() -> None:
    for ending, turned in (("", False), ("_of_the_first_block", True)):
        layers = [f"layer_{number}{ending}" for number in range(3)]
        row = {"panel": "p", "line": "a", "mean": 50.0, "min": 50.0, "max": 50.0, "n": 1}
        rows = [row | {"layer": name, "number": i} for i, name in enumerate(layers)]
        (axes,) = layer_survival._draw(pd.DataFrame(rows), ["a"]).axes
        assert [tick.get_rotation() for tick in axes.get_xticklabels()] == [90 * turned] * 3


def test_a_panel_says_which_lines_leave_it_and_how_far(sweep: FakeSweep) -> None:
    for seed in range(2):
        means = [20.0 + seed, 21.0, 22.0, 23.0, 4e4]
        sweep.cell("a", seed, accuracies=means, judged_by=("perplexity", True))
    (figure,) = metric_figures(sweep.analysis())
    assert "▲: leaves the panel, up to 40000." in figure.caption
    (axes,) = figure.draw().axes
    assert axes.get_ylim()[1] < 100 and axes.get_ylabel().endswith("(lower is better)")


def test_one_panel_is_a_column_wide_and_two_are_a_page(sweep: FakeSweep) -> None:
    for model, inches in (("fc", COLUMN), ("conv4", PAGE)):
        sweep.cell(model, accuracies=[0.9, 0.8], choices={"model": model})
        png = figure_files(
            metric_figures(sweep.analysis(lines=["mask_criterion"], panels=["model"]))[0]
        )
        (width,) = struct.unpack(">I", png["accuracy.png"][16:20])
        assert width == round(inches * 300)


def test_the_same_numbers_give_the_same_files(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final", "random")
    one, other = (figure_files(metric_figures(sweep.analysis())[0]) for _ in range(2))
    assert one == other and {name.rpartition(".")[2] for name in one} == {
        *("png", "pdf", "svg", "csv", "txt")
    }


def test_no_label_of_a_figure_with_long_names_is_cut_off_or_covers_another(
    sweep: FakeSweep,
) -> None:
    for name in ("large_final", "random"):
        for rate in (0.001, 0.0002):
            sweep.cell(
                f"{name}{rate}",
                accuracies=[0.9, 0.8],
                choices={"mask_criterion": name, "reset": "rewind_and_constant_init"},
                recipe__lr=rate,
                recipe__a_long_key=rate,
            )
    drawn = sweep.analysis()
    (figure,) = endpoint_figures(drawn)
    assert "Lower bounds, as runs end" not in figure.caption
    pairs = [(a.label, b.label) for a in drawn.curves for b in drawn.curves]
    rows = [{"panel": "p", "line": a, "other": b, "overlap": 0.5, "chance": 0.4} for a, b in pairs]
    for sheet in (figure.draw(), mask_overlap._draw(pd.DataFrame(rows))):
        sheet.canvas.draw()
        width = sheet.bbox.width
        for axes in sheet.axes:
            box = axes.xaxis.label.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= width
            assert all("\n" not in tick.get_text() for tick in axes.get_xticklabels())


def test_a_legend_is_broken_where_it_is_wider_than_the_figure() -> None:
    """It used to be cut off on both sides, where the colours of the names are."""
    long = " ".join(f"recipe.key{n}=0.{n}" for n in range(12))
    style = line_styles(["a"])["a"]
    for labels in ([long, "short"], ["short", "other"]):
        sheet = new_sheet(1, legend=[legend_entry(label, style) for label in labels])
        sheet.canvas.draw()
        box = sheet.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= sheet.bbox.width
        assert sheet.axes[0].bbox.height > 1.4 * sheet.dpi  # the legend takes no room from the axes
        shown = [text.get_text().replace("\n", " ") for text in sheet.legends[0].get_texts()]
        assert shown == labels


def test_a_long_legend_of_one_panel_is_beside_it_and_no_higher() -> None:
    styles = line_styles([f"a line that has a long name, {n}" for n in range(10)])
    entries = [legend_entry(label, look) for label, look in styles.items()]
    sheet = new_sheet(1, legend=entries)
    sheet.canvas.draw()
    box, panel = sheet.legends[0].get_window_extent(), sheet.axes[0].bbox
    assert sheet.get_figwidth() == PAGE and sheet.get_figheight() == 2.1
    assert panel.x1 < box.x0 and box.x1 <= sheet.bbox.width
    assert box.y0 >= 0 and box.y1 <= sheet.bbox.height
    assert panel.width > 3 * sheet.dpi
    assert new_sheet(1, legend=entries[:3]).get_figwidth() == COLUMN
    # Columns are as wide as their own labels, so one long label does not make a single column.
    long = legend_entry("x" * 60, styles["a line that has a long name, 0"])
    assert new_sheet(2, legend=[long, *entries[1:]]).get_figheight() < 2.1 + 0.15 * 6


def test_a_row_of_panels_is_as_high_as_its_own_lines_need() -> None:
    """All rows used to be as high as the highest one, so a panel with one line was nearly empty."""
    lines = {"small": ["a"], "large": [f"line {n}" for n in range(12)]}
    parts = {"own": 1.0, "shared": 0.0}
    rows = [
        {"panel": panel, "line": line, "quantity": quantity, **parts}
        for panel, own in lines.items()
        for quantity in ("epochs", "seconds")
        for line in own
    ]
    sheet = training_costs._draw(pd.DataFrame(rows))
    sheet.canvas.draw()
    small, large = (sheet.axes[n].bbox.height for n in (0, 2))
    assert 3 * small < large  # as 0.79 and 2.88 inches
    assert sheet.get_figheight() < 4.5


def test_a_panel_has_rows_of_its_own_lines_only(sweep: FakeSweep) -> None:
    for model, name in (("fc", "random"), ("fc", "movement"), ("conv2", "random")):
        chosen = {"model": model, "mask_criterion": name}
        sweep.cell(f"{model}{name}", accuracies=[0.9, 0.8], choices=chosen)
    drawn = sweep.analysis()
    (endpoints,), (cost,) = endpoint_figures(drawn), cost_figures(drawn)
    panels = endpoints.draw().axes  # only the first of a row names its lines
    for axes in (*panels[::3], *cost.draw().axes):
        rows = [tick.get_text() for tick in axes.get_yticklabels()]
        both = ["random", "movement"]
        assert rows == (both if axes.get_title() == "fc on digits" else both[:1])
    assert [len(axes.get_yticks()) for axes in panels] == [2, 2, 2, 1, 1, 1]


def test_a_network_that_lines_share_is_counted_once(sweep: FakeSweep) -> None:
    for name in ("random", "movement"):
        chosen = {"mask_criterion": name}
        sweep.cell(name, accuracies=[0.1, 0.8], choices=chosen, collapsed={0})
    assert "collapsed (1 in all)" in marker_sentence(sweep.analysis().curves)


def test_a_panel_without_an_endpoint_says_so(sweep: FakeSweep) -> None:
    """Before, it had an axis from -0.04 to 0.04."""
    sweep.cell("a", accuracies=[0.9, 0.8])
    sweep.cell("b", accuracies=[0.8, 0.7], sparsities=[0.5, 0.8], choices={"model": "conv2"})
    (endpoints,) = endpoint_figures(sweep.analysis())
    empty = [axes for axes in endpoints.draw().axes if not len(axes.get_xticks())]
    assert [axes.texts[0].get_text() for axes in empty] == 2 * ["no line has a value"]


def test_a_line_has_one_colour_in_all_figures(sweep: FakeSweep) -> None:
    """Also if a figure lacks an earlier line, or if two panels give two lines the same label."""
    lines = (("large_final", None), ("random", None), ("random", "r2"), ("movement", "r2"))
    for name, kind in lines:
        sweep.cell(
            f"{name}{kind}",
            accuracies=[0.5, 0.4],
            choices={"mask_criterion": name},
            judged_by=(kind, False) if kind else None,
            task__name=str(kind),
        )
    labels = {"large_final": "best", "movement": "best"}
    figures = metric_figures(sweep.analysis(labels=labels))
    assert [figure.name for figure in figures] == ["accuracy", "test_r2"]
    of_figure = []
    for figure in figures:
        handles = figure.draw().legends[0].legend_handles
        of_figure.append({str(h.get_label()): h.get_color() for h in handles})  # pyright: ignore
    both = of_figure[0].keys() & of_figure[1].keys()
    assert both == {"best", "random", "dense"}
    assert all(of_figure[0][label] == of_figure[1][label] for label in both)


def test_a_caption_names_the_lines_whose_sparsity_is_a_bound(sweep: FakeSweep) -> None:
    for name, last in (("large_final", 0.9), ("random", 0.5)):
        sweep.cell(name, accuracies=[0.9, last], choices={"mask_criterion": name})
    (figure,) = endpoint_figures(sweep.analysis())
    assert "Lower bounds, as runs end within the margin: large_final." in figure.caption


def test_lines_stay_apart_without_colour() -> None:
    look = list(line_styles([str(i) for i in range(12)]).values())
    assert len({(style.marker, str(style.dash)) for style in look}) == 12
    shades = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(to_rgb, _colours(look))]
    assert max(shades) < 0.75  # every colour is dark enough for paper


def test_twelve_lines_have_colours_that_red_green_colour_blindness_does_not_mix() -> None:
    """Ten lines used to share nine colours, of which two look the same to one man in twelve."""
    colours = np.array([*map(to_rgb, _colours([*line_styles([*"abcdefghijkl"]).values()]))])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for seen in (np.eye(3), *_COLOUR_BLIND):
        lab = _cielab(np.clip(linear @ np.array(seen).T, 0, 1))
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert apart[~np.eye(12, dtype=bool)].min() > 17


# What eyes without one kind of cone see of linear RGB (doi:10.1109/TVCG.2009.113).
_COLOUR_BLIND = (
    [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
)


def _cielab(linear: Any) -> Any:
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_lines_beyond_twelve_repeat_no_style() -> None:
    look = line_styles([str(i) for i in range(LOOKS)]).values()
    assert len({(style.color, style.marker, str(style.dash)) for style in look}) == LOOKS
    assert len({(style.color, style.marker) for style in look}) == LOOKS


def _colours(look: list[Any]) -> list[str]:
    return [style.color for style in look]


def test_published_numbers_have_the_label_of_their_line_in_the_table(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final")
    entry = {
        "label": "large_final",
        "source": "arXiv:1905.01067",
        "where": {"model": "fc", "dataset": "digits"},
        "points": [[0.2, 0.95]],
    }
    labels = {"large_final": "large final"}
    data = metric_figures(sweep.analysis(published=[entry], labels=labels))[0].data
    assert set(data["line"]) == {"large final"} and (data["source"] != "").any()


def test_a_metric_that_is_asked_for_by_two_names_keeps_the_marks_of_its_tests(
    sweep: FakeSweep,
) -> None:
    for criterion, accuracy in (("large_final", 0.8), ("random", 0.6)):
        for seed in range(3):
            sweep.cell(
                criterion,
                seed,
                accuracies=[0.9, accuracy + seed / 1000 * (accuracy > 0.7)],
                choices={"mask_criterion": criterion},
            )
    asked = {"metrics": ["test_metric", "test_accuracy"], "baseline": "random"}
    drawn, _ = draw_figures(sweep.analysis(figures=["curves"], **asked))
    (figure,) = (each for each in drawn if each.name == "accuracy")
    assert set(figure.data["mark"]) == {"", "★"}


def test_a_caption_explains_only_the_marks_that_are_drawn(sweep: FakeSweep) -> None:
    pruned = {"large_final": (80, 81, 82), "random": (82, 81, 80), "movement": (50, 51.1, 52.2)}
    for criterion, percents in pruned.items():
        for seed, percent in enumerate(percents):
            chosen: dict[str, str | None] = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=[0.9, percent / 100], choices=chosen)
    for tested, marked in (("random", False), ("movement", True)):
        (figure,) = metric_figures(sweep.analysis(baseline="large_final", tested=[tested]))
        assert figure.data["mark"].any() == marked == ("cross: below it" in figure.caption)
        assert "Tests against large_final, at one level each" in figure.caption


def test_labels_that_hold_commas_are_listed_apart(sweep: FakeSweep) -> None:
    criteria(sweep, "large_final", "random")
    labels = {"random": "random mask, reinit"}
    sentence = not_inferior_sentence(sweep.analysis(labels=labels))
    assert sentence.endswith(": random mask, reinit and large_final at no level.")


def test_a_matrix_of_masks_has_the_lines_of_its_panel_below_a_title_that_fits() -> None:
    """A report of a whole root used to have rows for lines of all networks, and cut titles."""
    lines = {"fc on digits, 55.3 to 51.6% left": "ab", "resnet20 on cifar10, 50.0 to 43% left": "c"}
    rows = [
        {
            "panel": panel,
            "line": one,
            "other": other,
            "overlap": 0.5,
            "chance": 0.4 if one == "a" else 0.26,
        }
        for panel, names in lines.items()
        for one in names
        for other in names
    ]
    sheet = mask_overlap._draw(pd.DataFrame(rows))
    sheet.canvas.draw()
    said = ("26 to 40", "26")
    for axes, names, percent in zip(sheet.axes, lines.values(), said, strict=True):
        assert [tick.get_text() for tick in axes.get_yticklabels()] == list(names)
        assert axes.get_title().endswith(f"left\n(chance {percent}%)")
        box = axes.title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= sheet.bbox.width


def test_percents_on_an_axis_have_one_decimal() -> None:
    assert [tick_text(x) for x in (100, 64.3, 26.84, 9.06, 0.552)] == [
        *("100", "64.3", "26.8", "9.1", "0.55")
    ]


def test_no_line_has_the_marker_of_a_verdict() -> None:
    assert not {marker for marker, _ in MARKS.values()} & {*MARKERS}
