"""Tests on a real Slurm, which `launch/slurm/cluster.sh up` starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Run, slurm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    """Cancel the jobs of each test before the next test begins."""
    yield
    subprocess.run(["scancel", "--user=root"], check=True)
    limit = time.monotonic() + 60
    while slurm("squeue", "--noheader") and time.monotonic() < limit:
        time.sleep(0.2)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def another(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Run]:
    return lambda: Run(tmp_path_factory.mktemp("run"))
