"""If the disk is full, work waits for minutes; then it ends with one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures.command_line import TINY, CommandLine, finish, start, tickets, until
from fixtures.small_disk import SmallDisk, mounted
from fixtures.tiny_cell import settings

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import patience, worker_pool
from lt_sweeps.execution.loaded_code import LoadedCode
from lt_sweeps.execution.patience import OutOfPatience, patiently
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.worker_process import serve
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan

WORDS = [
    *TINY,
    *("schedule.levels=2", "recipe.length=3ep", "workers=1", "report.figures=[curves]"),
]
FULL = """
import errno
from pathlib import Path

def luck(final):
    if len(final) == 50:  # as it is tried when the plan is made
        return final
    count = Path(__file__).with_name("count")
    tries = int(count.read_text()) if count.exists() else 0
    count.write_text(str(tries + 1))
    if tries < {times}:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
    return final.abs()
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", "8m") as disk:
        yield disk


class Clock:
    """A clock that adds up the time that a process has asked to sleep, without sleeping."""

    def __init__(self, at_most: float = 3600, then: Callable[[], None] = lambda: None) -> None:
        self.slept, self.at_most, self.then = 0.0, at_most, then

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self.slept >= self.at_most:
            self.then()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "manifest.json")


def test_a_disk_that_is_full_for_nine_minutes_is_waited_for(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert patiently("manifest", lambda: full() if clock.slept < 540 else "written") == "written"
    reason = "[Errno 28] No space left on device: 'manifest.json'"
    said = f"manifest: {reason}; waiting for it, up to 10 minutes; make room if it is full\n"
    assert capsys.readouterr().err == said, "it is said once"


def test_after_ten_minutes_it_ends_with_one_line(clock: Clock) -> None:
    with pytest.raises(OutOfPatience, match=r"^manifest: .* waited 10 minutes; make room"):
        patiently("manifest", full)
    assert 600 <= clock.slept < 700


def test_an_error_that_waiting_does_not_mend_is_not_waited_for(clock: Clock) -> None:
    with pytest.raises(FileNotFoundError):
        patiently("manifest", lambda: Path("/no/such/file").read_text())
    assert clock.slept == 0


@pytest.mark.parametrize(("drained", "status"), [("", 120), ("drain();", 75)])
def test_a_line_that_a_full_disk_refuses_does_not_change_the_exit_status(
    drained: str, status: int
) -> None:
    program = "from lt_sweeps.execution.patience import drain; import sys;"
    program += f"print('a line'); {drained} sys.exit(75)"
    with Path("/dev/full").open("w") as refuses:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=refuses,
            stderr=refuses,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert done.returncode == status


def test_a_pack_whose_log_cannot_be_written_is_computed_all_the_same(
    cell: Callable[..., Cell], tmp_path: Path, command_line: CommandLine
) -> None:
    made = plan([cell()])
    units = packs(made.units, stack_size={u.stage.key: 1 for u in made.units}, workers=1)
    sweep = Submission(made, settings(tmp_path)).freeze(units)
    pack = sweep.manifest.packs[0]
    sweep.log(pack.name).parent.mkdir()
    sweep.log(pack.name).symlink_to("/dev/full")
    ours, theirs = command_line.processes.Pipe()
    ours.send(pack)
    arguments = (theirs, sweep.folder, "cpu", None, LoadedCode.now())
    process = command_line.processes.Process(target=serve, args=arguments)
    process.start()
    process.join()
    ours.close()
    assert process.exitcode == 0
    assert len(made.missing(Submission(made, settings(tmp_path)).store)) == 2


@pytest.fixture
def luck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """The overrides that choose a criterion for which the disk is full, this number of times."""

    def words(times: int) -> list[str]:
        name = f"full_{times}"  # a module of its own, because a process imports a name once
        (tmp_path / f"{name}.py").write_text(FULL.format(times=times))
        (tmp_path / "own" / "mask_criterion").mkdir(parents=True)
        (tmp_path / "own" / "mask_criterion" / "luck.yaml").write_text(f"_target_: {name}.luck\n")
        monkeypatch.syspath_prepend(tmp_path)
        return [*WORDS, f"--config-dir={tmp_path / 'own'}", "mask_criterion=luck", "seed=0,1"]

    return words


def test_a_pack_is_tried_again_whole_while_the_disk_is_full(
    luck: Callable[[int], list[str]],
    tmp_path: Path,
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    def pause(waited: float, *, longest: float) -> float:
        pauses.append(patience.next_pause(waited, longest=longest))
        return 0.01

    monkeypatch.setattr(worker_pool, "next_pause", pause)
    status, _, err = command_line(*luck(4), f"root={tmp_path / 'results'}")
    assert (status, err) == (0, "")
    assert len(pauses) == 4 and pauses[0] == 2
    assert not list(tmp_path.glob("results/sweeps/*/halved/*"))


def test_a_sweep_ends_with_one_line_when_a_disk_stays_full(
    luck: Callable[[int], list[str]],
    tmp_path: Path,
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_pool, "PATIENCE", 0.0)
    status, _, err = command_line(*luck(99), f"root={tmp_path / 'results'}")
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: OSError: [Errno 28] No space left on device: 'somewhere';")
    assert line.endswith("make room, and the same command continues")
    assert not list(tmp_path.glob("results/sweeps/*/halved/*"))


def test_a_launcher_waits_until_there_is_room(
    disk: SmallDisk, command_line: CommandLine, clock: Clock
) -> None:
    disk.fill()
    clock.at_most, clock.then = 300, disk.make_room
    status, _, err = command_line(*WORDS, f"root={disk.folder / 'results'}", "seed=0")
    assert status == 0 and clock.slept >= 300
    assert "No space left on device" in err and err.count("\n") == 1 and "; waiting" in err


def test_a_launcher_that_waits_in_vain_ends_with_one_line(
    disk: SmallDisk, command_line: CommandLine, clock: Clock
) -> None:
    disk.fill()
    status, _, err = command_line(*WORDS, f"root={disk.folder / 'results'}", "seed=0")
    assert status == 1 and clock.slept >= 600
    waiting, error = err.splitlines()
    assert waiting.endswith("if it is full") and error.startswith("error: manifest: [Errno 28]")


@pytest.mark.slow
def test_a_sweep_on_a_disk_that_is_full_for_a_while_ends_with_the_same_bytes(
    disk: SmallDisk, tmp_path: Path, command_line: CommandLine
) -> None:
    words = [*WORDS, "recipe.length=300ep", "checkpoint_every=0.5", "seed=0,1"]
    assert command_line(*words, f"root={tmp_path / 'whole'}").status == 0
    root = disk.folder / "results"
    with (disk.folder / "log").open("w") as log:
        process = start(*words, f"root={root}", folder=tmp_path, output=log)
        until(lambda: list(root.glob("tickets/*/*.partial-*")), process)
        disk.fill()
        time.sleep(20)  # the sweep has asked four times
        assert process.poll() is None
        disk.make_room()
        status = finish(process).status
    said = (disk.folder / "log").read_text()
    assert status == 0, said
    assert "Traceback" not in said and "halved" not in said
    assert tickets(root) == tickets(tmp_path / "whole")
