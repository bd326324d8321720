"""A measured backend is chosen once per network, and used for the whole sweep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.captured_step import pretended_cuda
from fixtures.method_cases import HALF, MODELS
from fixtures.tiny_cell import settings
from torch import nn

from lt_sweeps import models
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import measured_backend
from lt_sweeps.execution.frozen_pack import work_on
from lt_sweeps.execution.measured_backend import with_backend
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import BackendChoice, SweepFolder
from lt_sweeps.training import backend_timing
from lt_sweeps.training.backends.backend import timed_backends
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
ON_A_GPU = ("loop", "grouped")


@pytest.fixture
def made(cell: Make) -> Plan:
    small = {"dataset__shape": [1, 8, 8], "schedule": HALF, "recipe__length": "1ep"}
    return plan([cell(model=MODELS["conv"], **small, seed=seed) for seed in (0, 1)])


@pytest.fixture
def sweep(made: Plan, tmp_path: Path) -> SweepFolder:
    sizes = {unit.stage.key: 9 for unit in made.units}
    found = packs(made.units, stack_size=sizes, workers=1)
    return Submission(made, settings(tmp_path, "mine")).freeze(found)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Choose a backend as on a GPU, with a clock that returns these times one after another."""
    told: list[float] = []
    monkeypatch.setattr(
        measured_backend, "timed_backends", lambda module, device: timed_backends(module, CUDA)
    )
    monkeypatch.setattr(backend_timing, "step_seconds", lambda step, device: told.pop(0))
    return told


CUDA = torch.device("cuda")


def stack_of(made: Plan) -> list[Unit]:
    return [unit for unit in made.units if unit.stage == made.units[0].stage]


def chosen(sweep: SweepFolder, units: list[Unit]) -> str:
    return with_backend(sweep, units, Machine()).backend


def in_bf16(cell: Cell) -> Config:
    return Config({**cell.config, "precision": "bf16"})


def files(sweep: SweepFolder) -> list[str]:
    return sorted(path.name for path in sweep.folder.glob("backends/*"))


@pytest.mark.parametrize(
    ("net", "device", "names"),
    [
        (lambda: models.Conv((1, 8, 8), 4, blocks=[[4]], hidden=[8]), "cuda", ON_A_GPU),
        (lambda: models.ResNet((3, 8, 8), 4, depth=8, width=4), "cuda", ON_A_GPU),
        (lambda: models.Conv((1, 8, 8), 4, blocks=[[4]], hidden=[8]), "cpu", ()),
        (lambda: models.FC((1, 8, 8), 4, hidden=[8]), "cuda", ()),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5)), "cuda", ()),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), "cuda", ("loop", "vmap")),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "cuda", ("loop", "vmap")),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), "cuda", ()),
    ],
)
def test_convolutions_and_strange_layers_on_a_gpu_are_timed_and_all_else_follows_a_rule(
    net: Callable[[], nn.Module], device: str, names: tuple[str, ...]
) -> None:
    assert timed_backends(net(), torch.device(device)) == names


@pytest.mark.parametrize("captures", [True, False])
def test_a_backend_is_timed_as_it_will_train(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captures: bool
) -> None:
    graphs: list[object] = []
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: captures))
    monkeypatch.setattr(
        backend_timing, "graphed", lambda step, *_, **__: graphs.append(step) or step
    )
    monkeypatch.setattr(backend_timing, "step_seconds", lambda step, device: 1.0)
    taken = backend_timing.time_backends(["loop"], stack_of(made), Store(tmp_path), Machine())
    assert taken == {"loop": 1.0} and len(graphs) == captures


def test_the_first_pack_measures_and_all_later_ones_read_its_choice(
    sweep: SweepFolder, made: Plan, times: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    times += [0.003, 0.002]
    for pack in sweep.packs():  # the second would fail, because the clock has no more to tell
        work_on(sweep, pack, device="cpu")
    assert times == [] and caplog.text.count("backend: grouped for ") == 1
    assert "loop 3 ms, grouped 2 ms" in caplog.text
    again = SweepFolder(sweep.folder)
    assert chosen(again, stack_of(made)) == "grouped"
    rows = [RunFolder.of(sweep.root, c.signature, c.seed).read().records for c in made.cells]
    assert {row.backend for row in itertools.chain(*rows)} == {"grouped"}
    assert len(files(sweep)) == 1  # and no lock


def test_a_sweep_that_begins_anew_may_choose_otherwise(
    sweep: SweepFolder, made: Plan, times: list[float], tmp_path: Path
) -> None:
    times += [0.003, 0.002, 0.001, 0.005]
    other = SweepFolder(tmp_path / "sweeps" / "other")
    assert [chosen(each, stack_of(made)) for each in (sweep, other)] == ["grouped", "loop"]


def test_another_precision_of_a_network_is_measured_by_itself(
    sweep: SweepFolder, made: Plan, times: list[float]
) -> None:
    times += [0.003, 0.002, 0.001, 0.005]
    rounded = plan([replace(c.cell, config=in_bf16(c.cell)) for c in made.cells])
    assert [chosen(sweep, stack_of(each)) for each in (made, rounded)] == ["grouped", "loop"]


def test_of_two_that_measure_at_once_the_first_to_write_wins(
    sweep: SweepFolder, made: Plan, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = measured_backend.time_backends

    def late(*args: object) -> dict[str, float]:
        seconds = measure(*args)  # type: ignore[arg-type]
        monkeypatch.undo()  # the other's choice is written while we measure
        name = files(sweep)[0].removeprefix(".").removesuffix(".lock")
        sweep.choose_backend(name, BackendChoice("loop", {"loop": 1.0}, 2, "cpu"))
        return seconds

    times += [0.003, 0.002]
    monkeypatch.setattr(measured_backend, "time_backends", late)
    assert chosen(sweep, stack_of(made)) == "loop"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"backend": "grouqed", "seconds": {}, "stack_size": 2, "device": "cpu"}'],
)
def test_a_damaged_choice_is_set_aside_and_measured_again(
    sweep: SweepFolder, made: Plan, times: list[float], content: bytes
) -> None:
    times += [0.003, 0.002] * 2
    assert chosen(sweep, stack_of(made)) == "grouped"
    (file,) = sweep.folder.glob("backends/*")
    file.write_bytes(content)
    assert chosen(sweep, stack_of(made)) == "grouped" and times == []
    assert files(sweep) == [file.name, f"{file.name}.corrupt-0"]


