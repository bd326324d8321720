"""If the mirror's disk is full, it says so once, results stay safe, and all rows arrive later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures import wandb_files
from fixtures.command_line import TINY
from fixtures.small_disk import mounted
from fixtures.wandb_server import WandbServer, sync

from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking import wandb_file
from lt_sweeps.tracking.tracked_sweep import tracked_cells

REPOSITORY = Path(__file__).parents[2]
Make = Callable[..., Cell]
Swept = Callable[..., Path]


def files(folder: Path) -> dict[str, list[int]]:
    """The steps of each run in W&B's offline files."""
    found = wandb_files.runs(folder.parent.parent / "wandb")
    return {key: [row["_step"] for row in run["rows"]] for key, run in found.items()}


@pytest.mark.parametrize(
    ("mode", "size", "full"),
    [
        ("offline", "400k", True),
        ("online", "400k", True),
        # Room for some files of W&B and not for all: its service then ends a run as if all were
        # well, with a torn file. Where in a file the end comes depends on the size.
        *(("offline", f"{size}k", False) for size in (72, 112)),
    ],
)
def test_a_full_disk_is_one_line_and_later_all_is_sent(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    capfd: pytest.CaptureFixture[str],
    mode: str,
    size: str,
    full: bool,
) -> None:
    wandb = pytest.importorskip("wandb")
    folder = swept(*(cell(seed=seed) for seed in range(4)))
    lengths = [len(source.run.rows) for source in tracked_cells(folder)]
    with mounted(folder.parent.parent / "wandb", size) as disk:
        if full:
            disk.fill()
        status, err = sync(folder, mode=mode, timeout="5"), capfd.readouterr().err
        if status:
            assert err.startswith("tracker: ") and err.count("\n") == 1, err
            assert "results are kept, and `lt-sweeps sync" in err
        else:  # online W&B writes little here, so that all may arrive in spite of the full disk
            assert mode == "online" and not err
            counts = [len(run["history"]) for run in wandb_server.runs.values()]
            assert counts == [lengths[0]] * (4 + 1)
        assert all(steps == list(range(lengths[0])) for steps in files(folder).values())
        wandb.teardown()
    assert sync(folder, mode=mode) == 0, capfd.readouterr().err
    for source, length in zip(tracked_cells(folder), lengths, strict=True):
        key = source.run.key
        sent = (
            [row["_step"] for row in wandb_server.rows(key)]
            if mode == "online"
            else files(folder)[key]
        )
        assert sent == list(range(length)), "everything once"


@pytest.mark.slow
def test_a_sweep_beside_a_full_disk_ends_as_if_nothing_were(
    tmp_path: Path, wandb_server: WandbServer
) -> None:
    words = [
        *TINY,
        *("schedule.levels=1", "recipe.length=5ep", "seed=0,1"),
        *("mask_criterion=large_final", "workers=1", "tracker=wandb"),
        *("tracker.every=0.5", "tracker.timeout=5", f"root={tmp_path / 'results'}", "name=tiny"),
    ]
    with mounted(tmp_path / "results" / "wandb", "400k") as disk:
        disk.fill()
        done = subprocess.run(
            [sys.executable, "-m", "lt_sweeps", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    # One reason, and another where W&B's service is too slow to say the first: each once.
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2 and len(set(lines)) == len(lines), done.stderr
    assert all(line.startswith("tracker: ") and "results are kept" in line for line in lines)
    assert len(list((tmp_path / "results").glob("runs/*/*/DONE"))) == 2
    assert sync(tmp_path / "results" / "sweeps" / "tiny", mode="offline") == 0
    assert len(files(tmp_path / "results" / "sweeps" / "tiny")) == 3


def test_a_file_that_is_torn_anywhere_is_not_taken_for_a_run(
    cell: Make, swept: Swept, wandb_server: WandbServer, tmp_path: Path
) -> None:
    folder = swept(cell(recipe__length="100ep"))
    assert sync(folder, mode="offline") == 0
    (file,) = (folder.parent.parent / "wandb").glob("offline-run-*/*.wandb")
    whole = file.read_bytes()
    assert len(whole) > 2**15, "several blocks"
    assert wandb_file.finished_rows(file) == len(tracked_cells(folder)[0].run.rows)
    torn = tmp_path / "torn.wandb"
    for size in (0, 3, 7, 11, 2**15 - 3, 2**15, 2**15 + 2, len(whole) - 1):
        torn.write_bytes(whole[:size])
        assert wandb_file.finished_rows(torn) is None
    torn.write_bytes(whole[:500] + bytes(8) + whole[508:])
    assert wandb_file.finished_rows(torn) is None
