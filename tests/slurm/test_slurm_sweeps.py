"""Sweeps on a real Slurm are submitted, followed, cancelled and resumed, with true reports."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster import JOB, REPOSITORY, SMALL, Run, slurm

DENSE = [*(word for word in SMALL if not word.startswith("schedule.")), "method=dense"]
WORDS = [*SMALL, *JOB, "mask_criterion=large_final,random", "seed=0,1", "hydra.launcher.jobs=2"]
LUCK = """
def luck(final):
    if len(final) == 50:  # as it is tried when the plan is made
        return final
    raise RuntimeError("no such luck")
"""


def own(run: Run, text: str = LUCK) -> str:
    """A user-defined criterion, and the flag that adds it."""
    (run.folder / "mylab.py").write_text(text)
    folder = run.folder / "own" / "mask_criterion"
    folder.mkdir(parents=True)
    (folder / "luck.yaml").write_text("_target_: mylab.luck\n")
    return f"--config-dir={run.folder / 'own'}"


def states(run: Run) -> list[str]:
    """Slurm's states of this sweep's jobs, including those that have ended."""
    names = {json.loads(path.read_text())["name"] for path in run.sweep.glob("jobs/*.json")}
    found = re.findall(r"JobName=(\S+).*?JobState=(\w+)", slurm("scontrol", "show", "job"), re.S)
    return [state for name, state in found if name in names]


def release(run: Run) -> None:
    for batch in run.sweep.glob("jobs/*.json"):
        slurm("scontrol", "release", json.loads(batch.read_text())["id"])


def test_submitted_it_returns_and_ends_as_on_this_machine(
    run: Run, another: Callable[[], Run]
) -> None:
    said = run(*WORDS)
    assert "10 distinct (5 stages), instead of 12 without sharing" in said
    assert "longest chain" in said and "CPU-hours" in said and "MiB of tickets" in said
    assert "submitted 2 jobs" in said
    assert run.status == 0 and run.wait() == 0
    assert set(states(run)) == {"COMPLETED"}
    assert "4 of 4 cells done, 10 trainings done" in run("status", str(run.sweep))
    here = another()
    here(*[word for word in WORDS if "launcher" not in word], "workers=1")
    assert run.results().keys() == here.results().keys()
    assert set(run.computed().values()) == {1}
    jobs = [path.read_text() for path in run.sweep.glob("slurm/*.out")]
    audited = [text for text in jobs if "audit of records and headers: " in text]
    assert (len(jobs), len(audited)) == (3, 2), "the canary has no records to audit"
    assert not any("FAILED" in text for text in jobs)


def test_the_same_command_submits_nothing_the_second_time(run: Run) -> None:
    run(*WORDS, "hydra.launcher.sbatch={hold: true}")
    before = slurm("squeue", "--noheader", "--array", "--format=%F %K")
    said = run(*WORDS, "hydra.launcher.sbatch={hold: true}")
    assert "nothing to submit: 0 of 4 cells are complete, 3 jobs are queued" in said
    assert slurm("squeue", "--noheader", "--array", "--format=%F %K") == before
    run("status", str(run.sweep), status=3)


OWN = """
import hashlib
from pathlib import Path

import numpy as np
import torch

from lt_sweeps.data.dataset import Dataset, Split


def luck(final):
    return final.abs()


def pictures(path):
    pixels = torch.from_numpy(np.load(path))
    labels = torch.arange(len(pixels)) % 4
    parts = {"train": slice(0, 64), "val": slice(64, 96), "test": slice(96, 128)}
    return Dataset(
        input_shape=(1, 4, 4),
        classes=4,
        train_size=64,
        prepare=lambda: None,
        load=lambda: {name: Split(pixels[part], labels[part]) for name, part in parts.items()},
        fingerprint=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    )
