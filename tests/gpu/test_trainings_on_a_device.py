"""On a GPU every method trains the same as on a CPU, with captured and with eager steps.

The promise for float32 on one device: a captured step, an eager step, an interrupted training and a
repeated training all end with the same bytes. Equal only up to rounding, which grows with every
step, are the results of a CPU, and of a replicate alone instead of in a stack.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.command_line import CommandLine
from fixtures.method_cases import (
    ADAM,
    BACKENDS,
    HALF,
    METHODS,
    MODELS,
    MOMENTUM,
    has_norms,
    method_cells,
)

from lt_sweeps.config import keys
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution import measured_backend
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.measured_backend import with_backend
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity import top_k
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.training import fixed_mask, own_kernels
from lt_sweeps.training.backends.backend import timed_backends
from lt_sweeps.training.training_loop import Interrupted, TrainingLoop

pytestmark = pytest.mark.gpu

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
Trained = tuple[Plan, Store]

# In this scope pytest puts the tests of a method side by side, and `--dist worksteal` mostly into
# one process, which trains it once for all of them.
by_method = pytest.mark.parametrize("name", METHODS, scope="module")

DISTANCE = 0.02  # of two networks' weights, as a part of their norm: rounding, after 16 steps
MASKS = 0.02  # the part of a mask that may differ: weights whose scores are nearly equal
LOSS = 0.02  # of a validation loss, as a part of it


@pytest.fixture(autouse=True)
def _ranked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw ties on the CPU for all devices, so that their results can be compared."""
    monkeypatch.setattr(top_k, "host_reads", lambda tensor: False)


@pytest.fixture(scope="module")
def trained_before() -> dict[str, Trained]:
    """Trainings on the device, captured and stacked, by method: each runs once for all tests."""
    return {}


@pytest.fixture
def on_device(
    cell: Make,
    run: Run,
    device: str,
    trained_before: dict[str, Trained],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Trained]:
    def trained(name: str) -> Trained:
        if name not in trained_before:
            root, cells = tmp_path_factory.mktemp(name), method_cells(cell, name, MOMENTUM)
            trained_before[name] = run(*cells, root=root, device=device)
        return trained_before[name]

    return trained


def files(store: Store) -> dict[str, bytes]:
    """The bytes of every ticket, without the values that a clock measured."""
    paths = sorted(store.root.glob("tickets/*/*.safetensors"))
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths}


def assert_same_bytes(one: Store, other: Store) -> None:
    first, second = files(one), files(other)
    assert first.keys() == second.keys() and len(first) > 1
    assert [name for name in first if first[name] != second[name]] == []


def assert_close(one: Trained, other: Trained) -> None:
    (made, store), (again, beside) = one, other
    assert [unit.stage.key for unit in made.units] == [unit.stage.key for unit in again.units]
    for unit in made.units:
        where = f"{unit.stage} of seed {unit.seed}"
        ours, theirs = (ticket(unit.stage, unit.seed, each) for each in (store, beside))
        for name, mask in ours.mask.items():
            differ = float((mask != theirs.mask[name]).float().mean())
            assert differ <= MASKS, f"{where}: {100 * differ:.1f} % of the mask of {name} differ"
        both = [*_floats(ours.state), *_floats(ours.learned)]
        beside_them = [*_floats(theirs.state), *_floats(theirs.learned)]
        if both:
            flat, others = torch.cat(both), torch.cat(beside_them)
            distance = float((flat - others).norm() / others.norm())
            assert distance <= DISTANCE, f"{where}: its weights are {100 * distance:.2f} % apart"
        losses = [_losses(each, unit.stage.key, unit.seed) for each in (store, beside)]
        assert losses[0] == pytest.approx(losses[1], rel=LOSS), where


def _floats(named: Any) -> list[torch.Tensor]:
    return [t.flatten().double() for _, t in sorted(named.items()) if t.is_floating_point()]


def _losses(store: Store, key: str, seed: Any) -> list[float]:
    return [row["val_loss"] for row in json.loads((store.metadata(key, seed) or {})["history"])]


