"""The workspace and the report, as W&B would take them; built without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.wandb_server import WandbServer

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking.wandb_dashboard import SECTIONS, dashboard

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")

Make = Callable[..., Cell]
Swept = Callable[..., Path]
RANDOM = {"_target_": "lt_sweeps.sparsity.criteria.random"}


def named(cell: Cell, criterion: str) -> Cell:
    return Cell(cell.config, {**cell.choices, "mask_criterion": criterion}, ())


@pytest.fixture
def sweep(cell: Make, swept: Swept) -> Path:
    """Two criteria with three seeds each."""
    seeds = range(3)
    large = [named(cell(seed=seed, recipe__length="9ep"), "large_final") for seed in seeds]
    return swept(
        *large,
        *(
            named(cell(seed=s, recipe__length="9ep", mask_criterion=RANDOM), "random")
            for s in seeds
        ),
    )


def written(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    said = json.loads(path.read_text())
    return said["workspace"]["spec"]["section"], said["report"]["spec"]


def test_the_workspace_has_every_section_and_panel(sweep: Path) -> None:
    view, _ = written(dashboard(sweep, save="false"))
    sections = {each["name"]: each["panels"] for each in view["panelBankConfig"]["sections"]}
    assert list(sections) == [*SECTIONS, "Verdicts"]
    titles = {name: [p["config"]["chartTitle"] for p in sections[name]] for name in SECTIONS}
    assert titles == {name: [plot.title for plot in plots] for name, plots in SECTIONS.items()}


def test_accuracy_is_against_percent_remaining_by_criterion_with_a_band(sweep: Path) -> None:
    view, _ = written(dashboard(sweep, save="false", band="sd"))
    panel = view["panelBankConfig"]["sections"][0]["panels"][0]["config"]
    assert (panel["xAxis"], panel["metrics"]) == ("percent_remaining", ["ticket/test_accuracy"])
    assert panel["xLogScale"] is True
    assert (panel["groupBy"], panel["groupAgg"], panel["groupArea"]) == (
        "criterion.value",
        "mean",
        "stddev",
    )


def test_lines_are_cells_where_the_criterion_does_not_tell_them_apart(
    cell: Make, swept: Swept
) -> None:
    view, _ = written(dashboard(swept(cell(), cell(recipe__lr=0.1)), save="false"))
    panel = view["panelBankConfig"]["sections"][0]["panels"][0]["config"]
    assert panel["groupBy"] == "cell.value"


def test_only_the_sweeps_own_cells_are_in_it(sweep: Path) -> None:
    view, report = written(dashboard(sweep, save="false"))
    (rule,) = view["runSets"][0]["filters"]["filters"]
    manifest = json.loads((sweep / "manifest.json").read_text())
    assert rule["key"] == {"section": "config", "name": "cell"} and rule["op"] == "IN"
    assert sorted(rule["value"]) == sorted({each["signature"] for each in manifest["cells"]})
    grids = [block for block in report["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == len(SECTIONS)
    assert all(grid["metadata"]["runSets"][0]["filters"] for grid in grids)


def test_the_verdicts_are_a_table_in_both(sweep: Path) -> None:
    view, report = written(dashboard(sweep, save="false", baseline="random"))
    text = view["panelBankConfig"]["sections"][-1]["panels"][0]["config"]["value"]
    lines = text.splitlines()
    assert lines[0] == "test_accuracy against random"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["large_final"] * 2
    assert "(paired t)" in lines[4]
    assert text in json.dumps(report, ensure_ascii=False).replace("\\n", "\n")


def test_without_a_baseline_the_table_has_means(sweep: Path) -> None:
    view, _ = written(dashboard(sweep, save="false"))
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
        (["save=no"], "dashboard: save=no; give true or false"),
        (["projct=x"], "dashboard: unknown key projct; keys: ["),
        (["save=false", "baseline=none_such"], "report.baseline: no line is called `none_such`"),
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
    assert err.startswith("error: dashboard: ") and "save=false writes it without W&B" in err