"""


def clone(folder: Path) -> Run:
    """A clone of the repository, in which commands run and code is edited."""
    for name in ("lt_sweeps", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    (folder / "own" / "dataset").mkdir(parents=True)
    (folder / "own" / "dataset" / "pictures.yaml").write_text(
        "_target_: mylab.pictures\npath: pixels.npy\n"
    )
    run = Run(folder, code=None)
    own(run, OWN)
    np.save(folder / "pixels.npy", np.random.RandomState(0).randint(0, 255, (128, 1, 4, 4), "u1"))
    return run


OWN_WORDS = [
    *JOB,
    *("dataset=pictures", "mask_criterion=large_final,luck", "seed=0", "hydra.launcher.jobs=2"),
    *("model.net.hidden=[12,8]", "schedule.levels=2", "recipe.batch_size=16"),
    "recipe.length=30ep",
]


def test_edits_while_jobs_are_queued_change_nothing_in_the_jobs(tmp_path: Path) -> None:
    left_alone, run = clone(tmp_path / "alone"), clone(tmp_path / "edited")
    for each in (left_alone, run):
        flag = f"--config-dir={each.folder / 'own'}"
        each(flag, *OWN_WORDS, "hydra.launcher.sbatch={hold: true}")
    criteria = run.folder / "lt_sweeps" / "sparsity" / "criteria.py"
    text = criteria.read_text()
    assert "return final.abs()" in text
    criteria.write_text(text.replace("return final.abs()", "return -final.abs()"))
    (run.folder / "mylab.py").write_text(OWN.replace("final.abs()", "-final.abs()"))
    for group in ("mask_criterion/luck", "dataset/pictures"):
        (run.folder / "own" / f"{group}.yaml").write_text("_target_: mylab.no_such\n")
    for each in (left_alone, run):
        release(each)
        assert each.wait() == 0, each("status", str(each.sweep), status=None)
    assert run.results() == left_alone.results()
    assert len(run.computed()) == 5


def test_data_that_are_edited_while_jobs_queue_are_named(tmp_path: Path) -> None:
    run = clone(tmp_path / "edited")
    run(f"--config-dir={run.folder / 'own'}", *OWN_WORDS, "hydra.launcher.sbatch={hold: true}")
    np.save(run.folder / "pixels.npy", np.zeros((128, 1, 4, 4), "u1"))
    release(run)
    assert run.wait() == 1
    assert not list(run.root.glob("tickets/*/*.safetensors"))
    said = " ".join(run("status", str(run.sweep), status=1).split())
    assert "data: the content of pictures(path='pixels.npy') changed since" in said


def test_a_job_whose_copy_of_the_code_is_edited_stops_and_says_so(run: Run) -> None:
    run(*WORDS, "hydra.launcher.canary=false", "hydra.launcher.sbatch={hold: true}")
    (criteria,) = run.sweep.glob("code/*/lt_sweeps/sparsity/criteria.py")
    criteria.write_text(criteria.read_text() + "# later\n")
    release(run)
    assert run.wait() == 1
    assert f"code: the copy {criteria.parents[2]} was edited" in "".join(
        path.read_text() for path in run.sweep.glob("slurm/*.out")
    )
    run("resume", str(run.sweep), "sbatch={}")
    assert run.wait() == 0, "with a new copy"


def test_a_failing_cell_is_reported_and_the_others_go_on(run: Run) -> None:
    run(own(run), *WORDS, "mask_criterion=large_final,luck", "seed=0,1,2")
    assert run.wait() == 1
    assert len(list(run.root.glob("runs/*/*/DONE"))) == 3
    said = run("status", str(run.sweep), status=1)
    assert "3 of 6 cells done" in said and "RuntimeError: no such luck" in said
    assert "FAILED" in states(run), "Slurm is told"
    broken = re.search(r"failed: cell (\d+)", said)
    assert broken and "RuntimeError: no such luck" in run("logs", str(run.sweep), broken[1])
    assert "mylab.py" in run("logs", str(run.sweep), broken[1]), "with its traceback"


def test_jobs_that_depend_on_a_failed_job_are_cancelled(run: Run) -> None:
    dies = "hydra.launcher.setup=['[ $SLURM_ARRAY_TASK_ID != 1 ] || exit 9']"
    run(*WORDS, "hydra.launcher.jobs=4", "hydra.launcher.canary=false", dies)
    assert run.wait() == 1
    assert not slurm("squeue", "--noheader")
    assert {"FAILED", "CANCELLED"} <= set(states(run))
    assert "left the queue unfinished" in run("status", str(run.sweep), status=1)


def test_cancelled_it_is_resumed_with_exactly_what_is_missing(
    run: Run, another: Callable[[], Run]
) -> None:
    other = another()
    other(*WORDS, "hydra.launcher.sbatch={hold: true}")
    patient = run.patient(0.02)
    run(*patient, *WORDS, "checkpoint_every=0.2", "hydra.launcher.canary=false")
    while not list(run.root.glob("tickets/*/*.partial-*")):
        time.sleep(0.1)
    assert "cancelled 2 jobs" in run("cancel", str(run.sweep))
    assert run.wait() == 1
    assert len(slurm("squeue", "--noheader", "--array").splitlines()) == 3, "the other's stay"
    other("cancel", str(other.sweep))
    done = len(run.computed())
    run.be_patient(0)
    said = run("resume", str(run.sweep), "parallel=1", "trust=patient")
    assert "submitted" in said
    assert run.wait() == 0
    counts = run.computed()
    assert len(counts) == 10 and set(counts.values()) == {1} and done < 10
    assert "nothing to submit" in run("resume", str(run.sweep))


def test_a_time_limit_is_requeued_as_often_as_is_said(run: Run) -> None:
    words = ["recipe.length=1000ep", "checkpoint_every=1", "hydra.launcher.canary=false"]
    run(
        *run.patient(0.03),  # two trainings of 4,000 steps: four minutes on any machine
        *WORDS,
        *words,
        "schedule.levels=1",
        "seed=0",
        "mask_criterion=random",
        "hydra.launcher.jobs=1",
        "hydra.launcher.max_requeues=1",
        "hydra.launcher.time=1",
        "hydra.launcher.signal_delay=30",
    )
    assert run.wait() == 1
    said = run("status", str(run.sweep), status=1)
    assert "time limit reached, after 1 requeues (max_requeues); continue with `resume`" in said
    assert list(run.root.glob("tickets/*/*.partial-*")), "it has saved itself"
    assert "FAILED" in states(run)
    run.be_patient(0)
    run("resume", str(run.sweep), "time=60")
    assert run.wait(limit=600) == 0


@pytest.fixture
def pair(run: Run) -> tuple[str, str]:
    """The ids of an array's first and last task, both running, each alone on its node."""
    run(
        *run.patient(0.03),
        *WORDS,
        *("recipe.length=1000ep", "checkpoint_every=1", "hydra.launcher.canary=false"),
        *("schedule.levels=1", "seed=0,1", "mask_criterion=random", "hydra.launcher.jobs=2"),
        *("hydra.launcher.signal_delay=20", "hydra.launcher.sbatch={exclusive: true}"),
    )
    while len(list(run.root.glob("tickets/*/*.partial-*"))) < 2:
        time.sleep(0.2)
    (batch,) = run.sweep.glob("jobs/0.json")
    array = json.loads(batch.read_text())["id"]
    return f"{array}_0", f"{array}_1"


