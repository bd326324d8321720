"""A sweep's status is read from its files, whichever process wrote them, and needs no torch."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.tiny_cell import settings
from rich.console import Console

from lt_sweeps.cli.command_line import main
from lt_sweeps.cli.status_view import read_logs, show_status
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import local_launcher
from lt_sweeps.execution.frozen_pack import work_on
from lt_sweeps.execution.slurm.squeue import Batch, job_name, output, queued
from lt_sweeps.execution.status import AT_WORK, BROKEN, COMPLETE, Status
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.sweep_folder import Heartbeat, PackAtWork, SweepFolder

Make = Callable[..., Cell]


@pytest.fixture
def sweep(cell: Make, tmp_path: Path) -> SweepFolder:
    """A sweep of two seeds and three levels, one pack per level; nothing is computed yet."""
    made = plan([cell(seed=seed) for seed in (0, 1)])
    sizes = {unit.stage.key: 9 for unit in made.units}
    found = packs(made.units, stack_size=sizes, workers=1)
    return Submission(made, settings(tmp_path, "mine")).freeze(found)


def said(sweep: SweepFolder) -> tuple[int, str]:
    console = Console(width=200, record=True, file=io.StringIO())
    return show_status(SweepFolder(sweep.folder), console), console.export_text()


def test_a_unit_without_a_worker_a_job_or_a_ticket_is_missing(sweep: SweepFolder) -> None:
    found, text = said(sweep)
    assert found == BROKEN
    assert "mine: 0 of 2 cells done, 6 trainings missing" in text


def test_a_stored_unit_is_done(sweep: SweepFolder) -> None:
    for pack in sweep.packs():
        work_on(sweep, pack, device="cpu")
    found, text = said(sweep)
    assert found == COMPLETE
    assert "mine: 2 of 2 cells done, 6 trainings done" in text


def test_a_unit_with_a_heartbeat_is_running_and_the_others_are_queued(sweep: SweepFolder) -> None:
    first, second, third = sweep.packs()
    work_on(sweep, first, device="cpu")
    at_work = {second.name: PackAtWork(second.units, step=4)}
    sweep.beat("local-here-1", Heartbeat("here", at_work, [third.name]))
    found, text = said(sweep)
    assert found == AT_WORK
    assert "0 of 2 cells done, 2 trainings done, 2 trainings running, 2 trainings queued" in text
    assert "on here (local-here-1): step 4 of 12" in text
    sweep.rest("local-here-1")
    assert said(sweep)[0] == BROKEN


def test_a_worker_without_a_recent_heartbeat_counts_as_dead(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pack, *_) = sweep.packs()
    at_work = {pack.name: PackAtWork(pack.units, step=4)}
    sweep.beat("local-here-1", Heartbeat("here", at_work, []))
    monkeypatch.setattr("lt_sweeps.storage.sweep_folder.STALE", 0.0)
    assert said(sweep)[0] == BROKEN


def test_a_submitted_job_is_queued_until_its_end_is_noted(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm, which could be asked
    names = [pack.name for pack in sweep.packs()]
    Batch(0, "lt-mine.0", [names], "cpu", 1, [], [False], id="77").write(sweep)
    assert said(sweep)[0] == AT_WORK


@pytest.mark.parametrize(("id", "lost"), [("7", 1), (None, 0)])
def test_a_job_that_slurm_refused_is_not_lost(
    sweep: SweepFolder, id: str | None, lost: int
) -> None:
    names = [pack.name for pack in sweep.manifest.packs]
    Batch(0, job_name(sweep, 0), [names], "cpu", 1, [], [False], id=id).write(sweep)
    none = frozenset[tuple[str, str]]()
    status = Status(sweep, none, {}, {}, frozenset(), asked_slurm=True, records=[])
    assert len(list(status.lost())) == lost


def test_a_canary_that_never_began_is_named_before_the_jobs_that_waited_for_it(
    sweep: SweepFolder,
) -> None:
    """Later jobs have its packs too, and a pack is reported for the last job that has it."""
    names = [pack.name for pack in sweep.manifest.packs]
    for number, id in enumerate(("6", "7", "8", "9")):
        canary = number % 2 == 0
        name = job_name(sweep, number)
        Batch(number, name, [names], "cpu", 1, [], [canary], canary, id=id).write(sweep)
    none = frozenset[tuple[str, str]]()
    status = Status(sweep, none, {}, {}, frozenset(), asked_slurm=True, records=[])
    assert [(batch.id, task) for batch, task in status.lost()] == [("8", 0), ("9", 0)]


def test_status_says_why_jobs_wait_and_how_slurm_ended_lost_jobs(
    sweep: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [pack.name for pack in sweep.manifest.packs]
    batch = Batch(0, job_name(sweep, 0), [names] * 3, "cpu", 1, [], [False] * 3, id="7")
    batch.write(sweep)
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\necho '7|0|PENDING|{batch.name}|ReqNodeNotAvail, May be reserved'\n"
        f"echo '7|1|RUNNING|{batch.name}|None'\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = output(sweep, batch, 2)
    path.parent.mkdir()
    path.write_text("slurmstepd: error: JOB 7 CANCELLED DUE TO TIME LIMIT\nlevel0: not done\n")
    _, text = said(sweep)
    assert "jobs that wait in Slurm's queue: 1 for ReqNodeNotAvail, May be reserved" in text
    last = Batch(1, job_name(sweep, 1), [names], "cpu", 1, [], [False], id="8")
    last.write(sweep)
    output(sweep, last, 0).write_text(path.read_text())
    assert "  slurmstepd: error: JOB 7 CANCELLED DUE TO TIME LIMIT" in said(sweep)[1]


def test_lost_jobs_with_the_same_ending_share_a_line(
    sweep: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").symlink_to("/bin/true")  # an empty queue
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    pack, *others = [pack.name for pack in sweep.packs()]
    early = Batch(0, job_name(sweep, 0), [[pack]], "cpu", 1, [], [True], id="6")
    tasks = [[name] for name in others]
    late = Batch(1, job_name(sweep, 1), tasks, "cpu", 1, [], [False] * 2, id="7")
    for batch in (early, late):
        batch.write(sweep)
    output(sweep, early, 0).parent.mkdir()
    output(sweep, early, 0).write_text("env: 'python3': No such file or directory\n")
    lines = said(sweep)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("lost:"))
    assert [line.strip() for line in lines[first:]] == [
        "lost: job 6_0 has left the queue unfinished",
        "env: 'python3': No such file or directory",
        str(output(sweep, early, 0)),
        "lost: job 7_0 and 1 more have left the queue unfinished",
        "no output: an earlier job failed, or this job was cancelled",
    ]
    for task, job in enumerate((70, 71)):
        output(sweep, late, task).write_text(f"error: *** JOB {job} CANCELLED ***\n")
    assert said(sweep)[1].count("CANCELLED") == 1
    copy = SweepFolder(tmp_path / "copy" / "sweeps" / "mine")
    shutil.copytree(sweep.root, copy.root)
    assert "lost" not in said(copy)[1], "they are the original's jobs"


def test_a_failing_cell_is_named_with_its_logs_last_line_and_path(sweep: SweepFolder) -> None:
    pack, *later = sweep.packs()
    log = sweep.log(pack.name)
    log.parent.mkdir()
    log.write_text("Traceback:\nRuntimeError: no such luck; not started\n")
    sweep.fail(pack.units[1], "RuntimeError: no such luck; not started", pack.name)
    for other in later:
        sweep.fail(other.units[1], "not started: it needs level 0 of seed 1", other.name)
    found, text = said(sweep)
    assert found == BROKEN
    assert "failed: cell 1 (model mask_criterion, seed 1) at level 0" in text
    assert text.count("failed: ") == 1, "the others are not at fault"
    assert "  RuntimeError: no such luck; not started" in text and str(log) in text


def test_logs_of_a_cell_are_those_of_the_packs_that_advance_it(sweep: SweepFolder) -> None:
    for pack in sweep.packs():
        log = sweep.log(pack.name)
        log.parent.mkdir(exist_ok=True)
        log.write_bytes(b"a library's own byte: \xff\n" + f"this is {pack.name}\n".encode())
    text = "\n".join(read_logs(sweep, "1"))
    assert all(f"this is {pack.name}" in text for pack in sweep.packs())
    assert "\n".join(read_logs(sweep, "mask_criterion seed 1")) == text
    shown = said(sweep)[1]
    assert "cell 0: mask_criterion seed 0" in shown and "cell 1: mask_criterion seed 1" in shown
    with pytest.raises(ValueError, match="did you mean `mask_criterion seed 1`"):
        list(read_logs(sweep, "mask_criterion sed 1"))
    with pytest.raises(ValueError, match="logs: got '2'; .* for mine: 0 to 1,"):
        list(read_logs(sweep, "2"))


def test_a_log_without_a_line_has_no_header(sweep: SweepFolder) -> None:
    first, second, _ = sweep.packs()
    name = sweep.manifest.cells[0].name
    assert list(read_logs(sweep, "0")) == [f"{name}: nothing was logged while it was trained"]
    for pack, text in ((first, "\n"), (second, "one line\n\n")):
        sweep.log(pack.name).parent.mkdir(exist_ok=True)
        sweep.log(pack.name).write_text(text)
    assert list(read_logs(sweep, "0")) == [f"==> {sweep.log(second.name)} <==", "one line"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_resumed_sweep_is_named_as_it_was_typed_where_it_was_started(
    cells: Callable[..., list[Cell]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moved: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Submission(plan(cells("seed=0")), settings(Path("results"), "mine")).freeze([])
    resumed = list[Submission]()
    monkeypatch.setattr(local_launcher, "run_missing", lambda given: resumed.append(given) or 0)
    if moved:
        monkeypatch.chdir(tmp_path)
    root = "here/results" if moved else "results"
    assert main(["resume", "mine", f"root={root}"]) == 0
    whole = tmp_path / "here" / "results" / "sweeps" / "mine"
    assert resumed[0].folder == (whole if moved else Path("results/sweeps/mine"))


def test_a_halved_pack_is_its_halves(sweep: SweepFolder) -> None:
    first, *others = sweep.packs()
    one, other = sweep.halve(first)
    assert [one.units, other.units] == [first.units[:1], first.units[1:]]
    assert sweep.packs() == [*first.halves(), *others]


def test_it_starts_without_torch(sweep: SweepFolder) -> None:
    code = "import sys; from lt_sweeps.cli.command_line import main\n"
    code += "s = main(['status', sys.argv[1]])\n"
    code += "assert 'torch' not in sys.modules; sys.exit(s)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep.folder)], capture_output=True, text=True
    )
    assert done.returncode == BROKEN, done.stderr


@pytest.mark.parametrize(("program", "asked"), [("exec sleep 60", 1), ("exit 1", 3)])
def test_a_controller_that_is_silent_is_asked_once_and_one_that_refuses_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, asked: int
) -> None:
    sweep = SweepFolder(tmp_path / "sweeps" / "mine")
    Batch(1, "lt", [["pack"]], "cpu", 1, [], [False]).write(sweep)
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho >> {tmp_path}/asked\n{program}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ValueError, match="^slurm: .*`squeue` failed, at last with"):
        queued(sweep, timeout=0.5)
    assert len((tmp_path / "asked").read_text().splitlines()) == asked
