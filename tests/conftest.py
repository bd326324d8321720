"""Tiny real parts that the tests share: a four-unit net on 64 synthetic images."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from fixtures.command_line import CommandLine, composed
from fixtures.tiny_cell import compute_cells, settings, tiny_cell
from fixtures.wandb_server import WandbServer
from hydra._internal.config_repository import ConfigRepository
from hypothesis import HealthCheck
from hypothesis import settings as drawn

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.storage.store import Store

# The same examples in every run, on a machine of any speed; `--hypothesis-profile=other` draws
# others.
drawn.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
drawn.register_profile("other", drawn.get_profile("same"), derandomize=False)
drawn.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests except the `gpu` tests, because `device=auto` would use them."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    # A training of another test has left this on; hypothesis draws denormal numbers too.
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="session")
def _conf_is_read_once() -> Iterator[None]:
    """Let Hydra parse each yaml of `conf/` once for all tests, instead of once per config.

    Composing takes a third of the tests' computing time, and nearly half of that is reading the
    same files again. If a user's own folder is searched too, nothing is cached.
    """
    read, known = ConfigRepository.load_config, {}

    def load(repository: ConfigRepository, config_path: str) -> Any:
        sources = tuple(f"{source.scheme()}://{source.path}" for source in repository.get_sources())
        if any(s.startswith("file://") and s != f"file://{CONF}" for s in sources):
            return read(repository, config_path)
        if (sources, config_path) not in known:
            known[sources, config_path] = read(repository, config_path)
        return copy.deepcopy(known[sources, config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_a_person() -> Iterator[None]:
    """Keep settings of the terminal, of a Slurm job and of tracker accounts out of the tests.

    Python caches compiled modules, as on most machines, so no test may take a module for the one of
    the same size that it replaced within a second.
    """
    names = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "PYTHONDONTWRITEBYTECODE")
    kinds = ("SLURM_JOB", "SLURM_ARRAY", "WANDB_", "MLFLOW_", "HYDRA_")
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name in names or name.startswith(kinds):
                patch.delenv(name)
        patch.setattr(sys, "dont_write_bytecode", False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_power_is_cut() -> Iterator[None]:
    """Skip fsync: a killed process loses nothing that it wrote, so no test needs to wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that waits forever for something.

    This is the only time limit: a test that passes ends long before it, even on a slow machine.
    """
    slow = any(request.node.get_closest_marker(name) for name in ("slow", "slurm"))
    seconds = 3600 if slow else 1200

    def fail(*_: object) -> None:
        pytest.fail(f"it did not end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """A tiny cell; `group__key=value` sets a key, `group={...}` replaces a group."""

    return tiny_cell


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Cell]]:
    """Return the cells of a command line."""
    return lambda *words: composed(monkeypatch, *words)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Plan, Store]]:
    """Compute cells in this process, level by level, all of a level stacked."""

    return partial(compute_cells, root=tmp_path / "results")


@pytest.fixture
def swept(run: Callable[..., tuple[Plan, Store]], tmp_path: Path) -> Callable[..., Path]:
    """Compute missing cells and freeze all of them as a sweep; return the sweep's folder."""

    def swept(*cells: Cell, computed: bool = True, **how: Any) -> Path:
        made = run(*cells, **how)[0] if computed else plan(cells)
        return Submission(made, settings(tmp_path / "results", "tiny")).freeze([]).folder

    return swept


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """Run a command line in this process; return its status and its output."""
    command_line = CommandLine(tmp_path_factory.mktemp("command_line"))
    yield command_line
    command_line.close()


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A W&B server on loopback, to which this process and its children are logged in."""
    wandb = pytest.importorskip("wandb")
    server = WandbServer()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "600")  # a slow machine starts its service slowly
    # matplotlib lists the fonts again, for some seconds, where it finds no list.
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no key of a person's
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    wandb.teardown()  # it reads the environment once
    yield server
    server.fault = None
    wandb.teardown()
    server.close()
