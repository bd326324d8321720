"""How many jobs a profile makes of a sweep, and which jobs are a sweep's, without a cluster."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lt_sweeps.cli.command_line import main
from lt_sweeps.execution.slurm.squeue import Batch, cancel, job_name, queued
from lt_sweeps.storage.sweep_folder import SweepFolder

WORDS = [
    *("plan", "hydra/launcher=slurm", "dataset=synthetic", "dataset.shape=[1,4,4]"),
    *("dataset.classes=4", "dataset.train=64", "dataset.validation=32", "dataset.test=32"),
    *("model.net.hidden=[12,8]", "schedule.levels=2", "mask_criterion=large_final,random"),
    "seed=0,1",
]


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The rows of the plan, by their names."""
    assert main([*WORDS, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {m[1]: m[2] for m in (re.match(r"([a-z ]+?) {2,}(.*)", line) for line in lines) if m}


@pytest.mark.parametrize(
    ("words", "jobs", "packs"),
    [
        ((), "1 of 1 GPUs, after a canary", "10 in 3 packs"),
        (("hydra.launcher.jobs=2",), "2 of 1 GPUs, after a canary", "10 in 6 packs"),
        (("hydra.launcher.pack=false",), "6 of 1 GPUs, after a canary", "10 in 10 packs"),
        (("hydra.launcher.hours_per_job=1000",), "1 of 1 GPUs, after a canary", "10 in 3 packs"),
        (("hydra.launcher.processes=2",), "1 of 1 GPUs, after a canary", "10 in 6 packs"),
        (("hydra.launcher.canary=false",), "1 of 1 GPUs", "10 in 3 packs"),
        (("stack_size=1",), "1 of 1 GPUs, after a canary", "10 in 10 packs"),
    ],
)
def test_a_profile_says_how_cells_become_jobs(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], jobs: str, packs: str
) -> None:
    found = planned(capsys, *words)
    assert found["jobs"].strip() == jobs
    assert found["to run"].startswith(packs)


def test_gpu_hours_and_the_longest_chain_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    time = planned(capsys)["time"]
    assert "GPU-hours, longest chain" in time and "speed not measured" in time


def test_a_plan_says_that_the_budget_does_not_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "budget.gpu_hours=1e-9"]) == 1
    assert "error: budget.gpu_hours: this takes about" in capsys.readouterr().err


def test_the_jobs_of_a_sweep_are_not_those_of_its_copy(
    swept: Callable[..., Path],
    cell: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = SweepFolder(swept(cell(), computed=False))
    name = job_name(sweep, 0)
    Batch(0, name, [["a pack"]], "cpu", 1, [], [False], id="70").write(sweep)
    shutil.copytree(sweep.root, tmp_path / "copy")
    copy = SweepFolder(tmp_path / "copy" / "sweeps" / sweep.folder.name)
    for program, does in (("squeue", f"echo 70 0 PENDING {name}"), ("scancel", "exit 0")):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert queued(sweep) == {(0, 0): ("PENDING", "70_0")} and queued(copy) == {}
    assert (cancel(sweep), cancel(copy)) == (1, 0)
