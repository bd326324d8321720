"""The words of the command line in Python: a plan, and a run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lt_sweeps as lt

TINY = ("recipe.length=2ep", "schedule.levels=1", "mask_criterion=large_final", "tracker=none")


def test_a_plan_is_what_the_command_line_prints(tmp_path: Path) -> None:
    import_module("lt_sweeps.plan")  # the room of that name does not hide the function
    found = lt.plan(*TINY, "seed=range(2)", f"root={tmp_path}")
    assert "trainings  4 distinct" in found.summary and repr(found) == found.summary
    assert found.folder.parent == tmp_path / "sweeps" and not found.folder.exists()


def test_a_wrong_word_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^mask_criterion: magnitud; did you mean .*") as caught:
        lt.plan("mask_criterion=magnitud", f"root={tmp_path}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="magnitud; did you mean"):
        lt.run("mask_criterion=magnitud", f"root={tmp_path}")


def test_a_script_runs_a_sweep_and_reads_it(tmp_path: Path) -> None:
    # Without a main guard: processes that are started import such a script again.
    words = [*TINY, "seed=0,1", "workers=1", f"root={tmp_path / 'results'}"]
    script = tmp_path / "script.py"
    script.write_text(
        "import lt_sweeps as lt\n"
        f"sweep = lt.run(*{words})\n"
        "ticket = sweep.ticket(level=1, seed=1)\n"
        "row = sweep.frame().query('level == 1 and seed == 1').iloc[0]\n"
        "assert ticket.evaluate(at='end').accuracy == row.end_test_accuracy\n"
        "print('rows', len(sweep.frame()))\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("rows 4\n") and "report" in found.stdout
