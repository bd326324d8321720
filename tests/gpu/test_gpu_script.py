"""Rehearse the script for a GPU machine, which will have only a few minutes and one try there."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.command_line import REPOSITORY


@pytest.mark.slow
def test_the_script_ends_well_on_a_cpu_and_leaves_few_files(tmp_path: Path) -> None:
    settings = {"DEVICE": "cpu", "SIZE": "tiny", "LIMIT": "900", "TESTS": "cpu and one_shot"}
    places = {"OUT": str(tmp_path), "PY": sys.executable, "WHEELS": "none", "DATA": "none"}
    done = subprocess.run(
        ["bash", "tests/benchmarks/gpu.sh"],
        cwd=REPOSITORY,
        env={**os.environ, **settings, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout and "every part ended well" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    measured = {(row["net"], row["way"].split(",")[0]) for row in results["rows"]}
    steps, updates = ("plain", "ours"), {f"update {density}" for density in (0.5, 0.2, 0.05)}
    nets = ("fc", "conv4", "resnet20")
    beside = {("conv4", "beside"), ("resnet20", "beside")}
    assert measured == {(net, way) for net in nets for way in (*steps, *updates)} | beside
    rows = [row for row in results["rows"] if row["way"].split(",")[0] in steps]
    assert all(row["milliseconds"] > 0 and row["floor"] > 0 for row in rows)
    (sweep,) = json.loads((tmp_path / "panel.json").read_text())
    assert list(sweep["done"]) == ["0", "1", "2"] and sweep["status"] == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"log", "results.json", "table.md", "scaling.png", "panel.json"}


@pytest.mark.slow
def test_a_part_that_fails_does_not_keep_out_the_next(tmp_path: Path) -> None:
    (tmp_path / "bad-1.0-cp99-cp99-any.whl").write_text("no wheel")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "labels.gz").write_bytes(gzip.compress(b"0123456789"))
    settings = {"DEVICE": "cpu", "SIZE": "tiny", "PARTS": "nothing panel"}
    places = {"OUT": str(tmp_path / "out"), "PY": sys.executable, "WHEELS": str(tmp_path)}
    places["DATA"] = str(tmp_path / "data")
    done = subprocess.run(
        ["bash", "tests/benchmarks/gpu.sh"],
        cwd=REPOSITORY,
        env={**os.environ, **settings, **places, "WORDS": "no_such_key=1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "failed: bad-1.0-cp99-cp99-any.whl panel" in done.stdout
    assert "not even the dense networks were done (exit status 1)" in done.stdout
    assert [path.name for path in raw.iterdir()] == ["labels.gz"], "DATA stays as small as it is"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_run_of_tests_that_is_killed_has_told_its_failures(
    tmp_path: Path, workers: list[str]
) -> None:
    run = "os.getppid()" if workers else "os.getpid()"
    (tmp_path / "test_own.py").write_text(
        "import os, signal, time\n"
        "def test_fails(): assert False, 'at once'\n"
        "def test_kills_the_run_that_has_told_it():\n"
        "    for _ in range(300):\n"
        "        if 'AssertionError: at once' in open('log').read():\n"
        f"            os.kill({run}, signal.SIGKILL)\n"
        "        time.sleep(0.1)\n"
    )
    # The run that this test belongs to may have workers of its own.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "shown_failures",
                "-p",
                "no:benchmark",
                *workers,
            ],
            cwd=tmp_path,
            env={**own, "PYTHONPATH": str(REPOSITORY / "tests" / "benchmarks")},
            stdout=log,
        )
    assert done.returncode == -signal.SIGKILL
    told = (tmp_path / "log").read_text()
    assert told.count("-- test_own.py::test_fails failed in its call") == 1, told


@pytest.mark.slow
def test_a_table_without_stacks_has_no_picture(tmp_path: Path) -> None:
    script = [sys.executable, "tests/benchmarks/gpu_table.py", "--device", "cpu", "--size", "tiny"]
    done = subprocess.run(
        [*script, "--nets", "fc", "--out", str(tmp_path), "--replicates"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md"}
