"""W&B offline: its own files, read back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures import wandb_files
from fixtures.command_line import kill, until
from fixtures.wandb_server import WandbServer, sync

from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking import wandb_tracker
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.tracking.tracker import Unreachable
from lt_sweeps.tracking.wandb_tracker import AXES, Wandb

REPOSITORY = Path(__file__).parents[2]
Make = Callable[..., Cell]
Swept = Callable[..., Path]


def offline(folder: Path) -> Path:
    return folder.parent.parent / "wandb"


def once(folder: Path) -> dict[str, dict]:
    """Check that every run's rows are in the files in order, each once."""
    found = wandb_files.runs(offline(folder))
    runs = {source.run.key: source.run for source in tracked_cells(folder)}
    assert set(runs) <= set(found)
    for key, run in runs.items():
        rows = found[key]["rows"]
        assert [row["_step"] for row in rows] == list(range(len(run.rows)))
        sent = [
            {name: row[name] for name in want} for row, want in zip(rows, run.rows, strict=True)
        ]
        assert sent == [dict(row) for row in run.rows]
    return found


def test_an_offline_run_holds_what_the_records_hold(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell())
    assert sync(folder, mode="offline", tags="[paper]") == 0
    (run,) = once(folder).values()
    assert (run["group"], run["job_type"], run["exit"]) == ("tiny", "method", 0)
    assert run["tags"] == ["mask_criterion", "method", "model", "dataset", "paper"]
    assert run["config"]["recipe"]["optimizer"] == "adam"
    assert run["summary"]["levels"] == 3
    assert {name: run["axes"][name] for name in AXES} == AXES
    assert {"step", "level", "sparsity"} <= set(run["axes"])
    assert not wandb_server.requests, "offline asks no server"


def test_fifty_runs_at_once_are_fifty_runs(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(*(cell(seed=seed, schedule__levels=1) for seed in range(50)))
    assert sync(folder, mode="offline") == 0
    found = once(folder)
    assert len(found) == 50 + 1 and all(run["files"] == 1 for run in found.values())
    (mean,) = (run for key, run in found.items() if "-mean-" in key)
    assert mean["rows"][-1]["ticket/seeds"] == 50


@pytest.mark.slow
def test_killed_at_any_moment_and_again_nothing_is_doubled(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(*(cell(seed=seed, schedule__levels=1) for seed in range(36)))
    for more in (1, 4, 9):
        words = [sys.executable, "-m", "lt_sweeps", "sync", str(folder), "mode=offline"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        had = len(list(offline(folder).glob("offline-run-*")))
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        most = had + more
        until(lambda most=most: len([*offline(folder).glob("offline-run-*")]) > most, process)
        kill(process)
    assert len(list(offline(folder).glob("offline-run-*"))) < 37, "killed while at work"
    assert sync(folder, mode="offline") == 0
    assert all(run["files"] == 1 for run in once(folder).values())
    assert not list(offline(folder).glob(".part-*")), "what the killed ones left is gone"


def test_a_run_in_two_files_goes_on_in_the_second(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell())
    (path,) = folder.parent.parent.glob("runs/*/0")
    whole, done = (path / "records.jsonl").read_text(), (path / "DONE").read_text()
    (path / "DONE").unlink()
    (path / "records.jsonl").write_text(whole.splitlines(keepends=True)[0])
    assert sync(folder, mode="offline") == 0
    (path / "records.jsonl").write_text(whole)
    (path / "DONE").write_text(done)
    assert sync(folder, mode="offline") == 0
    (run,) = once(folder).values()
    assert run["files"] == 2


def test_wandb_sync_uploads_the_files_and_ours_then_has_nothing_to_add(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell(seed=0), cell(seed=1))
    assert sync(folder, mode="offline", artifacts="masks") == 0
    files = sorted(map(str, offline(folder).glob("offline-run-*")))
    command = [str(Path(sys.executable).parent / "wandb"), "sync", *files]
    subprocess.run(command, check=True, capture_output=True)
    for source in tracked_cells(folder):
        rows = wandb_server.rows(source.run.key)
        assert [row["_step"] for row in rows] == list(range(len(source.run.rows)))
    assert len(wandb_server.artifacts) == 2 * 3
    wandb_server.requests.clear()
    assert sync(folder, mode="online") == 0
    assert "file_stream" not in wandb_server.requests


def test_files_that_were_removed_are_not_written_again(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    """`wandb sync --clean` removes files that it has sent; sent again, rows would be doubled."""
    folder = swept(cell(seed=0))
    assert sync(folder, mode="offline") == 0
    for file in offline(folder).glob("offline-run-*"):
        shutil.rmtree(file)
    shutil.rmtree(folder)
    swept(cell(seed=0), cell(seed=1))
    assert sync(folder, mode="offline") == 0
    names = [path.name for path in offline(folder).glob("offline-run-*")]
    assert len(names) == 2 and not any(name.endswith("-0") for name in names)
    shutil.rmtree(offline(folder))  # and with it the list of what was written
    assert sync(folder, mode="offline") == 0
    assert len(once(folder)) == 3


def test_every_wait_of_wandb_has_the_time_limit_of_the_tracker(
    cell: Make, swept: Swept, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    limits: set[object] = set()
    begin, ask = wandb.init, wandb.Api

    def init(*, settings: wandb.Settings, **more: object) -> object:
        limits.update({settings.init_timeout, settings.finish_timeout})
        assert settings.finish_timeout_raises
        return begin(settings=settings, **more)  # type: ignore[arg-type]

    def api(*, timeout: float, **more: object) -> object:
        limits.add(timeout)
        return ask(timeout=timeout, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "Api", api)
    assert sync(swept(cell()), timeout="456") == 0
    assert limits == {456}


def test_a_service_of_wandb_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B waits for it without a limit, so `sync` would never end."""
    import wandb

    program = tmp_path / "wandb-core"
    shutil.copy(shutil.which("sleep") or "", program)
    service = subprocess.Popen([program, "60"])
    monkeypatch.setattr(wandb, "teardown", service.wait)
    monkeypatch.setattr(wandb_tracker, "_SERVICE_ENDS", 0.1)
    with (
        Wandb(mode="offline", timeout=0.1).session(tmp_path) as session,
        pytest.raises(Unreachable, match="refused"),
        session._answers(),
    ):
        raise OSError("refused")
    assert service.poll() == -signal.SIGKILL


def test_wandb_that_exits_with_its_service_does_not_end_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B calls sys.exit with the status of a service that was killed."""
    import wandb

    monkeypatch.setattr(wandb, "teardown", lambda: sys.exit(-9))
    with (
        Wandb(mode="offline").session(tmp_path) as session,
        pytest.raises(Unreachable, match="refused"),
        session._answers(),
    ):
        raise OSError("refused")
