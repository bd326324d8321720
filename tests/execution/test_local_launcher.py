"""The local launcher: real processes, killed for real."""

from __future__ import annotations

import html
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from fixtures.command_line import TINY, CommandLine, finish, start, tickets, until
from fixtures.dying_process import dies_after
from PIL import Image

from lt_sweeps.execution import local_launcher
from lt_sweeps.execution.local_launcher import _about
from lt_sweeps.execution.run_settings import check_writable
from lt_sweeps.storage.record import ALL_DIVERGED
from lt_sweeps.training.arithmetic import Arithmetic

WORDS = [
    *TINY,
    *("schedule.levels=2", "recipe.length=30ep", "mask_criterion=large_final,random"),
    *("seed=0,1", "workers=2", "report.figures=[curves]"),  # one picture, drawn quickly
]


def results(root: Path) -> dict[str, object]:
    """Every ticket's bytes and every record.

    Two columns are left out: the seconds, which a clock measured, and the size of the stack,
    because a pack that happens to be killed twice continues as two halves, with the same bytes.
    """
    contents: dict[str, object] = {**tickets(root)}
    for path in root.glob("runs/*/*/records.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        contents[str(path.relative_to(root))] = [
            {k: v for k, v in r.items() if k not in ("seconds", "stack_size")} for r in rows
        ]
    return contents


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was not disturbed, in its own process, as a user starts it."""
    root = tmp_path_factory.mktemp("whole") / "results"
    status, out, err = finish(start(*WORDS, f"root={root}", folder=root.parent))
    assert status == 0, err
    assert "replicate-steps" not in out + err, "quiet where nobody looks"
    return root


def test_a_sweep_ends_with_a_table_and_a_picture(whole: Path) -> None:
    (folder,) = whole.glob("sweeps/*/report")
    assert {"accuracy.png", "records.csv", "summary.csv"} <= {p.name for p in folder.iterdir()}
    assert len(list(whole.glob("runs/*/*/DONE"))) == 4
    assert not list(whole.glob("tickets/*/*.partial-*"))
    typed = html.escape(shlex.join([*WORDS, f"root={whole}"])).replace("&#x27;", "&#39;")
    assert typed in (folder / "index.html").read_text(), "whoever types it again gets this sweep"


def test_the_same_command_again_computes_nothing(whole: Path, command_line: CommandLine) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.glob("tickets/*/*.safetensors")}
    status, out, _ = command_line(*WORDS, f"root={whole}")
    assert status == 0 and "0 in 0 packs" in out
    assert {p: p.stat().st_mtime_ns for p in whole.glob("tickets/*/*.safetensors")} == before


def test_a_complete_sweep_is_reported_again_only_if_its_report_would_change(
    whole: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    root = tmp_path / "results"
    shutil.copytree(whole, root)
    (folder,) = root.glob("sweeps/*/report")

    def again(*words: str) -> bool:
        """Run the same words again; return whether a report was written."""
        before = (folder / "report.json").stat().st_mtime_ns
        status, out, err = command_line(*WORDS, *words, f"root={root}")
        assert status == 0, err
        written = (folder / "report.json").stat().st_mtime_ns > before
        assert written != (f"nothing has changed since {folder / 'index.html'} was written" in out)
        return written

    assert not again()
    assert again("report.band=sd") and not again("report.band=sd")
    (folder / "accuracy.png").unlink()
    assert again("report.band=sd") and (folder / "accuracy.png").exists()


def test_a_corrupt_ticket_is_named_set_aside_and_computed_again(
    whole: Path, tmp_path: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "results"
    shutil.copytree(whole, root)
    manifest = json.loads(next(root.glob("sweeps/*/manifest.json")).read_text())
    dense = manifest["packs"][0]["units"][0]
    harmed = root / "tickets" / dense[0] / f"{dense[1]}.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-1] + b"#")  # a weight that only its reader notices
    for key, seed in manifest["packs"][2]["units"]:  # level 1, which is made from it
        (root / "tickets" / key / f"{seed}.safetensors").unlink()
    status, _, err = command_line(*WORDS, f"root={root}")
    assert status == 0, err
    assert "tensors do not match their checksum; it is not used" in caplog.text
    assert list(harmed.parent.glob(f"{harmed.name}.corrupt-0"))
    assert results(root) == results(whole)


def test_plan_starts_nothing(tmp_path: Path, command_line: CommandLine) -> None:
    status, out, _ = command_line("plan", *WORDS, f"root={tmp_path / 'none'}")
    assert status == 0
    assert "10 distinct (5 stages), instead of 12 without sharing" in out
    assert not (tmp_path / "none").exists()


def disturbed(root: Path, command_line: CommandLine, *, kills: int, seed: int) -> int:
    """Kill a sweep at random file operations, then let it end; return the number of kills."""
    draws, killed = random.Random(seed), 0
    words = (*WORDS, f"root={root}", "checkpoint_every=0.05")
    for _ in range(kills):
        dies_after(draws.randint(10, 40), root.parent)
        killed += finish(start(*words, folder=root.parent)).status == -signal.SIGKILL
    status, _, err = command_line(*words)
    assert status == 0, err
    return killed


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    assert disturbed(tmp_path / "results", command_line, kills=1, seed=0) == 1
    assert results(tmp_path / "results") == results(whole)


@pytest.mark.slow
def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    assert disturbed(tmp_path / "results", command_line, kills=10, seed=1) >= 3
    assert results(tmp_path / "results") == results(whole)


def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    root = tmp_path / "results"
    words = (*WORDS, f"root={root}", "recipe.length=100000ep", "schedule.levels=1")
    process = start(*words, "checkpoint_every=1e9", folder=tmp_path)
    until(lambda: list(root.glob("tickets/*/*.safetensors")), process)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130 and "the same command continues" in err
    assert list(root.glob("tickets/*/*.partial-*.safetensors")), "a signal saves"


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; in many containers nobody collects an orphan's status."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_the_packs_of_a_launcher_that_is_killed_alone_save_and_end(tmp_path: Path) -> None:
    """Each fork closes its copies of the other forks' pipes, so that its own pipe breaks."""
    words = (*WORDS, f"root={tmp_path / 'results'}", "recipe.length=100000ep", "schedule.levels=1")
    process = start(*words, folder=tmp_path)
    at_work = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: len(list(tmp_path.glob("results/tickets/*/*.safetensors"))) == 2, process)
    until(lambda: len(at_work.read_text().split()) == 2, process)
    children = [psutil.Process(int(child)) for child in at_work.read_text().split()]
    process.kill()
    until(lambda: not any(map(runs, children)))
    process.communicate()
    assert len(list(tmp_path.glob("results/tickets/*/*.partial-*.safetensors"))) == 2


