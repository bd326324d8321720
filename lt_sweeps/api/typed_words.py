"""The command line from Python: `plan_words` and `run_words` take the words that a person types."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.api.opened_sweep import Sweep
from lt_sweeps.execution.hydra_plugins import CellLauncher
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import plan


@dataclass(frozen=True)
class SweepPlan:
    """What words of the command line would run; nothing was computed.

    `summary` is what `lt-sweeps plan` prints: cells, trainings, time and disk.
    """

    words: tuple[str, ...]
    summary: str
    folder: Path

    def __repr__(self) -> str:
        return self.summary


def plan_words(*words: str) -> SweepPlan:
    """Plan a multirun: `plan("mask_criterion=large_final,random", "seed=range(5)")`.

    Raises: ValueError: a word is wrong; the text is the line that the command line prints.
    """
    from lt_sweeps.cli.command_line import main

    shown, said, before = io.StringIO(), io.StringIO(), CellLauncher.launched
    CellLauncher.launched = ()
    try:
        with redirect_stdout(shown), redirect_stderr(said):
            status = main(["plan", *words])
        cells = CellLauncher.launched
    finally:
        CellLauncher.launched = before
    if status or not cells:
        raise ValueError(said.getvalue().strip().removeprefix("error: ") or "plan: nothing planned")
    folder = Submission(plan(cells), RunSettings.of(cells)).folder
    return SweepPlan(words, shown.getvalue().rstrip(), folder)


def run_words(*words: str, trust: tuple[str, ...] | str = ()) -> Sweep:
    """Run a multirun to its end, here or by the launcher that the words name, and open it.

    It runs in a process of its own, as `python -m lt_sweeps`, whose lines are printed as they
    come. What is stored is not computed again. With `hydra/launcher=slurm` it returns when the
    jobs are submitted, and the sweep fills as they run.

    Raises:
        ValueError: a word is wrong.
        RuntimeError: the run failed; what is done is kept, and the same words go on.
    """
    folder = plan_words(*words).folder
    paths = os.pathsep.join(filter(None, sys.path))  # the modules that are found here
    process = subprocess.Popen(
        [sys.executable, "-m", "lt_sweeps", *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    last = ""
    try:
        for line in process.stdout:
            print(line, end="")
            last = line.strip() or last
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.wait():
        raise RuntimeError(f"run: ended with status {process.returncode}: {last}")
    return Sweep(folder, (trust,) if isinstance(trust, str) else tuple(trust))
