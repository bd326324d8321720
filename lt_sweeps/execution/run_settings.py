"""The config keys that say where and how a multirun runs; every launcher reads them from here."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lt_sweeps import __version__
from lt_sweeps.analysis.objective import Objective
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import KEEPS, SHARED_KEYS
from lt_sweeps.config.quantities import check_name
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.tracking.tracker import tracker_of
from lt_sweeps.training.backends.backend import BACKENDS


@dataclass(frozen=True)
class RunSettings:
    """The settings that have one value for all cells of a multirun."""

    root: Path
    device: str
    workers: int | None  # number of processes at the same time; None: auto
    stack_size: int | None  # replicates in a stack; None: auto
    machine: Machine
    name: str | None
    dry_run: bool
    budget: float | None  # GPU-hours; None: no limit
    keep: str = "all"  # which tickets stay when the sweep is done
    search: str | None = None  # the search whose sweep these cells join
    words: tuple[str, ...] = ()  # the overrides that were typed

    @classmethod
    def of(cls, cells: Sequence[Cell], *, words: Sequence[str] = ()) -> RunSettings:
        """Read the settings of cells that were requested with the overrides `words`.

        Raises: ValueError: the cells differ in a setting or lack one, or a value is not allowed.
        """
        first = cells[0].config
        for key in SHARED_KEYS:
            if any(cell.config.get(key) != first.get(key) for cell in cells):
                raise ValueError(f"{key}: the cells differ; give one value for the whole multirun")
        config = _LATER | first
        if missing := [key for key in SHARED_KEYS if key not in config]:
            raise ValueError(
                f"{missing[0]}: the config of the cells has no such key; start the sweep again "
                "with its command, under another name"
            )
        _check(config)
        every = _number("checkpoint_every", config["checkpoint_every"], "seconds, 0 for every step")
        return cls(
            root=Path(config["root"]),
            device=config["device"],
            workers=_count("workers", config["workers"]),
            stack_size=_count("stack_size", config["stack_size"]),
            machine=Machine(
                backend=config["backend"],
                deterministic=config["deterministic"],
                checkpoint_every=every,
                code_version=code_version(),
                profile=_profile(config["profile"]),
            ),
            # Hydra reads `name=2027` as a number.
            name=str(config["name"]) if type(config["name"]) is int else config["name"],
            dry_run=config["dry_run"],
            budget=_budget(config["budget"]),
            keep=config["keep"],
            search=config["search"],
            words=tuple(words),
        )


# Keys that older sweeps do not have in their frozen cells, with the values that applied then.
_LATER = {
    "deterministic": True,
    "keep": "all",
    "objective": "val_metric",
    "profile": False,
    "budget": None,
    "search": None,
}


def _check(config: Mapping[str, Any]) -> None:
    folder, switch = (str, "the path of a folder"), (bool, "true or false")
    kinds = {"root": folder, "data_dir": folder, "dry_run": switch, "deterministic": switch}
    for key, (kind, words) in kinds.items():
        if not isinstance(config[key], kind):
            raise ValueError(f"{key}: got {config[key]!r}; give {words}")
    check_name("backend", config["backend"], BACKENDS)
    check_name("keep", config["keep"], KEEPS)
    if not isinstance(config["tracker"], dict):
        raise ValueError(f"tracker: got {config['tracker']!r}; give a `_target_` and its keys")
    tracker_of(config["tracker"])
    Objective.of(config["objective"])


def _profile(given: Any) -> str:
    """The measurement of a pack's time: an empty str for none, `time`, or `trace`."""
    if given is True or given is False:
        return "time" if given else ""
    if given != "trace":
        raise ValueError(f"profile: got {given!r}; give true, false or trace")
    return given


def _count(key: str, value: Any) -> int | None:
    """Check a whole number from 1 up; return None for `auto`."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}: got {value!r}; give `auto` or a whole number from 1 up")
    return value


def _number(key: str, value: Any, allowed: str) -> float:
    """Check a number from 0 up; `allowed` describes the valid values in the error message."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{key}: got {value!r}; give {allowed}")
    return float(value)


def _budget(budget: Any) -> float | None:
    keys = list(budget) if isinstance(budget, dict) else budget
    if budget is not None and keys != ["gpu_hours"]:
        raise ValueError(f"budget: got {keys!r}; its only key is `gpu_hours`")
    if budget is None or budget["gpu_hours"] is None:
        return None
    return _number("budget.gpu_hours", budget["gpu_hours"], "hours, or null for no limit")


def check_writable(root: Path) -> None:
    """Raises: ValueError: the root, or the folder in which it will be made, is not writable."""
    there = next(
        folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()
    )
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"root: {root} cannot be written: {error.strerror}") from None


@functools.cache  # a process computes with the code that it has imported
def code_version() -> str:
    """The package's version, with the commit if it runs from a git clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except subprocess.TimeoutExpired:  # there may be a commit, but git was too slow
        return f"{__version__}+unknown"
    except (OSError, subprocess.SubprocessError):
        return __version__
    tracked = subprocess.run(
        [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True
    )
    return f"{__version__}+{commit.stdout.strip()}" if tracked.returncode == 0 else __version__
