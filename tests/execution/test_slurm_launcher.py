"""Without a cluster: the number of jobs that a profile makes, and which jobs belong to a sweep."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.tiny_cell import settings

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.slurm.resources import SlurmResources
from lt_sweeps.execution.slurm.slurm_launcher import _Jobs, submit_missing
from lt_sweeps.execution.slurm.squeue import Batch, Queued, batches, cancel, job_name, queued
from lt_sweeps.execution.status import COMPLETE, Status
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.sweep_folder import SweepFolder

Make = Callable[..., Cell]

WORDS = [
    *("plan", "hydra/launcher=slurm", "dataset=synthetic", "dataset.shape=[1,4,4]"),
    *("dataset.classes=4", "dataset.train=64", "dataset.validation=32", "dataset.test=32"),
    *("model.net.hidden=[12,8]", "schedule.levels=2", "mask_criterion=large_final,random"),
    "seed=0,1",
]


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The rows of the printed plan, by their names."""
    assert main([*WORDS, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {m[1]: m[2] for m in (re.match(r"([a-zA-Z ]+?) {2,}(.*)", line) for line in lines) if m}


@pytest.mark.parametrize(
    ("words", "jobs", "packs"),
    [
        ((), "1, after a canary", "10 in 3 packs"),
        (("hydra.launcher.jobs=2",), "2, after a canary", "10 in 6 packs"),
        (("hydra.launcher.pack=false",), "6, after a canary", "10 in 10 packs"),
        (("hydra.launcher.hours_per_job=1000",), "1, after a canary", "10 in 3 packs"),
        (("hydra.launcher.processes=2",), "1, after a canary", "10 in 6 packs"),
        (("hydra.launcher.canary=false",), "1", "10 in 3 packs"),
        (("stack_size=1",), "1, after a canary", "10 in 10 packs"),
    ],
)
def test_a_profile_says_how_cells_become_jobs(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], jobs: str, packs: str
) -> None:
    found = planned(capsys, *words)
    number, comma, canary = jobs.partition(",")
    assert found["jobs"].strip() == f"{number}, each of 1 GPU for 4.0 h at most{comma}{canary}"
    assert found["to run"].startswith(packs)


@pytest.mark.parametrize(
    ("words", "cpus", "gpus"),
    [
        ((), None, None),
        (("processes=5",), "too few: a job trains 5 packs at once with a thread each", None),
        (("gpus=2", "processes=2", "cpus=3"), "too few: a job trains 4 packs at once", None),
        (
            ("gpus=0",),
            "too many: a job trains 1 pack at once with a thread each and requests",
            None,
        ),
        (("gpus=0", "processes=4"), None, None),
        (("cpus=1", "gpus=a100:2", "device=cpu"), None, "unused: device=cpu, and a job requests a"),
    ],
)
def test_cpus_and_gpus_that_a_job_does_not_use_or_lacks_are_said(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], cpus: str | None, gpus: str | None
) -> None:
    keys = [word if word.startswith("device") else f"hydra.launcher.{word}" for word in words]
    found = planned(capsys, *keys)
    for name, expected in (("CPUs", cpus), ("GPUs", gpus)):
        assert found.get(name, "").startswith(expected or "") and (expected or name not in found)


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
    for program, does in (("squeue", f"echo '70|0|PENDING|{name}|None'"), ("scancel", "exit 0")):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert queued(sweep) == {(0, 0): Queued("PENDING", "70_0", "None")} and queued(copy) == {}
    assert (cancel(sweep), cancel(copy)) == (1, 0)


