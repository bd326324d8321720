"""The command line from Python: `plan_words` and `run_words` take the words that a person types.

The words run as `python -m lt_sweeps` in a process of its own. A notebook or a script without a
main guard would else be imported again by each worker, and would lose its signal handlers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.api.opened_sweep import Sweep
from lt_sweeps.cli.command_line import PLANNING, SHOW
from lt_sweeps.cli.commands import VERBS
from lt_sweeps.config.trust import own_modules
from lt_sweeps.storage.sweep_folder import SweepFolder

_FOLDER = re.compile(r"^sweep +(.+)$", re.MULTILINE)
_COLOURS = {"FORCE_COLOR", "CLICOLOR_FORCE"}  # a notebook sets them for its own processes


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


def plan_words(*words: str, **keyed: object) -> SweepPlan:
    """Plan a multirun: `plan("mask_criterion=large_final,random", "seed=range(5)")`.

    Raises: ValueError: a word is wrong; the text is the line that the command line prints.
    """
    _check("plan", words, keyed)
    with _started("plan", *words) as process:
        lines = [line.rstrip() for line in process.stdout or () if line.rstrip() != PLANNING]
    folder = _FOLDER.search("\n".join(lines))
    if process.returncode or folder is None:
        raise ValueError(_mistake(lines) or "plan: these words plan nothing")
    return SweepPlan(words, "\n".join(lines).rstrip(), Path(folder[1]))


def run_words(*words: str, **keyed: object) -> Sweep:
    """Run a multirun to its end, here or by the launcher that the words name, and open it.

    Its lines are printed as they come. What is stored is not computed again. With
    `hydra/launcher=slurm` it returns when the jobs are submitted, and the sweep fills as they run.
    Modules of your own that the words name are trusted (see `open`): they have just run.

    Raises:
        ValueError: a word is wrong, or runs nothing.
        RuntimeError: the run failed; what is done is kept, and the same words go on.
    """
    _check("run", words, keyed)
    folder, lines = None, []
    with _started(*words) as process:
        for line in process.stdout or ():
            line = line.rstrip()  # rich fills each line up to the 500 columns that it is told of
            print(line)
            lines.append(line)
            folder = folder or _FOLDER.search(line)
    if folder is None:
        raise ValueError(_mistake(lines) or "run: these words run nothing")
    if process.returncode:
        raise RuntimeError(f"run: ended with status {process.returncode}: {_mistake(lines)}")
    if not (sweep := SweepFolder(Path(folder[1]))).exists:
        raise ValueError("run: with dry_run=true nothing runs; lt.plan shows what would")
    manifest = sweep.manifest
    named = [*(dict(cell.config) for cell in manifest.cells), *map(dict, manifest.reports.values())]
    return Sweep(Path(folder[1]), tuple(own_modules(named)))


def _check(where: str, words: tuple[object, ...], keyed: Mapping[str, object]) -> None:
    """Raises: ValueError: a word is no text, or one for a terminal, such as a command."""
    for key, value in keyed.items():
        text = f"{key}={value}"
        raise ValueError(f"{where}: got {text}; give each override as a text: lt.{where}({text!r})")
    for word in words:
        if not isinstance(word, str):
            example = f'lt.{where}("seed=0", "mask_criterion=random")'
            raise ValueError(f"{where}: got {word!r}; give each override as a text: {example}")
        if word in ("plan", *VERBS) or word.partition("=")[0] in SHOW:
            raise ValueError(f"{where}: got {word}, which is for a terminal; give overrides alone")


@contextmanager
def _started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which has ended when the context is left."""
    kept = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    paths = os.pathsep.join(filter(None, sys.path))  # it finds the modules that are found here
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it prints what can be shown here
    process = subprocess.Popen(
        [sys.executable, "-m", "lt_sweeps", *words],
        env={
            **kept,
            "PYTHONPATH": paths,
            "PYTHONIOENCODING": encoding,
            "TERM": "dumb",
            "COLUMNS": "500",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding=encoding,
        errors="replace",
    )
    try:
        yield process
    except BaseException:  # an interrupt, or whoever reads the lines has gone
        process.send_signal(signal.SIGINT)  # it saves, and the same words go on
        raise
    finally:
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _mistake(lines: list[str]) -> str:
    """The last error that a command printed, or its last line."""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line] or [""])[-1]
