"""Packs give the same results in one process that is kept as in one process each."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.command_line import CommandLine
from fixtures.tiny_cell import settings

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import pool_process
from lt_sweeps.execution.forking import process_context
from lt_sweeps.execution.loaded_code import LoadedCode
from lt_sweeps.execution.pool_process import STOP_SIGNALS, PoolProcess
from lt_sweeps.execution.process_state import as_before, forget_users_code
from lt_sweeps.execution.slurm import job
from lt_sweeps.execution.slurm.squeue import Batch, over
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.worker_pool import STOPPED, NoGpu, Workers
from lt_sweeps.execution.worker_process import _visible
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.manifest import FrozenPack
from lt_sweeps.storage.sweep_folder import SweepFolder

Make = Callable[..., Cell]


class Seen:
    """A pool's panel that notes, when a pack begins or ends, which process has it."""

    def __init__(self, then: Callable[[Workers], None] = lambda pool: None) -> None:
        self.pool: Workers
        self.pids: list[int | None] = []
        self.then = then

    def start(self, pack: FrozenPack) -> None:
        self.pids.append(self.pool.running[-1].worker.process.pid)

    def step(self, pack: FrozenPack, step: int) -> None:
        pass

    def stop(self, pack: FrozenPack, *, done: bool) -> None:
        assert done
        self.then(self.pool)


def frozen(cells: list[Cell], root: Path) -> SweepFolder:
    made = plan(cells)
    alone = packs(made.units, stack_size={u.stage.key: 1 for u in made.units}, workers=1)
    return Submission(made, settings(root)).freeze(alone)


def trained(
    sweep: SweepFolder, panel: Seen, *, keep: bool, devices: Sequence[str] = ("cpu",)
) -> dict[str, bytes]:
    """The tickets of a sweep whose packs were trained one after another."""
    code, packs = LoadedCode.now(), sweep.manifest.packs
    pool = Workers(sweep, packs, devices, code=code, who="test", panel=panel, keep=keep)
    panel.pool = pool
    assert pool.run() and not pool.failed
    tickets = sweep.root.glob("tickets/*/*.safetensors")
    return {str(path.relative_to(sweep.root)): path.read_bytes() for path in tickets}


def test_packs_in_one_process_and_in_one_each_end_with_equal_bytes(
    cell: Make, tmp_path: Path
) -> None:
    momentum = {"recipe__optimizer": "sgd", "recipe__momentum": 0.9, "recipe__lr": 0.1}
    cells = [cell(schedule__levels=1), cell(schedule__levels=1, seed=1, **momentum)]
    one, each = Seen(), Seen()
    kept = trained(frozen(cells, tmp_path / "one"), one, keep=True)
    assert kept == trained(frozen(cells, tmp_path / "each"), each, keep=False)
    assert len(set(one.pids)) == 1 and len(set(each.pids)) == len(each.pids) == 4


