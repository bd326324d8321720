"""The command line from Python: `plan_words` and `run_words` accept the words of a command line.

The words run as `python -m lt_sweeps` in a separate process. If they ran in the process of the
notebook or script, each worker would import a script without a main guard again, and the script's
own signal handlers would be replaced.
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
_COLOURS = {"FORCE_COLOR", "CLICOLOR_FORCE"}  # notebooks set these for their child processes


@dataclass(frozen=True)
class SweepPlan:
    """The work that overrides would run; nothing has been computed.

    `summary` is the output of `lt-sweeps plan`: cells, trainings, time and disk.
    """

    words: tuple[str, ...]
    summary: str
    folder: Path

    def __repr__(self) -> str:
        return self.summary


def plan_words(*words: str, **keyed: object) -> SweepPlan:
    """Plan a multirun: `plan("mask_criterion=large_final,random", "seed=range(5)")`.

    Raises: ValueError: an override is wrong; the message is the one that the command line prints.
    """
    _check("plan", words, keyed)
    with _started("plan", *words) as process:
        lines = [line.rstrip() for line in process.stdout or () if line.rstrip() != PLANNING]
    folder = _FOLDER.search("\n".join(lines))
    if process.returncode or folder is None:
        raise ValueError(_mistake(lines) or "plan: these words do not plan a sweep")
    return SweepPlan(words, "\n".join(lines).rstrip(), Path(folder[1]))


def run_words(*words: str, **keyed: object) -> Sweep:
    """Run a multirun, here or with the launcher that the words name, and open its sweep.

    Output is printed as it arrives. Stored results are not computed again. With
    `hydra/launcher=slurm` it returns once the jobs are submitted, and the sweep fills as they run.
    Your own modules that the words name are trusted (see `open`), because they have just run.

    Raises:
        ValueError: an override is wrong, or the words run nothing.
        RuntimeError: the run failed; finished work is kept, and the same words continue it.
    """
    _check("run", words, keyed)
    folder, lines = None, []
    with _started(*words) as process:
        for line in process.stdout or ():
            line = line.rstrip()  # rich pads each line to the 500 columns set below
            print(line)
            lines.append(line)
            folder = folder or _FOLDER.search(line)
    if folder is None:
        raise ValueError(_mistake(lines) or "run: these words do not start a sweep")
    if process.returncode:
        raise RuntimeError(f"run: ended with status {process.returncode}: {_mistake(lines)}")
    if not (sweep := SweepFolder(Path(folder[1]))).exists:
        raise ValueError("run: with dry_run=true nothing runs; lt.plan shows what would")
    manifest = sweep.manifest
    configs = [
        *(dict(cell.config) for cell in manifest.cells),
        *map(dict, manifest.reports.values()),
    ]
    return Sweep(Path(folder[1]), tuple(own_modules(configs)))


def _check(where: str, words: tuple[object, ...], keyed: Mapping[str, object]) -> None:
    """Raises: ValueError: a word is not a string, or makes sense only in a terminal (a command)."""
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
    """Run the command in a separate process, and wait for its end when leaving the context."""
    environment = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    paths = os.pathsep.join(filter(None, sys.path))  # so that the process finds the same modules
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # the one it prints in
    process = subprocess.Popen(
        [sys.executable, "-m", "lt_sweeps", *words],
        env={
            **environment,
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
    except BaseException:  # an interrupt, or an error while reading the lines
        process.send_signal(signal.SIGINT)  # the process saves, and the same words continue
        raise
    finally:
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _mistake(lines: list[str]) -> str:
    """The last error that a command printed, or else the last line that is not empty."""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line] or [""])[-1]
