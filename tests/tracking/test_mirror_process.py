"""A sweep is mirrored while it runs, and no fault of the tracker harms the sweep."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fixtures.command_line import TINY, CommandLine, kill, start, until
from fixtures.wandb_server import WandbServer

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking import mirror_process
from lt_sweeps.tracking.mirror_process import Deadline, mirrored
from lt_sweeps.tracking.tracked_sweep import tracked_cells

WORDS = [
    *TINY,
    *("schedule.levels=1", "recipe.length=5ep", "mask_criterion=large_final", "seed=0,1"),
    *("tracker=wandb", "tracker.every=0.5", "workers=1"),
    *("tracker.timeout=300", "tracker.linger=900"),  # as long as a slow machine may need
    "report.figures=[curves]",  # one picture, drawn quickly
]


def sweep(root: Path) -> Path:
    (folder,) = (root / "results" / "sweeps").iterdir()
    return folder


def test_a_sweep_is_in_the_tracker_when_it_ends(
    command_line: CommandLine, tmp_path: Path, wandb_server: WandbServer
) -> None:
    status, _, err = command_line(*WORDS, f"root={tmp_path / 'results'}")
    assert (status, err) == (0, "")
    for source in tracked_cells(sweep(tmp_path)):
        rows = wandb_server.rows(source.run.key)
        assert [row["_step"] for row in rows] == list(range(len(source.run.rows)))
    kinds = [run["about"]["jobType"] for run in wandb_server.runs.values()]
    assert sorted(kinds) == ["imp", "imp", "job", "mean over seeds"]
    (job,) = (run for run in wandb_server.runs.values() if run["about"]["jobType"] == "job")
    others = [run for run in wandb_server.runs.values() if run is not job]
    assert job["events"] and not any(run["events"] for run in others), "system metrics once"


@pytest.mark.slow
def test_curves_show_while_a_training_runs_and_a_killed_sweep_goes_on_in_the_same_runs(
    command_line: CommandLine, tmp_path: Path, wandb_server: WandbServer
) -> None:
    words = [*WORDS, f"root={tmp_path / 'results'}", "recipe.length=3000ep"]
    words += ["recipe.evaluate_every=100ep", "checkpoint_every=0.5"]
    process = start(*words, folder=tmp_path)
    until(lambda: len([*tmp_path.glob("results/tickets/*/[!.]*.partial-*")]) >= 2, process)
    for worker in psutil.Process(process.pid).children():
        if os.getpgid(worker.pid) == process.pid:  # a mirror has a group of its own
            worker.suspend()  # else its training may end before the mirror has started
    until(lambda: any(run["history"] for run in wandb_server.runs.values()), process)
    begun = {name: len(run["history"]) for name, run in wandb_server.runs.items()}
    kill(process)
    assert all(n < 62 for n in begun.values()), "the curve was there before the end"
    assert all(run["state"] == "running" for n, run in wandb_server.runs.items() if begun.get(n))
    status, _, err = command_line(*words)
    assert status == 0, err
    assert len(wandb_server.runs) == 4, "no run is there twice"
    for source in tracked_cells(sweep(tmp_path)):
        rows = wandb_server.rows(source.run.key)
        assert [row["_step"] for row in rows] == list(range(len(source.run.rows)))
        assert len(rows) == 2 * (31 + 1)


def hang(path: str) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    "fault",
    [
        lambda path: 401,
        pytest.param(lambda path: 503, marks=pytest.mark.slow),
        pytest.param(lambda path: 404, marks=pytest.mark.slow),
        pytest.param(hang, marks=pytest.mark.slow),
    ],
    ids=["wrong key", "down", "not found", "hangs"],
)
def test_a_tracker_that_fails_costs_a_sweep_one_line(
    command_line: CommandLine,
    tmp_path: Path,
    wandb_server: WandbServer,
    fault: Callable[[str], int | None],
) -> None:
    wandb_server.fault = fault
    words = [*WORDS, f"root={tmp_path / 'results'}", "tracker.timeout=2", "tracker.linger=1"]
    status, _, err = command_line(*words)
    assert status == 0, err
    lines = err.splitlines()
    assert 1 <= len(lines) <= 2 and all(line.startswith("tracker: ") for line in lines), err
    assert "results are kept, and `lt-sweeps sync" in err
    done = list((tmp_path / "results").glob("runs/*/*/DONE"))
    assert len(done) == 2, "the results do not depend on it"


def test_a_mirror_runs_this_code_and_not_what_lies_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lt_sweeps").mkdir()
    (tmp_path / "lt_sweeps" / "__init__.py").write_text("raise SystemExit('other code')")
    monkeypatch.chdir(tmp_path)
    wandb = {"_target_": "lt_sweeps.tracking.wandb_tracker.Wandb", "linger": 0}
    with mirrored(tmp_path, wandb):
        pass
    assert "other code" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["library", "process"])
def test_a_tracker_that_a_jobs_machine_cannot_start_costs_its_sweep_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """The Python in a cluster's container may lack W&B, although the submitting Python has it."""

    def refuse(*_: object, **__: object) -> None:
        if kind == "process":
            raise OSError("cannot allocate memory")

    at = "importlib.util.find_spec" if kind == "library" else "subprocess.Popen"
    monkeypatch.setattr(at, refuse)
    with mirrored(tmp_path / "sweep", {"_target_": "lt_sweeps.tracking.wandb_tracker.Wandb"}):
        trained = True
    assert trained
    (line,) = capsys.readouterr().err.splitlines()
    said = "wandb is not installed" if kind == "library" else "cannot allocate memory"
    assert said in line and "results are kept" in line