def test_a_replicate_alone_and_a_backend_by_name_measure_nothing(
    sweep: SweepFolder, made: Plan, times: list[float]
) -> None:
    assert chosen(sweep, stack_of(made)[:1]) == "auto"
    assert with_backend(sweep, stack_of(made), Machine(backend="vmap")).backend == "vmap"
    assert files(sweep) == []


def test_backends_that_refuse_a_network_or_lack_memory_are_not_timed(
    sweep: SweepFolder, made: Plan, monkeypatch: pytest.MonkeyPatch, times: list[float]
) -> None:
    build = TrainingLoop.__init__

    def failing(
        loop: TrainingLoop, units: object, store: object, machine: Machine, **how: object
    ) -> None:
        if error := errors.get(machine.backend):
            raise error
        build(loop, units, store, machine, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingLoop, "__init__", failing)
    short = torch.OutOfMemoryError("no room")
    for error, other in ((RuntimeError("no kernel"), "grouped"), (short, "loop")):
        failed = next(name for name in ON_A_GPU if name != other)
        errors: dict[str, Exception] = {failed: error}
        times.append(0.004)
        assert chosen(sweep, stack_of(made)) == other
        (file,) = sweep.folder.glob("backends/*")
        assert json.loads(file.read_bytes())["seconds"] == {other: 0.004}
        file.unlink()

    errors = dict.fromkeys(ON_A_GPU, short)
    with pytest.raises(torch.OutOfMemoryError):  # so that the stack is halved
        chosen(sweep, stack_of(made))
    errors = dict.fromkeys(ON_A_GPU, RuntimeError("no kernel"))
    assert chosen(sweep, stack_of(made)) == "loop"  # the rule's


def test_a_capture_that_fails_leaves_the_times_of_the_backends_before_it(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch then refuses to empty its cache.

    Without a choice, each half of the pack would fail too.
    """

    def time_one(units: object, store: object, machine: Machine) -> float:
        if machine.backend == "grouped":
            monkeypatch.setattr(torch.cuda, "empty_cache", refused)
            raise RuntimeError("operation not permitted when stream is capturing")
        return 0.001

    def refused() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(backend_timing, "_time", time_one)
    machine, store = Machine(device="cuda"), Store(tmp_path)
    taken = backend_timing.time_backends(ON_A_GPU, stack_of(made), store, machine)
    assert taken == {"loop": 0.001}


def test_a_backend_that_cannot_be_captured_is_timed_by_the_steps_that_it_would_train_with(
    made: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda = pretended_cuda(monkeypatch)
    cuda.ends_badly, timed = True, []
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: True))
    monkeypatch.setattr(
        backend_timing, "graphed", lambda step, _, **how: graphed(step, "cuda", **how)
    )
    monkeypatch.setattr(
        backend_timing, "step_seconds", lambda step, device: timed.append(step()) or 1.0
    )
    taken = backend_timing.time_backends(ON_A_GPU, stack_of(made), Store(tmp_path), Machine())
    assert [*taken] == [*ON_A_GPU] and (cuda.captures, cuda.replays, len(timed)) == (2, 0, 2)
    assert len(caplog.messages) == 1


def test_the_real_clock_times_every_backend(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_timing, "_SPEND", 0.004)
    units, store = stack_of(made), Store(tmp_path)
    before = torch.get_rng_state()
    taken = backend_timing.time_backends(ON_A_GPU, units, store, Machine())
    assert list(taken) == [*ON_A_GPU] and all(seconds > 0 for seconds in taken.values())
    assert torch.equal(before, torch.get_rng_state())
    assert not store.has(units[0].stage.key, units[0].seed)