def about(job: str, field: str) -> str:
    found = re.search(rf"\b{field}=(\S+)", slurm("scontrol", "show", "job", job))
    assert found, job
    return found[1]


def until_state(job: str, *states: str) -> None:
    end = time.monotonic() + 150
    while about(job, "JobState") not in states:
        assert time.monotonic() < end, slurm("scontrol", "show", "job", job)
        time.sleep(0.2)


def test_scancel_of_an_arrays_last_task_cancels_that_task_and_no_other(
    run: Run, pair: tuple[str, str]
) -> None:
    first, last = pair
    slurm("scancel", last)
    until_state(last, "CANCELLED")
    time.sleep(10)  # a requeue would come now
    assert about(last, "JobState") == "CANCELLED" and about(last, "Restarts") == "0"
    assert about(first, "JobState") == "RUNNING" and about(first, "Restarts") == "0"
    assert not list(run.sweep.glob("jobs/requeues-*"))
    run("cancel", str(run.sweep))


def test_the_time_limit_of_an_arrays_last_task_requeues_that_task_and_no_other(
    run: Run, pair: tuple[str, str]
) -> None:
    first, last = pair
    slurm("scontrol", "update", f"jobid={last}", "timelimit=1")
    until_state(last, "PENDING", "REQUEUED")
    assert about(first, "JobState") == "RUNNING" and about(first, "Restarts") == "0"
    assert [path.name for path in run.sweep.glob("jobs/requeues-*")] == ["requeues-0.1"]
    run("cancel", str(run.sweep))