def test_a_mirror_that_is_stuck_is_killed_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lt_sweeps.tracking.mirror_process._GRACE", 0.0)
    wandb = {"_target_": "lt_sweeps.tracking.wandb_tracker.Wandb", "linger": 0}
    with mirrored(tmp_path, wandb):
        pass
    assert capfd.readouterr().err == (
        f"tracker: no answer; results are kept, and `lt-sweeps sync {tmp_path}` uploads what is "
        "missing\n"
    )


def test_a_sweep_that_ends_before_its_mirror_has_started_is_mirrored(
    cell: Callable[..., Cell], swept: Callable[..., Path], wandb_server: WandbServer
) -> None:
    folder = swept(cell())
    wandb = {"_target_": "lt_sweeps.tracking.wandb_tracker.Wandb", "timeout": 300, "linger": 900}
    with mirrored(folder, wandb):
        pass
    (source,) = tracked_cells(folder)
    assert len(wandb_server.rows(source.run.key)) == len(source.run.rows)


@pytest.mark.slow
def test_a_sweep_without_a_tracker_starts_no_process(
    command_line: CommandLine, tmp_path: Path, wandb_server: WandbServer
) -> None:
    words = [word for word in WORDS if not word.startswith("tracker")]
    assert command_line(*words, "tracker=none", f"root={tmp_path / 'results'}").status == 0
    assert not wandb_server.requests and not (tmp_path / "results" / "wandb").exists()


@pytest.mark.slow
def test_the_tracker_is_no_part_of_what_a_cell_is(
    command_line: CommandLine, tmp_path: Path, wandb_server: WandbServer
) -> None:
    words = [*WORDS, f"root={tmp_path / 'results'}"]
    assert command_line(*words).status == 0
    status, out, _ = command_line(*words, "tracker.mode=offline")
    assert status == 0
    assert "0 in 0 packs" in out and len(list((tmp_path / "results/sweeps").iterdir())) == 1
    manifest = json.loads((sweep(tmp_path) / "manifest.json").read_text())
    assert manifest["cells"][0]["config"]["tracker"]["mode"] == "offline"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tracker.mode=onlin"], "tracker.mode: got 'onlin'; give one of online, offline"),
        (["tracker.mode=online,offline"], "tracker: the cells differ; give one value"),
        (["tracker.linger=-1"], "tracker.linger: -1; give 0 or more seconds"),
        (
            ["tracker=wnb"],
            "tracker: wnb; did you mean `wandb`? options: mlflow, none, tensorboard, wandb",
        ),
        (["tracker.modus=online"], "tracker.modus: unknown key"),
    ],
)
def test_a_wrong_value_is_refused_when_the_plan_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    given = [w for w in WORDS if not w.startswith(words[0].partition("=")[0] + "=")]
    assert main(["plan", *given, *words, f"root={tmp_path}"]) == 1
    assert f"error: {line}" in capsys.readouterr().err


def test_the_clock_stops_some_seconds_after_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []
    monkeypatch.setattr(
        mirror_process, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append)
    )
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe:
        clock = Deadline(pipe, linger=5)
        assert not clock.ended and clock.left > 1e9
        os.close(writer)
        clock.wait(9999)  # it does not wait on: the launcher has ended
        assert clock.ended and clock.left == 5
        now[0] = 2
        clock.wait(9999)
        assert slept[-1] == clock.left == 3, "no longer than there is time"
        now[0] = 6
        assert clock.left == -1
