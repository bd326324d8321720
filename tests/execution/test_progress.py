"""The live panel shows finished work, results and remaining work within the terminal's height."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures.tiny_cell import settings
from rich.console import Console

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.report_config import layout
from lt_sweeps.execution import progress
from lt_sweeps.execution.progress import ProgressPanel, latest_score
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_facts import TicketFacts

Make = Callable[..., Cell]
Swept = Callable[..., Path]
RATES = (0.1, 0.01)


@pytest.fixture
def sweep(cell: Make, swept: Swept) -> SweepFolder:
    """A sweep of two learning rates with two seeds each, trained."""
    cells = [cell(recipe__lr=rate, seed=seed) for rate in RATES for seed in (0, 1)]
    folder = swept(*cells)
    made = plan(cells)
    alone = packs(made.units, stack_size={u.stage.key: 2 for u in made.units}, workers=1)
    return Submission(made, settings(folder.parent.parent, "tiny")).freeze(alone)


def shown(panel: ProgressPanel, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as captured:
        console.print(panel._render())
    return [line.rstrip() for line in captured.get().splitlines()]


def panel_of(sweep: SweepFolder, *, height: int = 24, terminal: bool = True) -> ProgressPanel:
    console = Console(file=io.StringIO(), force_terminal=terminal, height=height, width=80)
    return ProgressPanel(sweep, sweep.manifest.packs, console)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time on the panel's clock, which stands still."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_the_panel_shows_trainings_scores_and_time(sweep: SweepFolder) -> None:
    panel, packs = panel_of(sweep), sweep.manifest.packs
    total = sum(len(pack.units) for pack in packs)
    panel.start(packs[0])
    panel.step(packs[0], sweep.manifest.stages[packs[0].units[0][0]].start + 1)
    first, at_work, *scores = shown(panel)
    assert f" 0 of {total} trainings, 0:00 elapsed, 0:" in first and first.endswith(" left")
    count = len(packs[0].units)
    networks = "1 network" if count == 1 else f"{count} networks"
    assert at_work.startswith(f"  level 0: {networks}, step 1 of ")
    assert not scores
    for pack in packs:
        panel.start(pack)
        panel.stop(pack, done=True)
    first, *scores = shown(panel)
    assert f"100% {total} of {total} trainings, 0:00 elapsed, 0:00 left" in first
    levels = max(sweep.manifest.cells[0].levels.values())
    for name, line in zip(("lr=0.1", "lr=0.01"), scores, strict=True):
        assert line.startswith(f"  {name} ") and line.endswith(" % left  2 of 2 seeds")
        assert " test accuracy " in line and f" level {levels} " in line


@pytest.mark.parametrize(
    ("metrics", "scores", "shown"),
    [
        (["test_metric"], {"best_test_accuracy": 0.5}, "test accuracy 50.00%"),
        (["end_val_loss"], {"end_val_loss": 0.25, "best_val_loss": 0.5}, "end val loss 0.2500"),
        (["test_metric"], {"metric": "r2", "metrics": {"best_test_r2": 0.25}}, "test R2 0.2500"),
        (["test_metric"], {"metric": "r2", "metrics": {"best_test_r2": None}}, None),
        (None, {"best_test_accuracy": 0.5}, "test accuracy 50.00%"),
    ],
)
def test_the_score_is_the_first_metric_of_the_report(
    metrics: list[str] | None, scores: dict[str, Any], shown: str | None
) -> None:
    """conf/report has `test_metric`, which stands for the task's main metric."""
    report = {} if metrics is None else {"metrics": metrics}
    facts = [TicketFacts(step=3, metrics=scores), TicketFacts(step=3, metrics=scores)]
    assert latest_score(facts, layout(report).metrics[0], "best") == (shown and (shown, 2))


def test_a_part_that_is_stored_counts_and_a_failure_is_said(sweep: SweepFolder) -> None:
    *stored, last = sweep.manifest.packs
    panel = ProgressPanel(sweep, [last], Console(file=io.StringIO()))
    before = sum(len(pack.units) for pack in stored)
    total = before + len(last.units)
    assert f" 0% {before} of {total} trainings, " in shown(panel)[0]
    sweep.fail(last.units[0], "it broke", last.name)
    panel.start(last)
    panel.stop(last, done=False)
    assert f"{before} of {total} trainings, 1 failed, " in shown(panel)[0]


@pytest.mark.parametrize("height", [1, 4, 5, 8])
def test_the_panel_is_no_higher_than_the_terminal(sweep: SweepFolder, height: int) -> None:
    panel = panel_of(sweep, height=height)
    for pack in sweep.manifest.packs:
        panel.stop(pack, done=True)
    for number, pack in enumerate(sweep.manifest.packs):
        panel.start(pack.part(pack.units[:1]) if number else pack)
    for width in (80, 30):
        assert len(shown(panel, width=width, height=height)) <= height


def test_in_a_pipe_a_line_tells_it_now_and_then(sweep: SweepFolder, now: list[float]) -> None:
    panel = panel_of(sweep, terminal=False)
    with panel:
        for pack in sweep.manifest.packs:
            panel.start(pack)
            now[0] += 12.0
            panel.stop(pack, done=True)
    output = panel._console.file
    assert isinstance(output, io.StringIO)
    lines = output.getvalue().splitlines()
    assert 2 <= len(lines) <= 5 and "\x1b" not in output.getvalue()  # after 12, 36, 84, ... seconds
    assert " trainings, 0:12 elapsed, " in lines[0]
    assert " seeds" in lines[-1]


def test_names_are_those_of_the_report(sweep: SweepFolder) -> None:
    from lt_sweeps.analysis.sweep_analysis import line_names

    panel = panel_of(sweep)
    named = [panel._scores._names[cell.signature] for cell in sweep.manifest.cells]
    assert named == line_names(sweep)