def test_preemption_of_an_arrays_last_task_requeues_that_task_and_no_other(
    run: Run, pair: tuple[str, str]
) -> None:
    first, last = pair
    node = ["--partition=prio", f"--nodelist={about(last, 'NodeList')}", "--exclusive"]
    slurm("sbatch", *node, "--mem=100", "--output=/dev/null", "--wrap=sleep 2")
    until_state(last, "PENDING", "REQUEUED", "CANCELLED", "PREEMPTED")
    assert about(first, "JobState") == "RUNNING" and about(first, "Restarts") == "0"
    run("cancel", str(run.sweep))


def test_preempted_it_goes_on_from_its_checkpoint(run: Run) -> None:
    run(
        *run.patient(0.01),  # two trainings of 40 seconds or more, until it was preempted
        *WORDS,
        "recipe.length=1000ep",
        "schedule.levels=1",
        "hydra.launcher.canary=false",
        "seed=0",
        "mask_criterion=random",
        "hydra.launcher.jobs=1",
    )
    while not any("from step" in path.read_text() for path in run.sweep.glob("logs/*.log")):
        time.sleep(0.1)
    nodes = ["--partition=prio", "--exclusive", "--mem=100", "--nodes=2", "--output=/dev/null"]
    slurm("sbatch", *nodes, "--wrap=sleep 1")
    while not any("stopped at step" in path.read_text() for path in run.sweep.glob("logs/*.log")):
        time.sleep(0.1)
    run.be_patient(0)
    assert run.wait() == 0, run("status", str(run.sweep), status=None)
    logs = "".join(path.read_text() for path in run.sweep.glob("logs/*.log"))
    steps = [int(step) for step in re.findall(r"from step (\d+)", logs)]
    assert "stopped at step" in logs and max(steps) > 0
    assert set(run.computed().values()) == {1}


TIGHT = """
import os, re, resource
from lt_sweeps.models import FC

class Net(FC):
    pass

if "SLURM_JOB_ID" in os.environ:  # 400 MB more than what importing torch took
    size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20,) * 2)
"""


def test_packs_share_a_job_at_two_processes_each_gpu(run: Run, another: Callable[[], Run]) -> None:
    words = [*SMALL, "recipe.lr=0.01,0.02", "seed=0,1"]
    run(*words, *JOB, "hydra.launcher.jobs=1", "hydra.launcher.processes=2")
    assert run.wait() == 0
    assert set(states(run)) == {"COMPLETED"} and set(run.computed().values()) == {1}
    logs = [path.read_text() for path in run.sweep.glob("logs/*.log")]
    assert len(logs) >= 2, "a process each"
    here = another()
    here(*words, "workers=1")
    assert run.results().keys() == here.results().keys()


def test_a_stack_that_does_not_fit_is_halved_until_it_does(run: Run) -> None:
    (run.folder / "mylab.py").write_text(TIGHT)
    wide = [*DENSE, "model.net._target_=mylab.Net", "model.net.hidden=[1000,1000]"]
    short = ["recipe.length=2it", "recipe.evaluate_every=1it", "stack_size=16", "seed=range(16)"]
    run(*wide, *short, *JOB, "hydra.launcher.jobs=1")
    assert run.wait() == 0, run("status", str(run.sweep), status=None)
    assert "can't allocate memory" in "".join(p.read_text() for p in run.sweep.glob("slurm/*.out"))
    assert list(run.sweep.glob("halved/*")), "by the canary"
    counts = run.computed()
    assert len(counts) == 16 and set(counts.values()) == {1}


TEN = "mask_criterion=large_final,large_init,small_final,small_init,movement,random," + ",".join(
    f"{name}_{sign}_sign"
    for name in ("large_final", "magnitude_increase")
    for sign in ("same", "diff")
)


