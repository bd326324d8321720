"""`lt.plan` and `lt.run` take the words of the command line; a run has its own process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures.command_line import REPOSITORY
from fixtures.tiny_cell import settings
from torch import Tensor

import lt_sweeps as lt
from lt_sweeps.api import typed_words
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import plan

# The network of each ticket is the one whose accuracy its row reports, at its step or at the end.
_REPORTED = """
rows = [row for row in frame.itertuples() if not row.repeats]
tickets = [(row, sweep.ticket(stage=row.stage, seed=row.seed)) for row in rows]
differ = [row for row, t in tickets if t.evaluate("test").accuracy != row.test_accuracy]
early = sum(row.reported_step != row.step for row in rows)
assert early > 5
print(early, "tickets of an earlier step,", len(differ), "differ")
"""


def test_a_wrong_argument_is_an_error_of_one_line(tmp_path: Path) -> None:
    import_module("lt_sweeps.plan")  # the room of that name does not hide the function
    with pytest.raises(ValueError, match=r"^mask_criterion: magnitud; did you mean .*") as caught:
        lt.plan("mask_criterion=magnitud", f"root={tmp_path}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^mask_criterion: magnitud; did you mean"):
        lt.run("mask_criterion=magnitud", f"root={tmp_path}")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (["seed=0"], r"got \['seed=0'\]; give each override as a text: lt.plan\("),
        ("report", "got report, which is for a terminal; give overrides alone"),
        ("--help", "got --help, which is for a terminal"),
        ("--cfg=job", "got --cfg=job, which is for a terminal"),
    ],
)
def test_a_word_that_only_a_terminal_takes_is_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^plan: {message}"):
        lt.plan(word)
    with pytest.raises(ValueError, match="^run: got "):
        lt.run("seed=0", word)


def test_a_run_with_dry_run_true_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(stdout=[f"sweep      {tmp_path}\n"], returncode=0)
    monkeypatch.setattr(typed_words, "_started", lambda *words: nullcontext(process))
    with pytest.raises(ValueError, match="^run: with dry_run=true nothing runs; lt.plan shows"):
        lt.run("dry_run=true")


def test_a_run_prints_what_the_terminal_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "python"
    command.write_text("#!/bin/sh\nprintf 'error: \\261 in %s\\n' $PYTHONIOENCODING\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding="ascii"))
    with pytest.raises(ValueError, match="^\N{REPLACEMENT CHARACTER} in ascii$"):
        lt.plan("seed=0")


def score(final: Tensor) -> Tensor:
    """A user-defined criterion."""
    return final.abs()


def test_a_run_trusts_the_modules_that_its_words_name(
    cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = cell(mask_criterion={"_target_": f"{__name__}.score"})
    own = replace(own, report={"figures": [{"_target_": "theirlab.figures.draw", "name": "mine"}]})
    sweep = Submission(plan([own]), settings(tmp_path, "mine")).freeze([])
    process = SimpleNamespace(stdout=[f"sweep      {sweep.folder}\n"], returncode=0)
    monkeypatch.setattr(typed_words, "_started", lambda *words: nullcontext(process))
    assert lt.run("name=mine").trust == (__name__, "theirlab.figures")


def test_the_notebook_runs_as_a_script(tmp_path: Path) -> None:
    # It has no main guard, so this also holds that no process that is started imports it again.
    cells = json.loads((REPOSITORY / "launch" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([*code, _REPORTED, "print(accuracy, ticket.record.test_accuracy)"]))
    found = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "trainings  27 distinct" in found.stdout
    assert all(line == line.rstrip() for line in found.stdout.splitlines())
    assert found.stdout.count("SavedTicket(cell ") == 5  # the ticket, and what it was pruned from
    assert " tickets of an earlier step, 0 differ" in found.stdout
    measured, reported = map(float, found.stdout.split()[-2:])
    assert measured == pytest.approx(reported)


def test_a_keyword_is_answered_with_the_text_to_give() -> None:
    room: Any = import_module("lt_sweeps.plan")  # Python finds it where `plan` was imported
    for where, function in (("plan", typed_words.plan_words), ("plan", room), ("run", lt.run)):
        line = f"{where}: got seed=0; give each override as a text: lt.{where}('seed=0')"
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            function(seed=0)
