"""If Slurm signals a batch script at any moment, its work is saved and its job is requeued."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

JOB = Path(__file__).parents[2] / "lt_sweeps" / "execution" / "slurm" / "job.sh"
RUNNING, CANCELLED = "JobState=RUNNING Reason=None", "JobState=CANCELLED Reason=None"


def script(
    folder: Path, setup: str, command: str, state: str = RUNNING, *, patience: float = 60
) -> subprocess.Popen[str]:
    """A running batch script, and a fake `scontrol` that notes which jobs are requeued."""
    requeue = f'echo "$2" >> {folder}/requeued; exec kill -KILL $PPID'  # Slurm ends a requeued job
    scontrol = f"#!/bin/bash\n[ $1 = show ] && echo '{state}' && exit\n{requeue}\n"
    (folder / "scontrol").write_text(scontrol)
    (folder / "scontrol").chmod(0o755)
    lines = [f"source {JOB} 1 {folder}/count {patience}", "set -e", setup, "set +e"]
    lines.append(f"lt_main {command}")
    (folder / "batch.sh").write_text("\n".join(lines))
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7"}
    environment["SLURM_ARRAY_TASK_ID"] = "3"
    words = ["bash", f"{folder}/batch.sh"]
    return subprocess.Popen(words, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)


UNTIL_SIGNALLED = "rm -f signalled; touch begun; until [ -e signalled ]; do sleep 0.01; done"
SAVES = """bash -c 'trap "exit 75" TERM; touch begun; while :; do sleep 0.05; done'"""
IMPORTS = "bash -c 'touch begun; exec sleep 60'"  # like Python before it handles SIGTERM


@pytest.mark.parametrize("stop", [signal.SIGUSR2, signal.SIGTERM])
@pytest.mark.parametrize(
    ("setup", "command"),
    [
        (UNTIL_SIGNALLED, "touch trained"),
        (f"{UNTIL_SIGNALLED}; false", "touch trained"),  # a line that the signal has ended
        ("true", IMPORTS),
        ("true", SAVES),
        ("trap 'touch cleaned' EXIT USR2 TERM", SAVES),  # a setup line may clean up at the end
    ],
)
def test_a_signal_requeues_the_task_at_whatever_moment_it_comes(
    tmp_path: Path, setup: str, command: str, stop: signal.Signals
) -> None:
    for requeues in (1, 0):  # at most one for a time limit
        process = script(tmp_path, setup, command)
        signalled(process, tmp_path, stop)
        _, said = process.communicate()
        assert not (tmp_path / "trained").exists()
        assert (process.returncode == -signal.SIGKILL) == bool(requeues), said
    assert (tmp_path / "requeued").read_text() == "7_3\n"
    assert "time limit reached, after 1 requeues (max_requeues)" in said


def test_a_command_that_hangs_is_killed_and_requeued_before_the_time_limit(tmp_path: Path) -> None:
    """At the limit Slurm would end it as a failed job, and would not start it again."""
    hangs = """bash -c 'trap "" TERM; touch begun; exec sleep 60'"""
    process = script(tmp_path, "true", hangs, patience=0.3)
    signalled(process, tmp_path, signal.SIGUSR2)
    _, said = process.communicate()
    assert said.startswith("not saved after 0.3 seconds, so it is killed\n")
    assert said.endswith("requeued\n")
    assert (tmp_path / "requeued").read_text() == "7_3\n"


def test_a_command_that_has_saved_leaves_no_process_behind(tmp_path: Path) -> None:
    process = script(tmp_path, "true", SAVES, patience=60.1)
    signalled(process, tmp_path, signal.SIGUSR2)
    process.communicate()
    assert not sleeping(60.1, tmp_path)


def test_a_command_that_ends_before_its_timer_has_begun_leaves_no_process_behind(
    tmp_path: Path,
) -> None:
    slow = 'trap() { env sleep 0.2; builtin trap "$@"; }'
    process = script(tmp_path, slow, IMPORTS, patience=60.3)
    signalled(process, tmp_path, signal.SIGUSR2)
    process.communicate()
    assert not sleeping(60.3, tmp_path)


def test_a_timer_that_slurm_ends_kills_nothing(tmp_path: Path) -> None:
    """At the time limit Slurm sends SIGTERM to all processes of a job."""
    saves = """trap "" TERM; touch begun; until [ -e ended ]; do sleep 0.01; done; exit 75"""
    process = script(tmp_path, "true", f"bash -c '{saves}'", patience=60.2)
    signalled(process, tmp_path, signal.SIGUSR2)
    while not (timer := sleeping(60.2, tmp_path)):
        time.sleep(0.01)
    os.kill(timer[0], signal.SIGTERM)
    (tmp_path / "ended").touch()
    _, said = process.communicate()
    assert said == "requeued\n"


@pytest.mark.parametrize("command", [IMPORTS, SAVES])
def test_a_cancelled_job_is_not_requeued(tmp_path: Path, command: str) -> None:
    process = script(tmp_path, "true", command, CANCELLED)
    signalled(process, tmp_path, signal.SIGTERM)
    process.communicate()
    assert process.returncode in (75, 128 + signal.SIGTERM)
    assert not (tmp_path / "requeued").exists()


def test_why_a_job_cannot_requeue_itself_is_said(tmp_path: Path) -> None:
    """On some clusters, compute nodes lack `scontrol` or may not use it."""
    process = script(tmp_path, "true", SAVES)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho Access denied >&2; exit 1\n")
    signalled(process, tmp_path, signal.SIGUSR2)
    _, said = process.communicate()
    assert said == "not requeued: Access denied; continue with `resume`\n"
    assert process.returncode == 75


@pytest.mark.parametrize(("setup", "status"), [("true", 3), ("false", 1)])
def test_a_failure_without_a_signal_is_a_failure_of_the_job(
    tmp_path: Path, setup: str, status: int
) -> None:
    process = script(tmp_path, setup, "bash -c 'exit 3'")
    process.communicate()
    assert process.returncode == status
    assert not (tmp_path / "requeued").exists()


def sleeping(seconds: float, folder: Path) -> list[int]:
    """The processes that sleep for this time in a folder; another run of the tests has its own."""
    words = f"sleep\0{seconds}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if path.read_bytes() == words and path.with_name("cwd").readlink() == folder:
                found.append(int(path.parent.name))
    return found


def signalled(process: subprocess.Popen[str], folder: Path, stop: signal.Signals) -> None:
    while not (folder / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    (folder / "begun").unlink()
    process.send_signal(stop)
    (folder / "signalled").touch()