def test_a_thousand_cells_are_submitted_in_a_minute(run: Run) -> None:
    began = time.monotonic()
    held = ["hydra.launcher.pack=false", "hydra.launcher.sbatch={hold: true}"]
    said = run(*SMALL, *JOB, TEN, "seed=range(100)", "schedule.levels=1", *held)
    seconds = time.monotonic() - began
    print(f"\n1000 cells, a job each, and 100 that they wait for: {seconds:.1f} s to the prompt")
    jobs = len(slurm("squeue", "--noheader", "--array").splitlines())
    assert "cells      1000" in said and jobs == 1000 + 100 + 1
    assert seconds < 60
    assert f"cancelled {jobs} jobs" in run("cancel", str(run.sweep))


def test_arrays_are_cut_where_the_clusters_limit_is(run: Run) -> None:
    held = ["hydra.launcher.pack=false", "hydra.launcher.sbatch={hold: true}"]
    said = run(*DENSE, *JOB, "seed=range(1100)", *held)
    assert "submitted 1100 jobs in 3 arrays" in said
    sizes = [len(json.loads(path.read_text())["tasks"]) for path in run.sweep.glob("jobs/*.json")]
    assert sorted(sizes) == [1, 100, 1000]


@pytest.mark.slow
def test_five_hundred_cells_in_four_jobs(run: Run) -> None:
    words = ["seed=range(50)", "schedule.levels=1", "recipe.length=3ep", "hydra.launcher.jobs=4"]
    began = time.monotonic()
    run(*SMALL, *JOB, TEN, *words)
    print(f"\n500 cells: {time.monotonic() - began:.1f} s to the prompt", end=", ")
    assert run.wait(limit=600) == 0
    print(f"{time.monotonic() - began:.0f} s to the last result")
    assert len(list(run.root.glob("runs/*/*/DONE"))) == 500
    counts = run.computed()
    assert len(counts) == 50 + 500 and set(counts.values()) == {1}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+hydra.launcher.gpuz=1", "gpuz; did you mean `gpus`?"),
        ("hydra.launcher.sbatch={nicee: 5}", "sbatch: got nicee; did you mean `nice`?"),
        ("hydra.launcher.partition=nowhere", "invalid partition"),
        ("budget.gpu_hours=1e-9", "budget.gpu_hours: this takes about"),
    ],
)
def test_a_sweep_that_cannot_be_submitted_is_refused(run: Run, word: str, message: str) -> None:
    said = run(*WORDS, word, status=1)
    assert message in said
    assert not slurm("squeue", "--noheader")
    for sweep in run.root.glob("sweeps/*"):
        assert "None" not in run("status", str(sweep), status=1), "of jobs that were refused"


def test_the_batch_file_is_as_recorded(run: Run) -> None:
    run(
        *WORDS,
        "hydra.launcher.sbatch={hold: true, nice: 7}",
        "hydra.launcher.account=root",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.environment={A: 'a b'}",
        "hydra.launcher.setup=['module() { :; }', 'module load cuda']",
        "hydra.launcher.container='env B=1'",
        "hydra.launcher.python=python3",
        "hydra.launcher.mail=me@there.org",
        "hydra.launcher.mail_type=FAIL",
        "hydra.launcher.time='1-00:00:00'",
    )
    text = max(run.sweep.glob("slurm/*_submission.sh"), key=_number).read_text()
    code = re.escape(str(run.sweep / "code")) + "/[0-9a-f]{12}"
    text = (
        re.sub(code, "CODE", text).replace(str(run.sweep), "SWEEP").replace(str(run.folder), "CWD")
    )
    text = re.sub(r"(afterok:)\d+", r"\1ID", text)
    text = re.sub(r"lt-default-\w{8}-\w{6}", "NAME", text)
    assert text == (Path(__file__).parent / "batch.sh").read_text()


def _number(path: Path) -> int:
    return int(path.name.partition("_")[0])


def test_hydras_stock_launcher_works_as_well(run: Run) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    stock = [*("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")]
    run(
        *SMALL,
        *stock,
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.mem_gb=1",
        "workers=1",
        "mask_criterion=random",
        "seed=0,1",
    )
    assert len(list(run.root.glob("runs/*/*/DONE"))) == 2
