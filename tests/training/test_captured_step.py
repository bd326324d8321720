"""A step that is captured and replayed trains the same network, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from fixtures.captured_step import HostTraffic, Waits, captured, no_waits, pretended_cuda
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
from torch import Tensor, nn

from lt_sweeps.config.cells import Cell
from lt_sweeps.data import Split, batches
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity import top_k
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import stack
from lt_sweeps.training import evaluation, training_loop
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.history import copy_rows, select_rows
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

ONCE = ("learned_supermask_from", "exact_continuous_sparsification", "transfer")
"""Methods that train as another method here does."""


@pytest.fixture(autouse=True)
def _ranked_as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "host_reads", lambda tensor: False)


@contextmanager
def capturing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let trainings run as on a GPU, with recorded operations in place of a graph.

    Code outside the graph must not wait for the device either: rewiring a mask, setting a
    temperature, keying a draw.
    """
    make = TrainingLoop.update

    def without_waits(loop: TrainingLoop, *, eager: bool = False) -> Callable[[int], None]:
        update = make(loop, eager=eager)
        if eager:  # the rehearsal, which may wait for the device
            return update

        def updated(step: int) -> None:
            with no_waits():
                update(step)

        return updated

    with monkeypatch.context() as patch:
        for module in (training_loop, evaluation):
            patch.setattr(module, "graphed", captured)
        patch.setattr(TrainingLoop, "captures", property(lambda loop: True))
        patch.setattr(TrainingLoop, "update", without_waits)
        yield


def tickets(root: Path) -> dict[str, bytes]:
    paths = sorted(root.glob("tickets/*/*.safetensors"))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_equal(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *cells: Cell, backend: str
) -> None:
    run(*cells, root=tmp_path / "eager", backend=backend)
    with capturing(monkeypatch):
        run(*cells, root=tmp_path / "captured", backend=backend)
    eager, replayed = tickets(tmp_path / "eager"), tickets(tmp_path / "captured")
    assert eager.keys() == replayed.keys() and len(eager) > 1
    assert [name for name in eager if eager[name] != replayed[name]] == []


@pytest.mark.parametrize("recipe", [ADAM, MOMENTUM], ids=["adam", "sgd"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_the_same_when_its_step_is_captured(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, recipe: dict
) -> None:
    if recipe is ADAM and (has_norms(name) or name in ONCE):
        pytest.skip("one optimizer is enough")
    cells = method_cells(cell, name, recipe)
    backend = "stacked" if has_norms(name) else "chain"
    assert_equal(run, monkeypatch, tmp_path, *cells, backend=backend)


@pytest.mark.parametrize(
    ("model", "backend"), [(model, name) for model in MODELS for name in BACKENDS[model]]
)
@pytest.mark.parametrize("name", ["imp", "continuous_sparsification"])
def test_every_backend_of_every_model_can_be_captured(
    cell: Make,
    run: Run,
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
            recipe={**MOMENTUM, "clip": {"norm": 0.25}},
            seed=seed,
        )
        for seed in (0, 1)
    ]
    assert_equal(run, monkeypatch, tmp_path, *cells, backend=backend)


class Frozen(nn.Sequential):
    """A network with a bias that is not trained."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))
        self[1].bias.requires_grad_(False)


@pytest.mark.parametrize("name", ["imp", "continuous_sparsification"])
def test_a_captured_step_leaves_a_frozen_parameter_as_it_is(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    made = cell(
        model={"net": {"_target_": f"{__name__}.Frozen"}},
        method={"_target_": f"lt_sweeps.plan.methods.{name}"},
        schedule=HALF,
        recipe={**MOMENTUM, "weight_decay": 0.1},
    )
    assert_equal(run, monkeypatch, tmp_path, made, backend="stacked")
    states = [
        safetensors.torch.load(content) for content in tickets(tmp_path / "captured").values()
    ]
    biases = [state["1.bias"] for state in states if "1.bias" in state]
    assert len(biases) > 1 and all(torch.equal(bias, biases[0]) for bias in biases)


class Keeps(nn.Sequential):
    """A network that cannot be captured, and keeps an unfilled tensor of the attempt."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))
        self.kept = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            self.kept = torch.full((1,), torch.nan)
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return super().forward(x * self.kept)


@pytest.mark.parametrize("where", [training_loop, evaluation])
@pytest.mark.parametrize("backend", ["loop", "stacked", "vmap"])
def test_a_network_that_cannot_be_captured_trains_the_same(
    cell: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    backend: str,
    where: ModuleType,
) -> None:
    made = cell(
        model={"net": {"_target_": f"{__name__}.Keeps"}}, schedule=HALF, recipe=MOMENTUM, seed=0
    )
    pretended_cuda(monkeypatch)
    run(made, root=tmp_path / "eager", backend=backend)
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: True))
    for module in (training_loop, evaluation):
        plain = module is not where
        monkeypatch.setattr(
            module,
            "graphed",
            captured if plain else lambda step, _, **how: graphed(step, "cuda", **how),
        )
    run(made, root=tmp_path / "captured", backend=backend)
    assert sum("not permitted" in message for message in caplog.messages) == 1
    assert tickets(tmp_path / "eager") == tickets(tmp_path / "captured")