@by_method
def test_it_ends_as_on_a_cpu(
    cell: Make, run: Run, on_device: Callable[[str], Trained], tmp_path: Path, name: str
) -> None:
    backend = "stacked" if has_norms(name) else "chain"
    cells = method_cells(cell, name, MOMENTUM)
    assert_close(on_device(name), run(*cells, root=tmp_path / "cpu", backend=backend))


@by_method
def test_a_captured_step_ends_with_the_bytes_of_an_eager_one(
    cell: Make,
    run: Run,
    on_device: Callable[[str], Trained],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    captured = on_device(name)
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: False))
    cells = method_cells(cell, name, MOMENTUM)
    assert_same_bytes(captured[1], run(*cells, root=tmp_path / "eager", device=device)[1])


@by_method
def test_an_interrupted_training_ends_with_the_same_bytes(
    cell: Make,
    run: Run,
    on_device: Callable[[str], Trained],
    device: str,
    tmp_path: Path,
    name: str,
) -> None:
    whole, asked = on_device(name), 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked % 7 == 0

    cells, torn = method_cells(cell, name, MOMENTUM), None
    for _ in range(99):
        try:
            torn = run(*cells, root=tmp_path / "torn", device=device, stopped=stopped)
            break
        except Interrupted:
            continue
    assert torn and asked > 7
    assert_same_bytes(whole[1], torn[1])


@by_method
def test_a_stack_ends_as_its_replicates_alone(
    cell: Make,
    run: Run,
    on_device: Callable[[str], Trained],
    device: str,
    tmp_path: Path,
    name: str,
) -> None:
    cells = method_cells(cell, name, MOMENTUM)
    alone = run(*cells, root=tmp_path / "alone", device=device, alone=True)
    assert_close(on_device(name), alone)


@pytest.mark.parametrize(
    ("model", "backend"), [(model, name) for model in MODELS for name in BACKENDS[model]]
)
@pytest.mark.parametrize("name", ["imp", "learned_supermask"])
def test_every_backend_of_every_model_is_captured_and_ends_as_on_a_cpu(
    cell: Make,
    run: Run,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    model: str,
    backend: str,
) -> None:
    cells = [
        cell(
            model=MODELS[model],
            method={"_target_": f"lt_sweeps.plan.methods.{name}"},
            dataset__shape=[1, 8, 8],
            schedule=HALF,
            recipe={**MOMENTUM, "length": "1ep"},
            seed=seed,
        )
        for seed in (0, 1)
    ]
    captured = run(*cells, root=tmp_path / "captured", device=device, backend=backend)
    assert_close(captured, run(*cells, root=tmp_path / "cpu", backend="loop"))
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: False))
    eager = run(*cells, root=tmp_path / "eager", device=device, backend=backend)
    assert_same_bytes(captured[1], eager[1])


@pytest.mark.parametrize("recipe", [ADAM, MOMENTUM], ids=["adam", "sgd"])
@pytest.mark.parametrize("name", ["imp", "rigl"])
def test_our_kernels_end_as_torchs(
    cell: Make,
    run: Run,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    recipe: dict[str, Any],
) -> None:
    if device == "cpu":
        pytest.skip("they are kernels for GPUs, which tests/training interpret")
    cells = method_cells(cell, name, recipe)
    captured = run(*cells, root=tmp_path / "captured", device=device)
    with monkeypatch.context() as patch:
        patch.setattr(own_kernels, "run_on", lambda weights: False)
        assert_close(captured, run(*cells, root=tmp_path / "plain", device=device))
    # Half of the weights are left, so all were read.
    monkeypatch.setattr(fixed_mask, "_FEW", 1.0)
    kept = run(*cells, root=tmp_path / "kept", device=device)
    assert_same_bytes(captured[1], kept[1])
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: False))
    eager = run(*cells, root=tmp_path / "eager", device=device)
    assert_same_bytes(captured[1], eager[1])


