"""A paper's page shows results of the sweeps that exist, and marks the missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.papers import Paper, Section, read_paper
from lt_sweeps.config.report_config import FIGURES
from lt_sweeps.reporting.paper_report import draw_paper

PAPERS = ("deconstructing", "continuous_sparsification")
EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment"


@pytest.mark.parametrize("name", PAPERS)
def test_every_experiment_and_figure_of_a_paper_exists(name: str) -> None:
    for section in read_paper(name).sections:
        assert set(section.figures) <= set(FIGURES)
        for experiment in section.needed:
            assert (EXPERIMENTS / f"{experiment}.yaml").exists()


@pytest.mark.parametrize("name", PAPERS)
def test_every_experiment_of_a_paper_is_on_its_page(name: str) -> None:
    needed = {e for section in read_paper(name).sections for e in section.needed}
    names = {path.stem for path in (EXPERIMENTS / name).glob("*.yaml") if path.stem[0] != "_"}
    elsewhere = {n for n in names if n.endswith("_quick")}
    assert {f"{name}/{n}" for n in names - elsewhere} <= needed


def test_without_results_everything_is_marked_with_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "deconstructing", f"root={tmp_path}"]) == 1
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "experiment=deconstructing/criteria model=fc,conv2,conv4,conv6" in printed
    assert "0 of" in printed
    page = (tmp_path / "papers" / "deconstructing" / "index.html").read_text()
    assert "missing: python -m lt_sweeps experiment=deconstructing/mask_0" in page


def test_an_unknown_paper_is_answered_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "deconstruct"]) == 1
    assert "deconstructing" in capsys.readouterr().err


def test_a_figure_joins_the_sweeps_of_its_experiment_and_marks_missing_nets(
    tmp_path: Path,
) -> None:
    for name, model in (("first", "fc"), ("second", "conv2")):
        sweep = FakeSweep(tmp_path, name)
        for seed in (0, 1):
            sweep.cell(
                f"{name}-a",
                seed,
                experiment="e",
                choices={"model": model},
                accuracies=[0.9, 0.8],
                stages=[f"{name}-dense", f"{name}-1"],
            )
    section = Section(
        "Figure 1", "Accuracy", dict.fromkeys(["fc", "conv2", "conv4"], "digits"), ["e"], ["curves"]
    )
    complete = draw_paper(Paper("p", "A paper", (section,)), tmp_path)
    assert not complete
    folder = tmp_path / "papers" / "p"
    drawn = pd.read_csv(folder / "figure-1" / "accuracy.csv")
    assert set(drawn["panel"]) == {"fc on digits", "conv2 on digits"}
    assert "experiment=e model=conv4" in (folder / "index.html").read_text()


def test_a_section_of_endpoints_has_the_picked_tickets_and_their_cost_as_a_table(
    tmp_path: Path,
) -> None:
    """As in table 1 of Continuous Sparsification: the figure has only numbers that each run has."""
    sweep = FakeSweep(tmp_path)
    for seed in (0, 1):
        sweep.cell("a", seed, experiment="e", accuracies=[0.9, 0.91, 0.8 + 0.01 * seed])
    figures = ["endpoints", "cost"]
    section = Section("Table 1", "Tickets", {"fc": "digits"}, ["e"], figures)
    draw_paper(Paper("p", "A paper", (section,)), tmp_path)
    folder = tmp_path / "papers" / "p"
    table = pd.read_csv(folder / "table-1" / "table.csv").set_index("endpoint")
    found = table.loc["sparsest_matching", ["sparsity", "search_epochs"]].tolist()
    assert found == pytest.approx([0.2, 2.0])
    assert "search epochs" in (folder / "index.html").read_text()


def test_a_table_shows_the_best_line_and_what_is_published_for_these_lines(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    where = {"model": "fc", "dataset": "digits"}
    source = {"source": "a paper", "metric": "peak", "where": where}
    sweep.reports = {
        "e": {
            "lines": ["mask_criterion"],
            "published": [
                {"label": "movement", "value": 0.5, **source},
                {"label": "other", "value": 0.99, **source},
            ],
        }
    }
    for criterion, best in (("random", 0.6), ("movement", 0.7)):
        for seed in (0, 1):
            sweep.cell(
                criterion,
                seed,
                experiment="e",
                choices={"mask_criterion": criterion},
                accuracies=[0.9, best + 0.02 * seed],
            )
    columns = [
        {"label": "trained", "experiment": "e", "value": "dense"},
        {"label": "best", "experiment": "e", "value": "peak"},
        {
            "label": "random",
            "experiment": "e",
            "value": "peak",
            "where": {"mask_criterion": "random"},
        },
        {"label": "absent", "experiment": "f", "value": "peak"},
    ]
    section = Section("Table 1", "Numbers", {"fc": "digits"}, table=columns)
    draw_paper(Paper("p", "A paper", (section,)), tmp_path)
    numbers = pd.read_csv(tmp_path / "papers" / "p" / "table-1" / "table.csv", index_col="column")
    assert numbers["mean"].to_dict() == pytest.approx(
        {"trained": 0.9, "best": 0.71, "random": 0.61}
    )
    assert numbers.loc["best", "line"] == "movement" and numbers.loc["best", "lines"] == 2
    assert numbers.loc["best", "published"] == 0.5
    assert pd.isna(numbers.loc["random", "published"])


def test_the_line_of_a_table_is_chosen_by_validation(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for criterion, test, val in (("random", 0.85, 0.6), ("movement", 0.8, 0.9)):
        choices = {"mask_criterion": criterion}
        values: Any = {"accuracies": [0.9, test], "val": [0.9, val]}
        sweep.cell(criterion, experiment="e", choices=choices, **values)
    columns = [{"label": "best", "experiment": "e", "value": "peak"}]
    section = Section("Table 1", "Numbers", {"fc": "digits"}, table=columns)
    draw_paper(Paper("p", "A paper", (section,)), tmp_path)
    numbers = pd.read_csv(tmp_path / "papers" / "p" / "table-1" / "table.csv", index_col="column")
    assert numbers.loc["best", "line"] == "movement" and numbers.loc["best", "mean"] == 0.8


def test_a_table_says_what_is_a_bound_and_how_many_runs_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`short` ends within the margin, and one of its two runs diverged before any pruning."""
    sweep = FakeSweep(tmp_path)
    for criterion, ends in (("short", [0.9]), ("long", [0.9, 0.7])):
        for seed in (0, 1):
            diverged = criterion == "short" and seed == 1
            sweep.cell(
                criterion,
                seed,
                experiment="e",
                choices={"mask_criterion": criterion},
                accuracies=[None if diverged else 0.9, *ends],
            )
    columns = [
        {
            "label": name,
            "experiment": "e",
            "value": "sparsest_not_inferior",
            "where": {"mask_criterion": name},
        }
        for name in ("short", "long")
    ]
    draw_paper(
        Paper("p", "A paper", (Section("T", "N", {"fc": "digits"}, table=columns),)), tmp_path
    )
    printed = capsys.readouterr().out
    assert "≥ 20.0" in printed and "1 of 2 seeds" in printed
    # .9 is within half a point at 20 %, and .895 lies 1/40 of the way to .7 at 36 %
    assert "20.4" in printed and "≥ 20.4" not in printed


def test_a_net_on_other_data_is_no_part_of_the_paper(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    sweep.cell("a", experiment="e", choices={"dataset": "mnist"}, accuracies=[0.9, 0.8])
    sweep.cell("b", experiment="e", choices={"dataset": "digits"}, accuracies=[0.9, 0.99])
    column = {"label": "best", "experiment": "e", "value": "peak", "published": {"fc": 0.7}}
    section = Section("Table 1", "Numbers", {"fc": "mnist"}, table=[column])
    draw_paper(Paper("p", "A paper", (section,)), tmp_path)
    numbers = pd.read_csv(tmp_path / "papers" / "p" / "table-1" / "table.csv")
    assert numbers["mean"].tolist() == [0.8] and numbers["published"].tolist() == [0.7]
