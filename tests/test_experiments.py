"""Every experiment plans and has a header, and its quick variant runs (`-m slow`)."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fixtures.command_line import composed
from fixtures.fake_results import unmeasured
from fixtures.paper_orderings import ORDERINGS
from fixtures.paper_trainings import TRAININGS, WEIGHTS, Trained
from fixtures.tiny_cell import imagenet

from lt_sweeps.analysis.curve import curves
from lt_sweeps.analysis.significance import named_pairs
from lt_sweeps.cli.command_line import main
from lt_sweeps.config import report_config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Train

PRESETS = sorted(options("experiment"))
SCRIPTS = sorted((Path(__file__).parents[1] / "launch").glob("*.sh"))
QUICK = [name for name in PRESETS if name.endswith("_quick")]


@pytest.fixture
def planned(
    cells: Callable[..., list[Cell]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Plan]:
    """Plan a command line in its own folder, which has a little ImageNet."""
    imagenet(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    return lambda *words: plan(cells(*words))


# The quick variants are run, so they need not be planned too.
@pytest.fixture(scope="module", params=[name for name in PRESETS if name not in QUICK])
def preset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Plan]:
    """An experiment and its plan for all of its nets, which is made once for two tests."""
    folder, name = tmp_path_factory.mktemp("preset"), request.param
    imagenet(folder / "imagenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        nets = f"model={','.join(TRAININGS[name])}"
        return name, plan(composed(patch, f"experiment={name}", nets, "seed=0"))


def test_every_net_of_a_preset_is_trained_as_its_paper_says(preset: tuple[str, Plan]) -> None:
    name, made = preset
    expected = TRAININGS[name]
    assert made.cells and {cell.labels["experiment"] for cell in made.cells} == {name}
    found: dict[str, set[Trained]] = {}
    for cell in made.cells:
        net = str(cell.cell.choices["model"])
        layers = [layer for layer in cell.last.network.layers if layer.name != "fc.weight"]
        assert sum(layer.size for layer in layers) == WEIGHTS[net]
        found.setdefault(net, set()).update(Trained.of(work) for work in cell.trainings)
    assert found == expected


@pytest.mark.parametrize("net", ["fc", "conv2", "conv4", "conv6"])
def test_a_net_is_pruned_in_the_rounds_of_its_paper(planned: Callable[..., Plan], net: str) -> None:
    (cell,) = planned(
        "experiment=deconstructing/criteria", f"model={net}", "seed=0", "mask_criterion=random"
    ).cells
    assert list(cell.levels.values()) == list(range(25))
    # The density after 24 rounds, of the weights of each kind: 0.9 of them stay, or 0.85, or 0.8.
    kept = {"conv": 0.85 if net == "conv6" else 0.9, "hidden": 0.8, "output": 0.9}
    weights = dict.fromkeys(kept, 0)
    for layer in cell.last.network.layers:
        weights[layer.kind] += layer.size
    left = sum(kept[kind] ** 24 * n for kind, n in weights.items())
    assert cell.last.target_sparsity == pytest.approx(1 - left / sum(weights.values()), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in QUICK])
def test_a_net_that_a_preset_does_not_define_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"experiment={name}", "model=wrn22_2"]) == 1
    said = capsys.readouterr().err
    assert re.search(rf"experiment {name} defines no (dataset and )?recipe for model=wrn22_2", said)
    assert "recipe=; it defines " in said and "Traceback" not in said


def test_a_net_without_presets_is_planned_as_the_command_line_defines_it(
    planned: Callable[..., Plan],
) -> None:
    words = ("dataset=digits", "recipe=digits", "seed=0", "mask_criterion=random")
    (cell,) = planned("experiment=deconstructing/criteria", "model=wrn22_2", *words).cells
    assert {(w.training.task.call.target, w.step) for w in cell.trainings} == {
        ("lt_sweeps.data.digits", 360)
    }


def test_keys_for_one_data_set_are_not_used_for_another(planned: Callable[..., Plan]) -> None:
    """CIFAR-10 is normalized for ResNet-20. MNIST has no such key, so its plan used to fail."""
    words = ("dataset=mnist", "seed=0", "mask_criterion=random", "schedule.levels=1")
    (cell,) = planned("experiment=deconstructing/criteria", "model=resnet20", *words).cells
    assert str(cell.last.training.task.call) == "mnist(validation=5000)"


def test_a_preset_compares_only_lines_that_it_has(preset: tuple[str, Plan]) -> None:
    """A misspelt name would silently drop a test, or draw published numbers as another line."""
    name, made = preset
    layout = report_config.layout(made.cells[0].cell.report)
    assert (layout.baseline or layout.pairs) and layout.lines
    drawn = curves(map(unmeasured, made.cells), metric="", layout=layout)
    lines = {line.name for line in drawn}
    assert lines <= layout.labels.keys() or name.startswith("continuous_sparsification/")
    known = lines | {line.label for line in drawn}
    asked = [*(layout.tested or ()), *layout.labels, *(layout.highlight or ())]
    asked += [line for line in (layout.baseline, layout.control) if line]
    asked += [published.label for published in layout.published]
    assert {*asked} <= known
    for pair in layout.pairs:
        assert named_pairs(drawn, replace(layout, pairs=[pair])), pair


def test_the_headers_say_what_differs_from_the_released_code() -> None:
    for name in PRESETS:
        if name.startswith("deconstructing/") and name not in QUICK:
            assert "# Differs:" in (CONF / "experiment" / f"{name}.yaml").read_text(), name


@pytest.mark.parametrize("name", PRESETS)
def test_a_title_is_a_question_and_has_no_answer(name: str) -> None:
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
    # What a header proposes is planned: `TRAININGS` has every net, each on its own data.
    proposed = re.findall(r"\b(model|dataset)=([\w,]+)", text)
    assert {group for group, _ in proposed} <= {"model"}
    assert {net for _, nets in proposed for net in nets.split(",")} <= TRAININGS[name].keys()


def test_a_header_says_how_many_trainings_a_preset_has(preset: tuple[str, Plan]) -> None:
    name, made = preset
    net, cost = next(iter(TRAININGS[name])), _cost_of(name)
    runs = 1 if "a run is" in cost else 5 if name.startswith("deconstructing/") else 3
    trained = {
        work.key
        for cell in made.cells
        if cell.cell.choices["model"] == net
        for work in cell.trainings
        if isinstance(work, Train)
    }
    said = re.findall(r"([\d,]+) (?:dense )?trainings", cost)
    assert f"{len(trained) * runs:,}" in said


def _cost_of(name: str) -> str:
    """The part of an experiment's header that says what it costs."""
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    (cost,) = re.findall(r"# Cost:(.*?)\n# \w+:", text, re.DOTALL)
    return re.sub(r"[\s#]+", " ", cost)


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
def test_a_quick_variant_runs_to_its_report(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"experiment={name}", "seed=0,1", "workers=1", f"root={tmp_path}"]
    if name.removesuffix("_quick") not in ORDERINGS:  # 197 images are enough to run
        words += ["dataset.validation=100", "dataset.test=1500"]
    assert main(words) == 0
    assert "Comparisons are left out" not in capsys.readouterr().out
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert any((sweep / "report").glob("*.png"))
    if name.startswith("deconstructing/"):
        assert len(pd.read_csv(sweep / "report" / "endpoint_tests.csv"))
    for ordering in ORDERINGS.get(name.removesuffix("_quick"), ()):
        ordering.check(sweep / "report")
