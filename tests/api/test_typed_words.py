"""The words of the command line in Python: a plan, and a run in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from fixtures.command_line import REPOSITORY

import lt_sweeps as lt


def test_a_wrong_word_is_an_error_of_one_line(tmp_path: Path) -> None:
    import_module("lt_sweeps.plan")  # the room of that name does not hide the function
    with pytest.raises(ValueError, match=r"^mask_criterion: magnitud; did you mean .*") as caught:
        lt.plan("mask_criterion=magnitud", f"root={tmp_path}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^mask_criterion: magnitud; did you mean"):
        lt.run("mask_criterion=magnitud", f"root={tmp_path}")


def test_the_notebook_runs_as_a_script(tmp_path: Path) -> None:
    # It has no main guard, so this also holds that no process that is started imports it again.
    cells = json.loads((REPOSITORY / "launch" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([*code, "print(accuracy, ticket.record.test_accuracy)"]))
    found = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert found.returncode == 0, found.stderr
    assert "trainings  27 distinct" in found.stdout
    assert found.stdout.count("SavedTicket(cell ") == 5  # the ticket, and what it was pruned from
    measured, reported = map(float, found.stdout.split()[-2:])
    assert measured == pytest.approx(reported)
