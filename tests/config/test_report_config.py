"""What an experiment may say of its report, and what is answered to a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from lt_sweeps.config.errors import CONF
from lt_sweeps.config.report_config import ReportConfig, layout
from lt_sweeps.plan.planning import plan


def test_the_yaml_that_explains_the_keys_holds_every_key_at_its_default() -> None:
    assert yaml.safe_load((CONF / "report" / "_keys.yaml").read_text()) == asdict(ReportConfig())


FC = {"model": "fc", "dataset": "mnist"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bands": "ci"}, r"report: .* takes no \['bands'\].*did you mean `band`"),
        ({"band": "iqr"}, "report.band: got 'iqr'; give one of range, sd, ci"),
        ({"metrics": ["tst_accuracy"]}, "report.metrics: got 'tst_accuracy'.*mean `test_accuracy`"),
        ({"equivalence": 0}, "report.equivalence: got 0; give auto, .* or null"),
        ({"metrics": []}, "report.metrics: got none"),
        ({"figures": ["layer"]}, "report.figures: got 'layer'; did you mean `layers`"),
        ({"alpha": 5}, "report.alpha: got 5"),
        ({"ylim": [0.9, 0.8]}, "report.ylim: .*lower, upper"),
        ({"margin": "2 points"}, "report.margin: got '2 points'"),
        ({"margin": -0.1}, "report.margin: got -0.1"),
        ({"masks_at": [90]}, "report.masks_at: got .90"),
        ({"published": [{"label": "a", "points": [[0, 1]]}]}, r"report.published: .*\['source'\]"),
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
    from dataclasses import replace

    from fixtures.tiny_cell import settings

    from lt_sweeps.execution.submission import Submission

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
    from dataclasses import replace

    from fixtures.tiny_cell import settings

    from lt_sweeps.execution.submission import Submission

    wrong = plan([replace(cell(), report={"metrics": ["test_acuracy"]})])
    with pytest.raises(
        ValueError, match=r"report.metrics: got 'test_acuracy'; did you mean `test_"
    ):
        Submission(wrong, settings(tmp_path, "s"))


def test_a_mistake_in_the_layout_is_said_when_the_plan_is_made(cell: Callable[..., Any]) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"report: .* takes no \['lines_by'\]"):
        plan([replace(cell(), report={"lines_by": []})])
