"""The script for a GPU machine is rehearsed, because there it has minutes and no second try."""

from __future__ import annotations

import json
import os
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
    assert all(row["milliseconds"] > row["floor"] > 0 for row in rows)
    (sweep,) = json.loads((tmp_path / "panel.json").read_text())
    assert list(sweep["done"]) == ["0", "1", "2"] and sweep["status"] == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"log", "results.json", "table.md", "scaling.png", "panel.json"}


@pytest.mark.slow
def test_a_part_that_fails_does_not_keep_out_the_next(tmp_path: Path) -> None:
    (tmp_path / "bad-1.0-cp99-cp99-any.whl").write_text("no wheel")
    settings = {"DEVICE": "cpu", "SIZE": "tiny", "PARTS": "nothing panel"}
    places = {"OUT": str(tmp_path / "out"), "PY": sys.executable, "WHEELS": str(tmp_path)}
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
