"""The report section of a config: what it may contain, and the answers to mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.tiny_cell import settings

from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.sweep_analysis import analyses, check_typed
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.report_config import ReportConfig, layout
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import plan


def test_the_yaml_that_explains_the_keys_holds_every_key_at_its_default() -> None:
    assert yaml.safe_load((CONF / "report" / "_keys.yaml").read_text()) == asdict(ReportConfig())


FC = {"model": "fc", "dataset": "mnist"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bands": "ci"}, r"report: bands; did you mean `band`\? keys: "),
        ({"band": "iqr"}, "report.band: got 'iqr'; give one of range, sd, ci"),
        ({"metrics": ["tst_accuracy"]}, "report.metrics: got 'tst_accuracy'.*mean `test_accuracy`"),
        ({"equivalence": 0}, "report.equivalence: got 0; give auto, .* or null"),
        ({"metrics": []}, "report.metrics: got none"),
        ({"figures": ["layer"]}, "report.figures: got 'layer'; did you mean `layers`"),
        ({"alpha": 5}, "report.alpha: got 5"),
        ({"ylim": [0.9, 0.8]}, "report.ylim: .*lower, upper"),
        ({"ylim": 3}, "report.ylim: got 3; give .lower, upper. in the records' unit, or null"),
        ({"pairs": ["random"]}, "report.pairs: got .*; give a list of pairs: ..line, other line"),
        ({"margin": "2 points"}, "report.margin: got '2 points'"),
        ({"margin": -0.1}, "report.margin: got -0.1"),
        ({"masks_at": [90]}, "report.masks_at: got .90"),
        ({"published": [{"label": "a", "points": [[0, 1]]}]}, r"report.published: .*source"),
        (
            {"published": [{"label": "a", "source": "s", "where": {"model": "fc"}, "points": []}]},
            "report.published: a names no dataset; give where={model: NAME, dataset: NAME}",
        ),
        (
            {"published": [{"label": "a", "source": "s", "where": FC, "points": [[58.9, 0.9]]}]},
            "report.published: got .58.9, 0.9",
        ),
        (
            {"published": [{"label": "a", "source": "s", "points": [[0, "97%"]]}]},
            "report.published.points: got .*; give a list of: a list of: a number",
        ),
        (
            {
                "published": [
                    {"label": "a", "source": "s", "where": FC, "metric": "peak", "points": [[0, 1]]}
                ]
            },
            "an endpoint has a `value`",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layout(given)


def test_the_layout_changes_no_signature_and_lies_in_the_manifest(
    cell: Callable[..., Any], tmp_path: Path
) -> None:
    bare = cell()
    drawn = replace(bare, report={"band": "ci"})
    one, other = plan([bare]), plan([drawn])
    assert one.cells[0].signature == other.cells[0].signature
    sweep = Submission(other, settings(tmp_path, "s")).freeze([])
    manifest = json.loads((sweep.folder / "manifest.json").read_text())
    assert manifest["reports"] == {"default": {"band": "ci"}}
    assert all("report" not in each["config"] for each in manifest["cells"])


def test_a_metric_that_no_cell_has_is_refused_when_the_plan_is_made(
    cell: Callable[..., Any], tmp_path: Path
) -> None:
    wrong = plan([replace(cell(), report={"metrics": ["test_acuracy"]})])
    with pytest.raises(
        ValueError, match=r"report.metrics: got 'test_acuracy'; did you mean `test_"
    ):
        Submission(wrong, settings(tmp_path, "s"))


@pytest.mark.parametrize("key", ["margin", "equivalence"])
def test_a_margin_in_percent_of_a_fraction_is_refused_when_the_plan_is_made(
    cell: Callable[..., Any], tmp_path: Path, key: str
) -> None:
    wrong = plan([replace(cell(), report={key: 5})])
    with pytest.raises(ValueError, match=f"report.{key}: got 5; test accuracy is a fraction: give"):
        Submission(wrong, settings(tmp_path, "s"))


def test_a_margin_is_compared_with_the_metrics_of_its_own_report(
    cell: Callable[..., Any], tmp_path: Path
) -> None:
    """A margin of 5 can be right for a loss, even next to an experiment about accuracy."""
    of_loss = replace(cell(), report={"metrics": ["test_loss"], "margin": 5})
    Submission(plan([of_loss, cell(seed=1)]), settings(tmp_path, "s"))


def test_a_mistake_in_the_layout_is_refused_when_the_plan_is_made(cell: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="report: lines_by; .*keys: "):
        plan([replace(cell(), report={"lines_by": []})])


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            {"baseline": "randm"},
            "report.baseline: no line is called `randm`; did you mean `random`",
        ),
        ({"tested": ["large"]}, "report.tested: no line is called `large`"),
        ({"control": "rewound"}, "report.control: no line is called `rewound`"),
        ({"highlight": ["x"]}, "report.highlight: no line is called `x`"),
        ({"pairs": [["random", "y"]]}, "report.pairs: no line is called `y`"),
        (
            {"lines": ["criterion"]},
            "report.lines: these cells have no group or setting `criterion`",
        ),
        ({"along": ["recipe.rate"]}, "report.along: these cells have no .* `recipe.rate`"),
        (
            {"lines": ["reset"]},
            "report.lines: 2 curves of .* are all called `reset`; they differ in",
        ),
        ({"baseline": "random", "tested": ["final"], "labels": {"large": "final"}}, ""),
        ({"lines": ["mask_criterion"], "control": "large_final"}, ""),
    ],
)
def test_lines_that_no_cell_has_are_refused_when_the_plan_is_made(
    cell: Callable[..., Any], tmp_path: Path, report: dict[str, Any], line: str
) -> None:
    made = plan(named_cells(cell, report))
    submission = Submission(made, settings(tmp_path, "s"))
    if not line:
        submission.check_asked()
        return
    with pytest.raises(ValueError, match=line) as refused:
        submission.check_asked()
    # A report of their results would say the same.
    with pytest.raises(ValueError) as late:
        analysis = analyses(read_results(submission.freeze([]).folder, metrics=()), {})[""]
        _ = analysis.all_verdicts
    late_line, line = (str(each.value).partition(" groups are")[0] for each in (late, refused))
    assert late_line == line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"labels": {"large_fina": "IMP"}}, "labels: .* `large_fina`; did you mean `large_final`"),
        ({"baseline": "later"}, "report.baseline: no line is called `later`"),
        ({"tested": ["later"]}, "report.tested: no line is called `later`"),
        ({"control": "later"}, "report.control: no line is called `later`"),
        ({"pairs": [["random", "later"]]}, "report.pairs: no line is called `later`"),
        ({"baseline": "large final", "labels": {"large_final": "large final"}}, ""),
    ],
)
def test_a_line_that_was_typed_must_be_in_the_sweep(
    cell: Callable[..., Any], tmp_path: Path, typed: dict[str, Any], said: str
) -> None:
    """An experiment also labels lines that a smaller sweep lacks; such a label names no line."""
    labels = {"movement": "later", **typed.get("labels", {})}
    made = plan(named_cells(cell, {**typed, "labels": labels}))
    # In Hydra's grammar a key inside braces has no quotes.
    texts = {key: re.sub(r'"(\w+)":', r"\1:", json.dumps(value)) for key, value in typed.items()}
    words = [f"++report.{key}={text}" for key, text in texts.items()]
    Submission(made, settings(tmp_path, "s")).check_asked()  # not typed, but the experiment's
    submission = Submission(made, replace(settings(tmp_path, "s"), words=tuple(words)))
    results = read_results(submission.freeze([]).folder, metrics=())
    if not said:
        submission.check_asked()
        check_typed(analyses(results, typed).values(), typed)
        return
    with pytest.raises(ValueError, match=said):
        submission.check_asked()
    with pytest.raises(ValueError, match=said):
        check_typed(analyses(results, typed).values(), typed)


def test_a_name_that_only_records_can_confirm_is_not_refused_by_a_plan(
    cell: Callable[..., Any], tmp_path: Path
) -> None:
    asked = {"baseline": "of a schedule"}
    further = [c for levels in (2, 3) for c in named_cells(cell, asked, schedule__levels=levels)]
    Submission(plan(further), settings(tmp_path, "s")).check_asked()
    cells = named_cells(cell, {"baseline": "of an earlier trial"})
    Submission(plan(cells), replace(settings(tmp_path, "s"), search="mine")).check_asked()
    tasks = [cell(), replace(cell(task=OTHER_TASK), choices={**cell().choices, "task": "other"})]
    several = [replace(each, report={"baseline": "of a panel"}) for each in tasks]
    Submission(plan(several), settings(tmp_path, "t")).check_asked()


OTHER_TASK = {
    "loss": {"_target_": "torch.nn.functional.cross_entropy"},
    "metrics": {"share": {"_target_": "lt_sweeps.training.metrics.accuracy"}},
    "metric": None,
    "output": None,
}


def named_cells(cell: Callable[..., Any], report: dict[str, Any], **changes: Any) -> list[Any]:
    """One cell for each of two criteria, with a report."""
    target = "lt_sweeps.sparsity.criteria."
    made = {
        name: cell(mask_criterion={"_target_": target + name}, **changes)
        for name in ("random", "large_final")
    }
    return [
        replace(each, report=report, choices={**each.choices, "mask_criterion": name})
        for name, each in made.items()
    ]
