"""Every preset plans, says what it is for, and its quick variant runs (`-m slow`)."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fixtures.fake_results import unmeasured
from fixtures.paper_orderings import ORDERINGS
from fixtures.tiny_cell import imagenet

from lt_sweeps.analysis.curve import curves
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.config.report_config import layout
from lt_sweeps.plan.planning import plan

PRESETS = sorted(options("experiment"))
SCRIPTS = sorted((Path(__file__).parents[1] / "launch").glob("*.sh"))
QUICK = [name for name in PRESETS if name.endswith("_quick")]


# The quick variants are run, so they need not be planned too.
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in QUICK])
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
    config = layout(made.cells[0].cell.report)
    named = [*config.labels, *(config.highlight or ()), *(config.tested or ())]
    named += [line for line in (config.baseline, config.control) if line]
    lines = curves(map(unmeasured, made.cells), metric="", layout=config)
    assert set(named) <= {line.name for line in lines}


@pytest.mark.parametrize("name", PRESETS)
def test_a_title_asks_and_does_not_answer(name: str) -> None:
    # What the numbers say is for the report to find, from tests of them.
    preset = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    title = (preset.get("report") or {}).get("title", "?")
    assert title.endswith("?"), title


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in QUICK])
def test_a_preset_has_a_header_and_a_quick_variant(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    for word in ("# Question:", "# Command:", "# Cost:", "# Expect:", f"experiment={name}"):
        assert word in text, word
    assert f"{name}_quick" in QUICK


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_launch_script_is_a_command_and_names_the_preset_that_explains_it(script: Path) -> None:
    first, explained, third, *command = script.read_text().splitlines()
    assert (first, third) == ("#!/usr/bin/env bash", "set -euo pipefail")
    preset = re.match(
        r"# Question, cost and what to expect: conf/experiment/(\S+)\.yaml", explained
    )
    assert preset and command[0].startswith("python -m lt_sweeps ")
    assert all(line.endswith("\\") for line in command[:-1])
    header = (CONF / "experiment" / f"{preset[1]}.yaml").read_text()
    assert f"experiment={preset[1]}" in " ".join(command) or script.name in header


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_variant_runs_to_its_report(name: str, tmp_path: Path) -> None:
    assert main([f"experiment={name}", "seed=0,1", f"root={tmp_path}"]) == 0
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert any((sweep / "report").glob("*.png"))
    for ordering in ORDERINGS.get(name.removesuffix("_quick"), ()):
        ordering.check(sweep / "report")