def test_convolutions_are_timed_on_the_device_and_the_choice_is_kept(
    cell: Make, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if device == "cpu":
        names = timed_backends, torch.device("cuda")
        monkeypatch.setattr(
            measured_backend, "timed_backends", lambda module, _: names[0](module, names[1])
        )
    small = {"dataset__shape": [1, 8, 8], "schedule": HALF, "recipe": MOMENTUM}
    made = plan([cell(model=MODELS["conv"], **small, seed=seed) for seed in (0, 1)])
    units = [unit for unit in made.units if unit.stage == made.units[0].stage]
    sweep = SweepFolder(tmp_path / "sweeps" / "timed")
    machine = with_backend(sweep, units, Machine(device=device))
    (file,) = sweep.folder.glob("backends/*")
    seconds = json.loads(file.read_bytes())["seconds"]
    # Whatever fails here would train no stack either, and it is left out without a word.
    assert {"loop", "grouped"} == seconds.keys()
    assert machine.backend == min(seconds, key=lambda name: seconds[name])
    monkeypatch.setattr(measured_backend, "time_backends", None)
    assert with_backend(sweep, units, Machine(device=device)) == machine


def test_a_short_last_batch_is_taken_eagerly_beside_the_graph(
    cell: Make, run: Run, device: str, tmp_path: Path
) -> None:
    made = cell(dataset__train=70, recipe={**MOMENTUM, "drop_last": False})
    ours = run(made, root=tmp_path / "device", device=device)
    assert_close(ours, run(made, root=tmp_path / "cpu", backend="chain"))


@pytest.mark.parametrize("precision", getattr(keys, "PRECISIONS", ("float32",))[1:])
def test_another_precision_trains_nearly_the_same(
    cell: Make, run: Run, device: str, tmp_path: Path, precision: str
) -> None:
    if precision == "tf32" and device == "cpu":
        pytest.skip("a CPU has no tf32")
    cells = [cell(recipe=MOMENTUM, seed=seed, precision=precision) for seed in (0, 1)]
    made, store = run(*cells, root=tmp_path / precision, device=device)
    exact, beside = run(
        *(cell(recipe=MOMENTUM, seed=seed) for seed in (0, 1)), root=tmp_path / "cpu"
    )
    for ours, theirs in zip(made.units, exact.units, strict=True):
        assert ours.stage.key != theirs.stage.key
        rounded = _losses(store, ours.stage.key, ours.seed)
        whole = _losses(beside, theirs.stage.key, theirs.seed)
        assert rounded == pytest.approx(whole, rel=0.1) and rounded != whole


WORDS = [
    *("dataset=synthetic", "dataset.shape=[1,4,4]", "dataset.classes=4", "dataset.train=64"),
    *("dataset.validation=32", "dataset.test=32", "schedule.levels=1", "recipe.batch_size=16"),
    *("recipe.length=2ep", "mask_criterion=large_final", "seed=0,1,2,3", "workers=1"),
    *("report.figures=[]", "backend=stacked"),
]


def test_a_stack_that_does_not_fit_into_memory_is_halved_until_it_fits(
    device: str, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    root, words = tmp_path / "results", [*WORDS, "model.net._target_=hungry.Hungry"]
    words += ["~model.net.hidden", f"device={device}", "stack_size=4", f"root={root}"]
    status, _, err = command_line(*words)
    assert status == 0, err
    assert "OutOfMemoryError" in err and "trainings are tried again in two halves" in err
    assert len(list(root.glob("runs/*/*/DONE"))) == 4


HUNGRY = '''
"""A net that needs 35 % of the device's memory for each replicate of a step."""

import torch
from torch import nn


class Hungry(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        size = torch.Size(input_shape).numel()
        self.hidden, self.output = nn.Linear(size, 12), nn.Linear(12, classes)

    def forward(self, x):
        if self.training and len(x) % 16 == 0:  # of a batch of 16
            replicates = len(x) // 16
            if x.is_cuda:
                total = torch.cuda.get_device_properties(x.device).total_memory
                torch.empty(int(0.35 * total) * replicates, dtype=torch.uint8, device=x.device)
            elif replicates > 2:
                raise torch.OutOfMemoryError("rehearsed")
        return self.output(torch.relu(self.hidden(x.flatten(1))))
'''