CRASHING = """
import os, signal
from torch import Tensor

TRIED = 50  # weights that it is tried on when the plan is made, where all goes well

def crash(final: Tensor) -> Tensor:
    if len(final) != TRIED:
        os.kill(os.getpid(), signal.SIGKILL)
    return final

def fail(final: Tensor) -> Tensor:
    if len(final) == TRIED:
        return final
    raise RuntimeError("no such luck; not started")
"""


@pytest.fixture
def luck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The overrides that choose the criterion `luck`, one of the functions above."""

    def words(name: str) -> list[str]:
        (tmp_path / "luck.py").write_text(CRASHING)
        (tmp_path / "own" / "mask_criterion").mkdir(parents=True)
        yaml = tmp_path / "own" / "mask_criterion" / "luck.yaml"
        yaml.write_text(f"_target_: luck.{name}\n")
        return [f"--config-dir={tmp_path / 'own'}", "mask_criterion=large_final,luck"]

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "luck", raising=False)  # another test's
    return words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", "killed by SIGKILL; the same command continues from its last checkpoint"),
        ("fail", "RuntimeError: no such luck; not started"),
    ],
)
def test_a_crash_fails_its_pack_and_the_packs_that_need_it_and_no_others(
    tmp_path: Path,
    luck: Callable[[str], list[str]],
    command_line: CommandLine,
    name: str,
    message: str,
) -> None:
    root = tmp_path / "results"
    status, out, err = command_line(*WORDS, f"root={root}", *luck(name), "stack_size=2")
    assert status == 1
    assert message in err and "2 of 4 cells unfinished" in err
    assert re.search(rf"^error: luck: level .*{message}", err, re.MULTILINE), (
        "named as in the report"
    )
    halved = [line for line in err.splitlines() if "are tried again in two halves" in line]
    assert halved and not any("the same command continues" in line for line in halved)
    assert len(list(root.glob("runs/*/*/DONE"))) == 2
    assert "unfinished" in out, "the table says so too"


def test_a_failing_cell_of_a_stack_ends_alone(
    tmp_path: Path, luck: Callable[[str], list[str]], command_line: CommandLine
) -> None:
    root = tmp_path / "results"
    status, _, err = command_line(*WORDS, f"root={root}", *luck("fail"), "workers=1")
    assert status == 1
    assert "4 stacked" not in err and "trainings are tried again in two halves" in err
    assert "level 1 of seed 0, 1: RuntimeError: no such luck" in err
    (line,) = (line for line in err.splitlines() if ": not started, " in line)
    assert line.endswith(
        "level 2 of seed 0, 1: not started, because an earlier level that they need failed"
    )
    assert len(list(root.glob("runs/*/*/DONE"))) == 2
    status, out, _ = command_line("status", str(next(root.glob("sweeps/*"))))
    assert status == 1 and "RuntimeError: no such luck" in out


def test_resume_computes_what_is_missing(
    whole: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    root = tmp_path / "results"
    shutil.copytree(whole, root)
    for path in [*root.glob("tickets/*/1.safetensors"), *root.glob("runs/*/1/DONE")]:
        path.unlink()
    status, _, err = command_line("resume", str(next(root.glob("sweeps/*"))))
    assert status == 0, err
    assert results(root) == results(whole)


def diverging(root: Path, rates: str) -> list[str]:
    """A short sweep by SGD with several learning rates; the rate 1e30 diverges."""
    changed = ("seed", "schedule.levels", "recipe.length", "report.figures", "mask_criterion")
    kept = [word for word in WORDS if word.partition("=")[0] not in changed]
    short = ["recipe.length=2ep", "schedule.levels=1", "report.figures=[]", f"root={root}"]
    return [*kept, *short, "recipe.optimizer=sgd", f"recipe.lr={rates}", "seed=0,1"]


def test_a_sweep_in_which_every_replicate_diverged_fails_each_time(
    tmp_path: Path, command_line: CommandLine
) -> None:
    for _ in range(2):  # the second time computes nothing
        status, _, err = command_line(*diverging(tmp_path / "results", "1e30"))
        assert status == 1
        assert err.splitlines()[-1] == (f"error: {ALL_DIVERGED}")


def test_a_sweep_in_which_some_replicates_diverged_does_not(
    tmp_path: Path, command_line: CommandLine
) -> None:
    status, _, err = command_line(*diverging(tmp_path / "results", "1e30,0.1"))
    assert status == 0 and "every replicate diverged" not in err


def test_a_root_that_cannot_be_written_is_refused_with_the_plan(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (Path("/proc/nope"), tmp_path / "file" / "results"):
        with pytest.raises(ValueError, match=f"root: {root} cannot be written: "):
            check_writable(root)
    check_writable(tmp_path / "results" / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_launcher_knows_its_gpus_and_starts_no_cuda() -> None:
    before = torch.cuda.is_initialized()  # by another test of this process
    name, memory = _about(["cuda:0", "cuda:0"], {Arithmetic("bf16")})
    assert name and memory > 0
    assert torch.cuda.is_initialized() == before, "its workers are forks, and could not use it"


def test_another_process_asks_what_gpus_have(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    forks = multiprocessing.get_context("fork")
    monkeypatch.setattr(local_launcher, "process_context", lambda device: forks)
    monkeypatch.setattr(torch, "ones", lambda count, device: torch.zeros(count))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: str(os.getpid()))
    monkeypatch.setattr(local_launcher, "free_memory", lambda device: 2**30)
    asked = {Arithmetic("bf16"), Arithmetic("float32")}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    pid, memory = _about(["cuda:0", "cuda:0"], asked)
    assert int(pid) != os.getpid() and memory == 2**29 and not capfd.readouterr().err
    sizes = {"cuda:0": 3 * 2**30, "cuda:1": 2**30}
    monkeypatch.setattr(local_launcher, "free_memory", lambda device: sizes[device])
    assert _about(["cuda:0", "cuda:1"])[1] == 2**30
    assert capfd.readouterr().err.startswith("cuda:1 has 1.0 GiB free, and cuda:0 3.0: all stacks")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    with pytest.raises(ValueError, match="^precision: got bf16 on .*, which has only float32$"):
        _about(["cuda:0"], asked)


def test_a_gpu_that_torch_cannot_use_is_refused_in_one_line(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, if the driver is too old: NVML counts the GPUs, but CUDA does not start."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    status, _, err = command_line("plan", "schedule.levels=1")
    assert status == 1
    assert re.fullmatch(r"error: device: cuda:0 is here, and this torch .*; leave it out .*\n", err)


def test_a_relative_path_means_the_same_to_the_launcher_and_its_workers(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "here" / "pets" / name).mkdir(parents=True)
        for number in range(10):
            path = tmp_path / "here" / "pets" / name / f"{number}.bmp"
            Image.new("L", (4, 4), 100 + number).save(path)
    monkeypatch.chdir(tmp_path / "here")  # `resume` also changes the folder
    words = ["dataset=image_folder", "dataset.path=pets", "dataset.size=4", "recipe.batch_size=8"]
    words += ["model.net.hidden=[4]", "schedule.levels=1", "recipe.length=2ep", "seed=0"]
    words += ["mask_criterion=random", "workers=1", "report.figures=[curves]"]
    status, _, err = command_line(*words, "root=results")
    assert status == 0, err
    assert list((tmp_path / "here" / "results").glob("runs/*/*/DONE"))
