"""What a multirun asks of the machine, whichever launcher runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps import __version__
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.tracking.tracker import tracker_of
from lt_sweeps.training.backends.backend import BACKENDS


@dataclass(frozen=True)
class RunSettings:
    """The keys of a config that are one for all cells of a multirun."""

    root: Path
    device: str
    workers: int | None  # None: auto
    stack_size: int | None  # None: auto
    machine: Machine
    name: str | None
    dry_run: bool
    budget: float | None  # GPU-hours

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> RunSettings:
        """Raises: ValueError: cells that disagree, or a value that is none."""
        config = cells[0].config
        for key in SHARED_KEYS:
            if any(cell.config.get(key) != config.get(key) for cell in cells):
                raise ValueError(f"{key}: one value for all cells of a multirun")
        if config["backend"] not in BACKENDS:
            raise ValueError(f"backend: {config['backend']!r}; it is one of {list(BACKENDS)}")
        for key in ("root", "data_dir"):
            if not isinstance(config[key], str):
                raise ValueError(f"{key}: {config[key]!r} is no folder")
        if not isinstance(config["dry_run"], bool):
            raise ValueError(f"dry_run: {config['dry_run']!r}; it is true or false")
        tracker_of(config["tracker"])
        every = number("checkpoint_every", config["checkpoint_every"], "seconds, 0 for every step")
        return cls(
            Path(config["root"]),
            config["device"],
            count("workers", config["workers"]),
            count("stack_size", config["stack_size"]),
            Machine(backend=config["backend"], checkpoint_every=every, code_version=code_version()),
            config["name"],
            config["dry_run"],
            _budget(config.get("budget")),
        )


def count(key: str, value: Any) -> int | None:
    """A whole number from 1 up, or None for `auto`."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}: {value!r}; give `auto` or a whole number from 1 up")
    return value


def number(key: str, value: Any, what: str) -> float:
    """A number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{key}: {value!r}; give {what}")
    return float(value)


def _budget(given: Any) -> float | None:
    keys = list(given) if isinstance(given, dict) else given
    if given is not None and keys != ["gpu_hours"]:
        raise ValueError(f"budget: {keys!r}; its key is `gpu_hours`")
    if given is None or given["gpu_hours"] is None:
        return None
    return number("budget.gpu_hours", given["gpu_hours"], "hours, or null for no limit")


def code_version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    tracked = subprocess.run(
        [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True
    )
    return f"{__version__}+{commit.stdout.strip()}" if tracked.returncode == 0 else __version__
