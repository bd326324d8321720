"""Find a tensor that was left on the host, without a GPU.

In torch's `FakeTensorMode`, tensors have a device and a shape but no numbers, so `cuda` needs no
GPU. An operation on tensors of two devices fails as on a GPU, and so does any code that would read
a number on the host. The mode has no backward pass, so the backend here is `chain`, whose backward
pass is written by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fixtures.captured_step import Waits, fakes_cuda, no_waits
from fixtures.method_cases import ADAM, method_cells
from fixtures.numerics import FORMULAS, GIVEN
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.data import batches, kept_images
from lt_sweeps.data.batches import Batches
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages.task_kind import TaskKind
from lt_sweeps.sparsity import top_k
from lt_sweeps.sparsity.sparsifiers import FIXED, RigL, TrainingState, straight_through
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import stack
from lt_sweeps.training.fixed_mask import FixedMask
from lt_sweeps.training.learned_mask import LearnedMask
from lt_sweeps.training.task_loss import in_double
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
pytestmark = fakes_cuda

HOLDING = ("imp", "gmp", "rigl")
LEARNED = ("learned_supermask", "l0", "dnw", "soft_threshold", "continuous_sparsification")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Within this mode `cuda` is a device without numbers; all steps are eager."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(TrainingLoop, "captures", property(lambda loop: False))
    # They read inputs and class numbers once, before the first step.
    monkeypatch.setattr(batches, "check_split", lambda *_: None)
    monkeypatch.setattr(TaskKind, "check_targets", lambda *_: None)
    caches = (top_k._keys.cache_clear, straight_through._order.cache_clear)
    caches = (*caches, kept_images._read.clear, kept_images._placed.clear)
    for clear in caches:
        clear()
    yield FakeTensorMode(allow_non_fake_inputs=True)
    for clear in caches:
        clear()


def started(
    cell: Make, name: str, recipe: dict[str, Any], folder: Path, mode: FakeTensorMode
) -> TrainingLoop:
    """The first training of two seeds that uses the method's own sparsifier, on the device."""
    units, store = plan(method_cells(cell, name, recipe)).units, Store(folder)
    stages = [unit.stage for unit in units]
    stage = next((stage for stage in stages if stage.sparsifier != FIXED), stages[0])
    units = [unit for unit in units if unit.stage == stage]
    start = stack([ticket(stage.start, unit.seed, store) for unit in units])
    with mode:
        machine = Machine(device="cuda", backend="chain")
        loop = TrainingLoop(units, store, machine, moments=[frozenset()] * len(units))
        loop.stack.load({name: tensor.to("cuda") for name, tensor in start.state.items()})
        loop.stack._noise_checked = True  # it reads the generator of a real GPU
        if isinstance(loop.masking, FixedMask):
            loop.masking.begin(start)
            # `ready` reads numbers, before the first step; here are a mask and pinned weights.
            loop.masking._masks = loop.masking._pins = True
            loop.masking.ready = lambda: None
    return loop


def off_device(loop: TrainingLoop) -> list[str]:
    masking = loop.masking
    tensors = {**masking.trained, **masking.tensors, **loop.history.tensors()}
    return [name for name, tensor in tensors.items() if tensor.device.type != "cuda"]


@pytest.mark.parametrize("name", HOLDING)
def test_a_step_under_a_fixed_mask_stays_on_the_device_and_waits_for_nothing(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path, name: str
) -> None:
    loop = started(cell, name, ADAM, tmp_path, fake_gpu)  # fused SGD has no fake kernel
    with fake_gpu:
        update = loop.update()
        for step in range(4):  # the order of an epoch and the keys of ties are sent once
            update(step)
        with no_waits():
            for step in range(4):
                update(step)
    assert loop.stack.device.type == "cuda" and off_device(loop) == []


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_mask_is_computed_on_the_device_and_waits_for_nothing(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path, name: str
) -> None:
    loop = started(cell, name, ADAM, tmp_path, fake_gpu)
    masking = loop.masking
    assert isinstance(masking, LearnedMask)
    with fake_gpu:
        masking.at(0)  # draws the keys of many steps, which are sent once
        masking.compute()
        batch = loop.batches.batch(0)
        with no_waits():
            masking.at(1)
            loop._gradients(batch)
        masking.deploy([1, 1], loop.scorer.keys("validate", 1))
        masking.deploy([1, 1], loop.scorer.keys("test", 1), hard=True)
        parts = masking.ticket(masking.trained, 1)
        tensors = [*parts.state.values(), *parts.mask.values(), *masking.remaining().values()]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert off_device(loop) == []


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop_flip"])
def test_batches_are_taken_augmented_and_normalised_on_the_device(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path, augment: str
) -> None:
    def images(**changes: Any) -> Cell:
        return cell(**changes, dataset__shape=[3, 8, 8])

    loop = started(images, "imp", {**ADAM, "augment": augment}, tmp_path, fake_gpu)
    with fake_gpu:
        index = loop.batches.index(0)
    with fake_gpu, no_waits():
        x, y = loop.batches.take(index)
    assert x.device.type == y.device.type == "cuda" and x.shape == (2, 16, 3, 8, 8)


