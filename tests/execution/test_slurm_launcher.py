"""How many jobs a profile makes of a sweep, seen without a cluster."""

import re

import pytest

from lt_sweeps.cli.command_line import main

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