def test_the_jobs_that_another_user_has_submitted_for_a_shared_sweep_are_asked_for(
    swept: Callable[..., Path], cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They used to count as lost, so `resume` submitted their work a second time."""
    sweep = SweepFolder(swept(cell(), computed=False))
    name = job_name(sweep, 0)
    Batch(0, name, [["a pack"]], "cpu", 1, [], [False], id="70").write(sweep)
    first = os.getuid()
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\ncase $3 in --user=*{first}*) echo '70|0|RUNNING|{name}|None' ;; esac\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert queued(sweep) == {(0, 0): Queued("RUNNING", "70_0", "None")}


REFUSED = "sbatch: error: invalid partition specified: nope"


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with an empty queue, whose `sbatch` refuses every job."""
    monkeypatch.chdir(tmp_path)
    for name, script in {
        "sbatch": f"echo '{REFUSED}' >&2; exit 1",
        "squeue": "",
        "srun": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_results_of_another_sweep_are_recorded_without_a_job(
    refusing: None, cell: Make, run: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another sweep has trained either everything, or the cells of one criterion."""
    random = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    known, new = cell(tracker={}), cell(tracker={}, mask_criterion=random)
    run(known)
    root, profile = Path("results"), SlurmResources(gpus=0)
    shutil.rmtree(root / "runs")
    everything = Submission(plan([known]), settings(root, "everything"))
    assert submit_missing(everything, profile) == 0
    said = capsys.readouterr().out
    assert "nothing to submit: 1 of 1 cells are complete" in said
    assert "python -m lt_sweeps report " in said
    assert "0.00 CPU-hours" in " ".join(said.split())
    assert Status.of(everything.sweep).exit_status == COMPLETE
    shutil.rmtree(root / "runs")
    part = Submission(plan([known, new]), settings(root, "part"))
    with pytest.raises(ValueError, match="^slurm: sbatch refused the jobs: invalid partition spec"):
        submit_missing(part, profile)
    assert capsys.readouterr().err == "", "sbatch's answer is said once"
    assert Status.of(part.sweep).finished == {0}


def test_each_command_that_is_printed_can_be_typed(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`logs` needs a cell, and `resume` the modules of user-defined functions."""
    (tmp_path / "growth_lab.py").write_text("def growth(final):\n    return final.abs()\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = plan([cell(mask_criterion={"_target_": "growth_lab.growth"}), cell()])
    jobs = _Jobs(Submission(own, settings(tmp_path, "mine")), SlurmResources(gpus=0))
    commands = jobs._next_commands(tmp_path)
    assert f"logs {tmp_path} 0" in commands and f"resume {tmp_path} trust=growth_lab" in commands
    ours = _Jobs(Submission(plan([cell()]), settings(tmp_path, "ours")), SlurmResources(gpus=0))
    assert f"resume {tmp_path}" in ours._next_commands(tmp_path)


def test_resume_takes_a_time_as_slurm_does(
    refusing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """yaml would read 12:00:00 as 43200."""
    assert main([*WORDS[1:], "device=cpu", "name=mine"]) == 1
    assert main(["resume", "mine", "time=12:00:00"]) == 1
    assert "each of 1 GPU for 12.0 h at most" in capsys.readouterr().out


def test_refused_jobs_can_be_fewer_and_their_canary_does_not_stay(
    refusing: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise each attempt would leave a canary, which counts towards a limit of jobs."""
    takes_one = "[ -e taken ] && { echo limit >&2; exit 1; }; touch taken; echo batch job 77"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{takes_one}\n")
    (tmp_path / "scancel").write_text('#!/bin/sh\necho "$@" >> cancelled\n')
    (tmp_path / "scancel").chmod(0o755)
    words = [*WORDS[1:-1], "seed=0,1,2,3", "device=cpu", "name=mine", "hydra.launcher.jobs=4"]
    assert main(words) == 1
    assert "sbatch refused the jobs: limit; hint: ask for fewer jobs" in capsys.readouterr().err
    assert Path("cancelled").read_text() == "77\n"
    sweep = SweepFolder(Path("results/sweeps/mine"))
    assert [batch.id for batch in batches(sweep)] == [None, None]
    assert main(["resume", "mine"]) == 1
    assert re.search(r"jobs +4, each", capsys.readouterr().out)
    for keys in (["jobs=2"], []):  # the last number of jobs is kept
        assert main(["resume", "mine", *keys]) == 1
        assert re.search(r"jobs +2, each", capsys.readouterr().out)
    names = {pack.name for pack in sweep.manifest.packs}
    assert names == {pack.name for pack in SweepFolder(sweep.folder).packs()}, "as they were"


@pytest.mark.parametrize("absent", ["sbatch", "scontrol", "squeue"])
def test_a_machine_without_a_program_of_slurm_is_refused_before_anything_is_written(
    absent: str,
    refusing: None,
    cell: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing `scontrol` used to be tried three times, after the sweep was frozen."""
    (tmp_path / absent).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    submission = Submission(plan([cell(tracker={})]), settings(tmp_path / "results", "mine"))
    with pytest.raises(
        ValueError, match=f"no program `{absent}` on PATH; .*leave out hydra/launcher=slurm to run"
    ):
        submit_missing(submission, SlurmResources(gpus=0))
    assert not (tmp_path / "results/sweeps/mine/manifest.json").exists()


def test_a_controller_that_does_not_answer_is_named(
    refusing: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scontrol").unlink()
    unreachable = "Unable to contact slurm controller (connect failure)"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{unreachable}' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    for words in ([*WORDS[1:], "device=cpu", "name=mine"], ["resume", "mine"]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "error: slurm: the controller does not answer: `scontrol` failed" in said
        assert said.rstrip().endswith(unreachable)


@pytest.mark.parametrize("reachable", [False, True])
def test_the_stock_launcher_of_slurm_fails_in_one_line(
    reachable: bool,
    refusing: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its error used to be a traceback of sixty lines."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if not reachable:
        (tmp_path / "srun").unlink()
        monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*WORDS[2:], "hydra/launcher=submitit_slurm"]) == 1
    reason = "invalid partition specified: nope" if reachable else 'Could not detect "srun"'
    *others, line = capsys.readouterr().err.splitlines()
    assert others in ([], [REFUSED]), "submitit passes on what sbatch says"
    assert line.startswith(f"error: hydra/launcher: {reason}")
    assert line.endswith("; hint: leave out hydra/launcher=submitit_slurm to run here")