class Sent(TorchDispatchMode):
    """Counts the numbers that are copied from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.numbers += result.numel()
        return result


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_the_order_of_an_epoch_is_sent_once_for_all_replicates_of_a_seed(
    cell: Make, fake_gpu: FakeTensorMode, augment: str
) -> None:
    training = plan([cell(dataset__shape=[3, 8, 8], recipe__augment=augment)]).units[0].stage
    dataset, recipe = training.training.task.dataset, training.training.recipe
    seeds = [Seed.of(number) for number in (0, 1, 0, 1, 1)]
    here = Batches(dataset, recipe, seeds, [()] * 5, torch.device("cpu")).index(0)
    assert torch.equal(here[0], here[2]) and not torch.equal(here[0], here[1])
    with fake_gpu:
        batches = Batches(dataset, recipe, seeds, [()] * 5, torch.device("cuda"))
        with Sent() as sent:
            index = batches.index(0)
    assert (index.device.type, index.shape) == ("cuda", here.shape)
    assert sent.numbers == 2 * dataset.train_size * (1 if augment == "none" else 4)


def test_an_evaluation_reads_its_sums_and_nothing_before_them(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path
) -> None:
    loop = started(cell, "imp", ADAM, tmp_path, fake_gpu)
    with fake_gpu, pytest.raises(DataDependentOutputException) as stopped:
        loop.scorer.measure("val")
    ours = [entry for entry in stopped.traceback if Path(entry.path).parent.name == "training"]
    assert "tolist" in str(ours[-1].statement)


@pytest.mark.parametrize("value", [torch.ones(4), torch.ones(()), (torch.ones(()), 3), (0.5, 3)])
def test_a_sum_and_a_count_are_added_up_on_the_device(
    fake_gpu: FakeTensorMode, value: Tensor | tuple[Tensor | float, int]
) -> None:
    with fake_gpu:
        there = tree_map_only(Tensor, lambda part: part.to("cuda"), value)
        targets = torch.zeros(4, dtype=torch.long, device="cuda")
        with no_waits():
            assert in_double(there, targets).device.type == "cuda"


@pytest.mark.parametrize("module", [FORMULAS[name] for name in ("criteria", "resets", "freezes")])
def test_formulas_answer_on_the_device_of_their_evidence(
    fake_gpu: FakeTensorMode, module: ModuleType
) -> None:
    asked = 0
    for name, function in vars(module).items():
        if name.startswith("_") or getattr(function, "__module__", "") != module.__name__:
            continue
        parameters = inspect.signature(function).parameters
        names = [p for p, parameter in parameters.items() if parameter.annotation == "Tensor"]
        given = {key: value for key, value in GIVEN.items() if key in parameters}
        with fake_gpu:
            evidence = {p: torch.rand(4, 6, device="cuda") for p in names}
            if module is FORMULAS["criteria"]:
                evidence = {p: values.flatten() for p, values in evidence.items()}
            bools = {"kept", "keeps", "sampled", "cut"} & evidence.keys()
            evidence |= {p: evidence[p] > 0.5 for p in bools}
            # How many weights a mask selects is a number, so reshuffling ends here.
            with suppress(DynamicOutputShapeException):
                if evidence:
                    assert function(**evidence, **given).device.type == "cuda", name
                    asked += 1
    assert asked > 3


def test_a_ranking_on_the_host_is_found(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = RigL._moved

    def on_the_host(rigl: RigL, layers: Any, state: TrainingState, step: int) -> Tensor:
        return moved(rigl, layers, state, step) & torch.ones(layers[0].size, dtype=torch.bool)

    monkeypatch.setattr(RigL, "_moved", on_the_host)
    loop = started(cell, "rigl", ADAM, tmp_path, fake_gpu)
    with (
        fake_gpu,
        pytest.raises(RuntimeError, match="to be on the same device|two different devices"),
    ):
        loop.update()(0)


def test_a_key_that_is_sent_in_every_step_is_found(
    cell: Make, fake_gpu: FakeTensorMode, tmp_path: Path
) -> None:
    loop = started(cell, "l0", ADAM, tmp_path, fake_gpu)
    assert isinstance(loop.masking, LearnedMask)
    with fake_gpu, pytest.raises(Waits, match="copy_"), no_waits():
        loop.masking.noise.seed(torch.ones(len(loop.units), dtype=torch.int32))