@pytest.mark.parametrize("name", ["imp", "gmp", "rigl", "continuous_sparsification"])
def test_the_short_last_batch_of_an_epoch_is_trained_on_too(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    made = cell(
        method={"_target_": f"lt_sweeps.plan.methods.{name}", **METHODS[name]},
        schedule=HALF,
        dataset__train=70,  # four batches of 16, and one of 6
        recipe={**ADAM, "drop_last": False},
    )
    assert_equal(run, monkeypatch, tmp_path, made, backend="chain")


@pytest.mark.parametrize("name", ["imp", "rigl", "continuous_sparsification"])
def test_a_captured_training_that_was_interrupted_goes_on_to_the_same_bytes(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    made = cell(
        method={"_target_": f"lt_sweeps.plan.methods.{name}", **METHODS[name]},
        schedule=HALF,
        recipe=ADAM,
    )
    run(made, root=tmp_path / "eager", backend="chain")
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked % 5 == 0

    with capturing(monkeypatch):
        for _ in range(99):
            try:
                run(made, root=tmp_path / "captured", backend="chain", stopped=stopped)
                break
            except training_loop.Interrupted:
                continue
    assert asked > 10
    assert tickets(tmp_path / "eager") == tickets(tmp_path / "captured")


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_images_outside_of_the_device_are_fed_to_the_captured_step(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, augment: str
) -> None:
    cells = [
        cell(
            schedule=HALF,
            dataset__train=70,
            recipe={**ADAM, "drop_last": False, "augment": augment, "order": "fresh"},
            seed=seed,
        )
        for seed in (0, 1)
    ]
    run(*cells, root=tmp_path / "inside", backend="chain")

    def outside(split: Split, device: torch.device) -> Split:
        return Split(split.inputs, split.targets, rows=torch.arange(len(split.targets)))

    monkeypatch.setattr(batches, "_placed", outside)
    run(*cells, root=tmp_path / "eager", backend="chain")
    with capturing(monkeypatch):
        run(*cells, root=tmp_path / "captured", backend="chain")
    assert tickets(tmp_path / "eager") == tickets(tmp_path / "inside")
    assert tickets(tmp_path / "captured") == tickets(tmp_path / "inside")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def started(cell: Make, tmp_path: Path, name: str, **changes: Any) -> TrainingLoop:
    """A method's first training (of its mask, if it learns one): two replicates, at step 0."""
    method = {"_target_": f"lt_sweeps.plan.methods.{name}", **METHODS[name]}
    cells = [cell(method=method, schedule=HALF, recipe=ADAM, seed=n, **changes) for n in (0, 1)]
    units = plan(cells).units
    trained = next((u.stage for u in units if u.stage.sparsifier.learns), units[0].stage)
    units = [unit for unit in units if unit.stage == trained]
    store = Store(tmp_path)
    loop = TrainingLoop(units, store, Machine(), moments=[frozenset()] * 2)
    loop.start(stack([ticket(unit.stage.start, unit.seed, store) for unit in units]))
    return loop


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["dense", "continuous_sparsification"])
def test_a_step_neither_waits_for_the_device_nor_copies_to_it(
    cell: Make, tmp_path: Path, name: str, model: str
) -> None:
    loop = started(cell, tmp_path, name, model=MODELS[model], dataset__shape=[1, 8, 8])
    update = loop.update()
    update(0)  # draws the epoch's order, and looks for noise that no layer declares
    with HostTraffic() as traffic:
        update(1)
    assert (traffic.waits, traffic.copies) == ([], [])


@pytest.mark.parametrize("name", ["dense", "learned_supermask", "continuous_sparsification"])
def test_an_evaluation_waits_for_the_device_once(
    cell: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    loop = started(cell, tmp_path, name)
    loop.update()(0)
    monkeypatch.setattr(batches, "EVALUATE_BATCH", 5)
    with HostTraffic() as traffic:
        loop.scorer.validate(1)
    assert (traffic.waits, traffic.copies) == (["tolist"], [])


def test_the_best_rows_of_a_gpu_are_those_of_a_cpu() -> None:
    now = {"weights": torch.randn(3, 8), "buffers/count": torch.tensor([5, 6, 7])}
    for rows in ([0], [1, 2], [0, 1, 2]):
        made = []
        for copy in (
            lambda into, rows: copy_rows(now, into, rows),
            lambda into, rows: select_rows(now, into, torch.tensor([r in rows for r in range(3)])),
        ):
            into = {"weights": torch.zeros(3, 8), "buffers/count": torch.zeros(3, dtype=torch.long)}
            copy(into, rows)
            made.append(into)
        assert all(torch.equal(made[0][name], made[1][name]) for name in now)
        assert [r for r in range(3) if made[0]["weights"][r].any()] == rows


def test_a_step_that_waits_for_the_device_is_refused() -> None:
    total = torch.zeros(())

    def step() -> None:
        total.add_(1.0 if total.item() < 3 else 2.0)

    with pytest.raises(Waits, match="wait for the device"):
        captured(step, total.device, restore=[total])


def test_a_step_that_lists_a_tensor_is_refused() -> None:
    total = torch.zeros(2)

    def step() -> None:
        total.add_(sum(total.tolist()))

    with pytest.raises(Waits, match="tolist"):
        captured(step, total.device, restore=[total])


def test_a_decision_of_python_in_a_captured_step_is_noticed() -> None:
    total, count = torch.zeros(()), 0

    def step() -> None:
        nonlocal count
        count += 1
        total.add_(float(count))

    replay = captured(step, total.device, restore=[total])
    replay()
    replay()
    assert float(total) == 4.0  # the recorded 2, twice, and not 3 + 4
