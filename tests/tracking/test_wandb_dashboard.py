"""The workspace and the report, as W&B receives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep
from fixtures.wandb_server import WandbServer

from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking.mean_runs import runs_over_seeds
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.tracking.wandb_dashboard import dashboard, sections, verdict_table

pytest.importorskip("wandb_workspaces")

Make = Callable[..., Cell]
Swept = Callable[..., Path]
RANDOM = {"_target_": "lt_sweeps.sparsity.criteria.random"}


def named(cell: Cell, criterion: str) -> Cell:
    return Cell(cell.config, {**cell.choices, "mask_criterion": criterion}, ())


@pytest.fixture
def sweep(cell: Make, swept: Swept) -> Path:
    """A sweep of two criteria with three seeds each."""
    seeds = range(3)
    large = [named(cell(seed=seed, recipe__length="9ep"), "large_final") for seed in seeds]
    return swept(
        *large,
        *(
            named(cell(seed=s, recipe__length="9ep", mask_criterion=RANDOM), "random")
            for s in seeds
        ),
    )


def saved(sweep: Path, server: WandbServer, **keys: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The workspace and the report that the server has received."""
    dashboard(sweep, **keys)
    view, report = (json.loads(view["spec"]) for view in server.views.values())
    return view["section"], report


def test_the_workspace_has_every_section_and_panel(sweep: Path, wandb_server: WandbServer) -> None:
    view, _ = saved(sweep, wandb_server)
    panels = {each["name"]: each["panels"] for each in view["panelBankConfig"]["sections"]}
    assert list(panels) == [*sections(()), "Verdicts"]
    titles = {name: [p["config"]["chartTitle"] for p in panels[name]] for name in sections(())}
    for name, plots in sections(()).items():
        assert all(t.startswith(p.title) for t, p in zip(titles[name], plots, strict=True))


def panel(view: dict[str, Any], section: int = 0, number: int = 0) -> dict[str, Any]:
    return view["panelBankConfig"]["sections"][section]["panels"][number]["config"]


def test_accuracy_is_against_percent_remaining_by_line_with_the_range_of_the_seeds(
    sweep: Path, wandb_server: WandbServer
) -> None:
    view, _ = saved(sweep, wandb_server)
    first = panel(view)
    assert (first["xAxis"], first["metrics"]) == ("percent_remaining", ["ticket/test_accuracy"])
    assert first["xLogScale"] is True
    grouped = (first["groupBy"], first["groupAgg"], first["groupArea"])
    assert grouped == ("line.value", "mean", "minmax")


@pytest.mark.parametrize(("band", "says"), [("ci", "95% t interval"), ("sd", "1 standard dev")])
def test_a_band_of_the_dashboard_has_the_edges_of_the_report(
    sweep: Path, wandb_server: WandbServer, band: str, says: str
) -> None:
    view, _ = saved(sweep, wandb_server, band=band)
    first, layers = panel(view), panel(view, 2)
    kinds = ("mean", f"{band}_low", f"{band}_high")
    assert first["metrics"] == [f"{kind}/ticket/test_accuracy" for kind in kinds]
    assert first["groupArea"] == layers["groupArea"] == "none", "nothing of W&B's beside it"
    assert says in first["chartTitle"]
    (large, _) = analyses(read_results(sweep, metrics=()), {})[""].curves
    (mean, _) = (run for run in runs_over_seeds(tracked_cells(sweep)))
    rows = [row for row in mean.rows if "sparsity" in row]
    assert mean.about["line"] == large.label
    for row, point in zip(rows, large.points, strict=True):
        edges = [row[name] for name in first["metrics"]]
        assert edges == pytest.approx([point.mean, *point.band(band)], nan_ok=True)


def test_lines_are_called_as_in_the_report_and_told_apart_by_panel(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    small = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [5]}}
    other = cell(recipe__lr=0.1, model=small)
    folder = swept(
        cell(), cell(recipe__lr=0.1), Cell(other.config, {**other.choices, "model": "small"}, ())
    )
    view, _ = saved(folder, wandb_server)
    assert panel(view)["groupBy"] == "panel_and_line.value"
    names = [tracked.place["panel_and_line"] for tracked in tracked_cells(folder)]
    assert names[:2] == [f"model on dataset: lr={lr}" for lr in (0.01, 0.1)]
    assert names[2].startswith("small on dataset: ")


def test_only_the_sweeps_own_runs_are_in_it_though_another_sweep_shares_its_cells(
    sweep: Path, wandb_server: WandbServer
) -> None:
    view, report = saved(sweep, wandb_server)
    (rule,) = view["runSets"][0]["filters"]["filters"]
    assert rule["key"] == {"section": "run", "name": "name"} and rule["op"] == "IN"
    cells = tracked_cells(sweep)
    own = {run.key for run in (*(each.run for each in cells), *runs_over_seeds(cells))}
    assert set(rule["value"]) == own and len(own) == 2 * (3 + 1), "three seeds and their mean"
    larger = [*cells, *(replace(each, seed="3") for each in cells if each.seed == "0")]
    assert not own & {run.key for run in (larger[-1].run, *runs_over_seeds(larger))}
    grids = [block for block in report["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == len(sections(()))
    assert all(grid["metadata"]["runSets"][0]["filters"] for grid in grids)


def test_the_verdicts_are_a_table_in_both(sweep: Path, wandb_server: WandbServer) -> None:
    view, report = saved(sweep, wandb_server, baseline="random")
    text = view["panelBankConfig"]["sections"][-1]["panels"][0]["config"]["value"]
    lines = text.splitlines()
    assert lines[0] == "test_accuracy against random"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["large_final"] * 2
    assert "(paired t)" in lines[4]
    assert text in json.dumps(report, ensure_ascii=False).replace("\\n", "\n")


def test_pairs_that_are_all_equal_have_no_interval_and_no_p(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for criterion in ("movement", "random"):
        for seed in range(2):
            accuracies = [0.9, 0.8 + 0.1 * seed]
            choices = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=accuracies, choices=choices)
    row = verdict_table(sweep.analysis(baseline="random")).splitlines()[-1]
    assert row == "| movement | 80.0 | +0.0000 | - (paired t) | - | 1.0000 |  |"


def test_without_a_baseline_the_table_has_means(sweep: Path, wandb_server: WandbServer) -> None:
    view, _ = saved(sweep, wandb_server)
    text = view["panelBankConfig"]["sections"][-1]["panels"][0]["config"]["value"]
    assert "no tests, because the report has no baseline" in text
    assert len(text.splitlines()) == 4 + 2 * 3


def test_saved_again_it_replaces_itself(sweep: Path, wandb_server: WandbServer) -> None:
    dashboard(sweep)
    assert len(wandb_server.views) == 2
    dashboard(sweep, band="ci")
    assert len(wandb_server.views) == 2
    dashboard(sweep, project="other")
    assert len(wandb_server.views) == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["projct=x"], "dashboard: projct; did you mean `project`? keys: "),
        (["figures=[acc"], "figures: got [acc; close the brackets and quotes of a value"),
        (["baseline=none_such"], "report.baseline: no line is called `none_such`"),
    ],
)
def test_a_mistake_is_one_line(
    sweep: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["dashboard", str(sweep), *words]) == 1
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_server_that_fails_is_one_line(
    sweep: Path, wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb_server.fault = lambda path: 403
    assert main(["dashboard", str(sweep)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: dashboard: ") and err.count("\n") == 1
