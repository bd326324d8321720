"""The local launcher: real processes, killed for real."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    *("dataset=synthetic", "dataset.shape=[1,4,4]", "dataset.classes=4", "dataset.train=64"),
    *("dataset.validation=32", "dataset.test=32", "model.net.hidden=[12,8]", "schedule.levels=2"),
    *("recipe.batch_size=16", "recipe.length=30ep", "mask_criterion=large_final,random"),
    *("seed=0,1", "workers=2", "report.figures=[curves]"),  # one picture, drawn quickly
]


def start(root: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lt_sweeps", *WORDS, f"root={root}", *words],
        cwd=root.parent,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(root.parent)]),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def results(root: Path) -> dict[str, object]:
    """Every ticket's bytes and every record, but for the seconds that a clock measured."""
    found: dict[str, object] = {
        str(p.relative_to(root)): p.read_bytes() for p in root.glob("tickets/*/*.safetensors")
    }
    for path in root.glob("runs/*/*/records.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(root))] = [
            {k: v for k, v in r.items() if k != "seconds"} for r in rows
        ]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole") / "results"
    status, out, err = finish(start(root))
    assert status == 0, err
    assert "replicate-steps" not in out + err, "quiet where nobody looks"
    return root


def test_a_sweep_ends_with_a_table_and_a_picture(whole: Path) -> None:
    (folder,) = whole.glob("sweeps/*/report")
    assert {"accuracy.png", "records.csv", "summary.csv"} <= {p.name for p in folder.iterdir()}
    assert len(list(whole.glob("runs/*/*/DONE"))) == 4
    assert not list(whole.glob("tickets/*/*.partial-*"))


def test_the_same_words_again_compute_nothing(whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.glob("tickets/*/*.safetensors")}
    status, out, _ = finish(start(whole))
    assert status == 0 and "0 in 0 packs" in out
    assert {p: p.stat().st_mtime_ns for p in whole.glob("tickets/*/*.safetensors")} == before


def test_a_corrupt_ticket_is_named_set_aside_and_computed_again(
    whole: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    shutil.copytree(whole, root)
    manifest = json.loads(next(root.glob("sweeps/*/manifest.json")).read_text())
    dense = manifest["packs"][0]["units"][0]
    harmed = root / "tickets" / dense[0] / f"{dense[1]}.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-1] + b"#")  # a weight that only its reader notices
    for key, seed in manifest["packs"][2]["units"]:  # level 1, which is made from it
        (root / "tickets" / key / f"{seed}.safetensors").unlink()
    status, _, err = finish(start(root))
    assert status == 0, err
    assert "tensors do not match their checksum; set aside as" in err
    assert results(root) == results(whole)


def test_plan_starts_nothing(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "lt_sweeps", "plan", *WORDS, f"root={tmp_path / 'none'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "10 distinct (5 stages), where each cell alone would take 12" in process.stdout
    assert not (tmp_path / "none").exists()


def kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.3)  # the fork server dies of its closed pipe


def disturbed(root: Path, kills: int, seed: int) -> int:
    """Kill a sweep at random moments, then let it end; returns how often it was really at work."""
    draws, at_work = random.Random(seed), 0
    for _ in range(kills):
        process = start(root, "checkpoint_every=0.05")
        limit = time.monotonic() + 60
        # The first thing a sweep writes is its manifest; from there on any moment may come.
        while not list(root.glob("sweeps/*/manifest.json")) and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(draws.uniform(0.5, 9))
        at_work += process.poll() is None
        kill_group(process)
    status, _, err = finish(start(root, "checkpoint_every=0.05"))
    assert status == 0, err
    return at_work


def test_killed_and_started_again_it_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    disturbed(tmp_path / "results", kills=1, seed=0)
    assert results(tmp_path / "results") == results(whole)


@pytest.mark.slow
def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path
) -> None:
    assert disturbed(tmp_path / "results", kills=10, seed=1) >= 3
    assert results(tmp_path / "results") == results(whole)


def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    root = tmp_path / "results"
    process = start(root, "recipe.length=100000ep", "schedule.levels=1")
    limit = time.monotonic() + 120
    while not list(root.glob("tickets/*/*.safetensors")) and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130 and "the same words continue" in err
    assert list(root.glob("tickets/*/*.partial-*.safetensors")), "a signal saves"


CRASHING = """
import os, signal
from torch import Tensor

def crash(final: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return final

def fail(final: Tensor) -> Tensor:
    raise RuntimeError("no such luck")
"""


@pytest.mark.parametrize(
    ("name", "message"), [("crash", "killed by SIGKILL"), ("fail", "RuntimeError: no such luck")]
)
def test_a_crash_costs_its_pack_and_what_stands_on_it_and_nothing_else(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "luck.py").write_text(CRASHING)
    (tmp_path / "own" / "mask_criterion").mkdir(parents=True)
    (tmp_path / "own" / "mask_criterion" / "luck.yaml").write_text(f"_target_: luck.{name}\n")
    root = tmp_path / "results"
    status, out, err = finish(
        start(
            root,
            f"--config-dir={tmp_path / 'own'}",
            "mask_criterion=large_final,luck",
            "stack_size=2",
            "seed=0,1",
        )
    )
    assert status == 1
    assert message in err and "2 of 4 cells unfinished" in err
    assert len(list(root.glob("runs/*/*/DONE"))) == 2
    assert "unfinished" in out, "the table says so too"


def test_a_failing_cell_of_a_stack_ends_alone(tmp_path: Path) -> None:
    (tmp_path / "luck.py").write_text(CRASHING)
    (tmp_path / "own" / "mask_criterion").mkdir(parents=True)
    (tmp_path / "own" / "mask_criterion" / "luck.yaml").write_text("_target_: luck.fail\n")
    root = tmp_path / "results"
    words = [f"--config-dir={tmp_path / 'own'}", "mask_criterion=large_final,luck", "workers=1"]
    status, _, err = finish(start(root, *words))
    assert status == 1
    assert "4 stacked" not in err and "halved and tried again" in err
    assert "level 1 of seed 0, 1: RuntimeError: no such luck" in err
    assert "level 2 of seed 0: not begun: it needs level 1 of seed 0" in err
    assert len(list(root.glob("runs/*/*/DONE"))) == 2
    again = subprocess.run(
        [sys.executable, "-m", "lt_sweeps", "status", str(next(root.glob("sweeps/*")))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 1 and "RuntimeError: no such luck" in again.stdout


def test_resume_does_what_is_missing(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    shutil.copytree(whole, root)
    for path in [*root.glob("tickets/*/1.safetensors"), *root.glob("runs/*/1/DONE")]:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "lt_sweeps", "resume", str(next(root.glob("sweeps/*")))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert results(root) == results(whole)
