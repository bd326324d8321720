"""Every preset plans, says what it is for, and its quick variant runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.paper_orderings import ORDERINGS
from fixtures.tiny_cell import imagenet

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.plan.planning import plan

PRESETS = sorted(options("experiment"))
QUICK = [name for name in PRESETS if name.endswith("_quick")]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_plans(
    cells: Callable[..., list[Cell]],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name.endswith("imagenet"):
        imagenet(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    made = plan(cells(f"experiment={name}"))
    assert made.cells and {cell.labels["experiment"] for cell in made.cells} == {name}


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in QUICK])
def test_a_preset_has_a_header_and_a_quick_variant(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    for word in ("# Question:", "# Command:", "# Cost:", "# Expect:", f"experiment={name}"):
        assert word in text, word
    assert f"{name}_quick" in QUICK


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_variant_runs_to_its_report(name: str, tmp_path: Path) -> None:
    assert main([f"experiment={name}", "seed=0,1", f"root={tmp_path}"]) == 0
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert any((sweep / "report").glob("*.png"))
    for ordering in ORDERINGS.get(name.removesuffix("_quick"), ()):
        ordering.check(sweep / "report")