@pytest.mark.slow
def test_a_process_that_is_no_fork_trains_the_same(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, if a notebook or a user's module has used CUDA in this process before."""
    forked = trained(frozen([cell(seed=0)], tmp_path / "forked"), Seen(), keep=True)
    new = multiprocessing.get_context("spawn")
    monkeypatch.setattr(pool_process, "process_context", lambda device: new)
    seen = Seen()
    assert trained(frozen([cell(seed=0)], tmp_path / "new"), seen, keep=True) == forked
    assert len(set(seen.pids)) == 1 and len(seen.pids) == 3


def test_a_kept_process_that_was_killed_is_replaced(cell: Make, tmp_path: Path) -> None:
    def kill(pool: Workers) -> None:
        for worker in pool.idle:
            assert worker.process.pid is not None
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.join()

    seen = Seen(kill)
    assert trained(frozen([cell(seed=0)], tmp_path), seen, keep=True)
    assert len(set(seen.pids)) == len(seen.pids) == 3


def test_a_process_whose_allocator_a_failed_capture_has_damaged_is_not_kept(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens in torch before 2.13. The process's pack still ends well, with plain steps."""

    def refused() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "empty_cache", refused)
    seen = Seen()
    assert trained(frozen([cell(seed=0)], tmp_path), seen, keep=True)
    assert len(set(seen.pids)) == len(seen.pids) == 3


def test_a_gpu_that_cannot_be_used_takes_no_packs_from_other_devices(
    cell: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For example one that has fallen off its bus; this machine has none at all."""
    alone = trained(frozen([cell(seed=0)], tmp_path / "cpu"), Seen(), keep=False)
    sweep, started = frozen([cell(seed=0)], tmp_path / "both"), list[str]()

    class Devices(Seen):
        def start(self, pack: FrozenPack) -> None:
            started.append(self.pool.running[-1].worker.device)

        def stop(self, pack: FrozenPack, *, done: bool) -> None:
            assert done == (started[-1] == "cpu")

    assert trained(sweep, Devices(), keep=False, devices=["cuda:0", "cpu"]) == alone
    assert started == ["cuda:0", *["cpu"] * 3]
    (said,) = (line for line in capfd.readouterr().err.splitlines() if "cuda:0: this GPU" in line)
    assert said.endswith("; the run continues on the other devices, and you need not act")


def test_where_no_gpu_can_be_used_nothing_fails_and_a_job_counts_as_lost(
    cell: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1)])
    stacked = packs(made.units, stack_size={u.stage.key: 2 for u in made.units}, workers=1)
    sweep = Submission(made, settings(tmp_path)).freeze(stacked)
    names, begun = [pack.name for pack in sweep.manifest.packs], list[str]()

    class Counts(Seen):
        def start(self, pack: FrozenPack) -> None:
            begun.append(pack.name)

        def stop(self, pack: FrozenPack, *, done: bool) -> None:
            assert not done

    code = LoadedCode.now()
    pool = Workers(sweep, sweep.manifest.packs, ["cuda:0"], code=code, who="test", panel=Counts())
    with pytest.raises(
        NoGpu, match="GPU cannot be used: .*no other GPU is left.*`resume` continues"
    ):
        pool.run()
    assert len(begun) == 1 and not pool.failed and not sweep.failures()

    monkeypatch.setattr(job, "_code_of", lambda copy: code)
    for canary in (True, False):  # a canary speaks for all seeds
        Batch(1, "lt", [names], "cuda", 1, [], [not canary], canary=canary).write(sweep)
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        try:
            assert job.run_task([str(sweep.folder), "1", "0"]) == 1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert not sweep.failures() and not over(sweep)
        assert "error: " in (said := capfd.readouterr().err) and "this GPU cannot be used" in said


HANGING = """
import os, time
from lt_sweeps.models import FC

class Hanging(FC):
    def forward(self, x):
        open("hangs", "w").close()
        while not os.path.exists("goes on"):
            time.sleep(0.01)
        return super().forward(x)
"""


@pytest.mark.parametrize(
    ("second", "status"), [(signal.SIGINT, -signal.SIGKILL), (signal.SIGTERM, STOPPED)]
)
def test_only_a_second_ctrl_c_ends_a_process_that_hangs(
    cell: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    second: signal.Signals,
    status: int,
) -> None:
    """Otherwise the hung process would keep its units, for which the same command waits.

    A second SIGTERM does not count, because Slurm may send several.
    """
    monkeypatch.delitem(sys.modules, "hanging", raising=False)
    (tmp_path / "hanging.py").write_text(HANGING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    net = {"_target_": "hanging.Hanging", "hidden": [8]}
    sweep = frozen([cell(model__net=net, schedule__levels=1)], tmp_path)
    code, panel = LoadedCode.now(), Seen()
    panel.pool = Workers(sweep, sweep.packs(), ["cpu"], code=code, who="test", panel=panel)

    close, signals = PoolProcess.close, [second]

    def interrupted(pool: Workers) -> None:
        if Path("hangs").exists():
            raise KeyboardInterrupt

    def waits(worker: PoolProcess) -> None:
        if second == signal.SIGTERM:  # it is not heeded before the process has ended
            Path("goes on").touch()
        if signals:
            os.kill(os.getpid(), signals.pop())
        close(worker)

    # Also where the tests run in the background, where a shell lets processes ignore SIGINT.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    with monkeypatch.context() as patched:
        patched.setattr(Workers, "_beat", interrupted)
        patched.setattr(PoolProcess, "close", waits)
        with pytest.raises(KeyboardInterrupt):
            panel.pool.run()
    for number, handler in before.items():
        signal.signal(number, handler)
    (job,) = panel.pool.running
    assert job.worker.process.exitcode == status
    assert capsys.readouterr().err.startswith("stopping: each process saves a checkpoint; Ctrl-C")


def test_a_process_that_has_run_a_users_code_is_not_kept(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_traces.py").write_text("def mine(final):\n    return final.abs()\n")
    monkeypatch.syspath_prepend(tmp_path)
    cells = [cell(seed=0, mask_criterion={"_target_": "leaving_traces.mine"})]
    seen = Seen()
    assert trained(frozen(cells, tmp_path / "results"), seen, keep=True)
    assert len(set(seen.pids)) == len(seen.pids) == 3


def denormal() -> bool:
    """Whether a denormal number is kept, instead of flushed to zero."""
    return bool((torch.full((8,), 1e-30) * 1e-10).any())


def test_settings_that_a_pack_changes_in_its_process_are_restored() -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.get_rng_state().tolist(),  # not its sum, which a draw may leave unchanged
            random.getstate(),
            str(np.random.get_state()),  # with its place in a block of numbers
            os.environ.get("LEFT_BEHIND"),
            [*warnings.filters],
            Path.cwd(),
        )

    before = state()
    with as_before():
        assert denormal()
        torch.set_flush_denormal(True)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        _ = torch.rand(1), random.random(), np.random.rand()
        os.environ["LEFT_BEHIND"] = "yes"
        warnings.simplefilter("ignore")
        os.chdir("/")
        assert all(a != b for a, b in zip(state(), before, strict=True))
    assert state() == before
    with as_before():
        assert denormal()


def test_a_process_forgets_the_users_modules_of_the_process_that_it_was_forked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remembered.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_module = __import__
    assert import_module("remembered").value == 1
    (tmp_path / "remembered.py").write_text("value = 22\n")
    modules = dict(sys.modules)
    try:
        forget_users_code()
        assert import_module("remembered").value == 22
    finally:
        sys.modules.update(modules)


@pytest.mark.parametrize(
    ("visible", "device", "one"),
    [
        (None, "cuda:1", "1"),
        ("4,7", "cuda:1", "7"),
        ("GPU-8a,GPU-3c", "cuda:0", "GPU-8a"),
        ("MIG-5f", "cuda:0", "MIG-5f"),
        ("", "cuda:0", ""),  # no GPU is visible
    ],
)
def test_a_process_sees_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, one: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")  # so that it is put back
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _visible(device) == "cuda" and os.environ["CUDA_VISIBLE_DEVICES"] == one


def started(answer: Connection) -> None:
    """How processes are started before and after the driver was asked for the number of GPUs."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    ways = []
    for _ in range(2):
        ways.append([process_context(device).get_start_method() for device in ("cpu", "cuda:0")])
        torch.cuda.is_available()  # as in a user's module
        assert not torch.cuda.is_initialized()
    answer.send(ways)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no GPU")
@pytest.mark.skipif(sys.platform != "linux", reason="nothing forks elsewhere")
def test_a_process_that_only_asked_for_gpus_forks_none_that_uses_one(
    command_line: CommandLine,
) -> None:
    ours, theirs = command_line.processes.Pipe()
    process = command_line.processes.Process(target=started, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.recv() == [["fork", "fork"], ["fork", "spawn"]]
    process.join()
