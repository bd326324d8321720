"""One command draws a paper from the sweeps that exist, and marks what is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep
from rich.console import Console

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.errors import options
from lt_sweeps.config.paper import FOLDER, Paper
from lt_sweeps.reporting.paper_pages import draw_paper

NOISE = (0.0, 0.01, -0.01)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Criteria of fc and of conv2, and the learned masks of fc; and fc on other data."""
    criteria = FakeSweep(tmp_path, "criteria")
    criteria.reports["deconstructing/criteria"] = {
        "lines": ["mask_criterion"],
        "baseline": "large_final",
        "title": "Which criterion finds tickets?",
    }
    for net, data in (("fc", "mnist"), ("conv2", "cifar10"), ("conv4", "mnist")):
        for criterion in ("large_final", "random"):
            for seed, off in enumerate(NOISE):
                criteria.cell(
                    f"{net}-{criterion}",
                    seed,
                    accuracies=[0.97 + off, 0.96 + off, 0.9 + off * len(criterion) / 10],
                    choices={"mask_criterion": criterion, "model": net, "dataset": data},
                    experiment="deconstructing/criteria",
                )
    learned = FakeSweep(tmp_path, "learned")
    learned.reports["deconstructing/learned_supermasks"] = {"lines": ["method.rescale"]}
    for rescale in (False, True):
        for seed, off in enumerate(NOISE):
            learned.cell(
                f"learned-{rescale}",
                seed,
                accuracies=[0.94 + 0.02 * rescale + off],
                sparsities=[0.5],
                stages=[f"learned-{rescale}"],
                choices={
                    "method": "learned_supermask",
                    "dataset": "mnist",
                    "reset": "rewind",
                },
                experiment="deconstructing/learned_supermasks",
                method__rescale=rescale,
                method__bias=0.0,
            )
    return tmp_path


def test_figures_and_the_table_are_drawn_and_what_is_missing_is_marked(root: Path) -> None:
    console = Console(record=True, width=200)
    folder = draw_paper("deconstructing", root, console=console)
    table = pd.read_csv(folder / "table.csv").set_index(["net", "column"])
    assert len(table) == 4 * 7
    trained = table.loc[("fc", "trained weights")]
    assert (trained["n"], round(trained["mean"], 6), trained["published"]) == (3, 0.97, 0.977)
    learned = table.loc[("fc", "rescaled, initial weights")]
    assert (learned["n"], round(learned["mean"], 6)) == (3, 0.96)
    # conv4 was trained on MNIST, which is not the paper's.
    assert table.loc[("conv4", "trained weights")]["n"] == 0
    text = console.export_text()
    assert "figure 3: accuracy.png" in text
    assert (
        "missing conv4, conv6: python -m lt_sweeps experiment=deconstructing/criteria "
        "model=conv4,conv6" in text
    )
    assert "figure 4: not drawn" in text
    page = (folder / "index.html").read_text()
    assert "figure_3/accuracy.png" in page and "97.0 ± 1.0 (97.7)" in page and "missing" in page
    drawn = pd.read_csv(folder / "figure_3" / "summary.csv")
    assert set(drawn["model"]) == {"fc", "conv2"}


def test_a_root_without_its_experiments_is_answered_with_the_first_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "deconstructing", f"root={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert (
        "has no sweep of an experiment of deconstructing; missing fc: python -m lt_sweeps" in said
    )
    assert main(["paper", "deconstructin", f"root={tmp_path}"]) == 1
    assert "did you mean `deconstructing`" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(FOLDER.glob("_*.yaml")), ids=lambda path: path.stem)
def test_a_paper_names_experiments_and_nets_that_exist(path: Path) -> None:
    paper = Paper.named(path.stem[1:])
    named = {name for item in paper.items.values() for name in item.experiments}
    named |= {column.experiment for column in paper.table.values()}
    assert named <= options("experiment")
    assert {net for item in paper.items.values() for net in item.nets} <= options("model")
    assert {name for name in options("experiment") if name.startswith(f"{paper.name}/")} - {
        *named,
        *(f"{name}_quick" for name in named),
    } == set()


def test_a_quick_paper_takes_the_quick_variants(root: Path) -> None:
    with pytest.raises(ValueError, match="experiment=deconstructing/criteria_quick"):
        draw_paper("deconstructing", root, quick=True, console=Console(quiet=True))
