"""A training that depends on more than its seed, or mixes images of a batch, is refused at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from torch import Tensor, nn

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Train
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.training import rehearsal
from lt_sweeps.training.rehearsal import rehearse
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]


class Net(nn.Module):
    """A correct network; each class below plants one fault in it."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 8)
        self.output = nn.Linear(8, classes)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.features(x))


class DrawsByPython(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.1 * random.random())


class DrawsByNumpy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + float(np.random.rand()))


class CountsItsCalls(Net):
    calls: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        CountsItsCalls.calls += 1
        return super().forward(x) / (1 + self.calls)


class CountsInANumber(Net):
    """Its fifth call in training differs from the calls that a rehearsal sees."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x) * (1 if self.calls < 5 else 2)


class CountsForALog(Net):
    calls = examples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.examples = self.calls + 1, self.examples + len(x)
        return super().forward(x)


class Normed(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.norm = nn.BatchNorm1d(8)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(super().features(x))


class Inverts(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.mixed = nn.Linear(8, 8, bias=False)

    def features(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.mixed.weight, super().features(x).T).T


class LooksUpItsCall(Net):
    """Reads a schedule from a list, whose first entries are equal."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * ([1.0] * 99)[self.calls]


class CentresItsWeights(Net):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.hidden.weight.sub_(self.hidden.weight.mean(1, keepdim=True))
        return super().features(x)


class Standardises(Net):
    """Like a weight-standardised convolution, whose pruned weights do not act as 0."""

    def features(self, x: Tensor) -> Tensor:
        weight = self.hidden.weight
        deviation, mean = torch.std_mean(weight, 1, keepdim=True)
        return torch.relu(nn.functional.linear(x.flatten(1), (weight - mean) / deviation))


class Rescales(Net):
    """Like weight normalisation: a weight of 0 stays 0."""

    def features(self, x: Tensor) -> Tensor:
        weight = nn.functional.normalize(self.hidden.weight)
        return torch.relu(nn.functional.linear(x.flatten(1), weight))


class Flips(Net):
    """Uses each weight at another position, where a 0 has the effect of a 0 too."""

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.linear(x.flatten(1), self.hidden.weight.flip(0, 1)))


class Transposed(Net):
    """Its weight is in memory like channels-last weights: not row by row."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.hidden.weight = nn.Parameter(self.hidden.weight.detach().T.contiguous().T)


class WiredByTorch(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.wires = torch.randperm(8, device="cpu").tolist()

    def features(self, x: Tensor) -> Tensor:
        return super().features(x)[:, self.wires] * torch.arange(8.0)


class WiredByPython(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.slope = random.random()

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.hidden(x.flatten(1)), self.slope)


class DrawnTable(Net):
    table: Tensor

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("table", torch.randn(8), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.table


class Detached(Net):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x).detach()


class LeftOut(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.spare = nn.Linear(8, 8)


class CentresItsBatch(Net):
    def features(self, x: Tensor) -> Tensor:
        features = super().features(x)
        return features if self.training else features - features.mean(0)


class RunsOverItsBatch(Net):
    """A recurrent layer without `batch_first`, as if the images were moments of one sequence."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.hidden = nn.GRU(input_shape[1] * input_shape[2], 8)

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(x.flatten(2))[0][:, 0]


class HidesItsStatistics(Net):
    """Centres by a running mean that its `state_dict` lacks."""

    mean: Tensor

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        features = super().features(x)
        if not self.training:
            return features - self.mean
        self.mean = 0.9 * self.mean + 0.1 * features.detach().mean(0)
        return features - features.mean(0)


class HidesANumber(Net):
    scale = 1.0

    def features(self, x: Tensor) -> Tensor:
        if self.training:
            self.scale *= 0.9
            return super().features(x)
        return super().features(x) * self.scale


class DrawnByNumpy(Net):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        drawn = np.random.default_rng().standard_normal(self.output.weight.shape)
        with torch.no_grad():
            self.output.weight.copy_(torch.as_tensor(drawn))


def net(kind: type[nn.Module]) -> dict:
    return {"net": {"_target_": f"{__name__}.{kind.__name__}"}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DrawsByPython, "first 2 steps of its training, run twice, give two values of the loss"),
        (DrawsByNumpy, "first 2 steps of its training, run twice, give two values of the loss"),
        (CountsItsCalls, "first 2 steps of its training, run twice, give two values of the loss"),
        (CountsInANumber, "computes with `calls`, which counts the calls; no checkpoint holds it"),
        (LooksUpItsCall, "computes with `calls`, which counts the calls; no checkpoint holds it"),
        (CentresItsWeights, "its forward pass writes to hidden.weight, so a pruned weight"),
        (
            Standardises,
            r"pruned weight of hidden.weight from 0 to another number.*prunable.exclude",
        ),
        (WiredByTorch, "built twice with the same weights, gives two outputs for one input"),
        (WiredByPython, "built twice with the same weights, gives two outputs for one input"),
        (DrawnTable, "built twice with the same weights, gives two outputs for one input"),
        (Detached, r"no gradient reaches hidden.weight"),
        (LeftOut, r"no gradient reaches spare.weight.*model.prunable.exclude=\[spare.weight\]"),
        (CentresItsBatch, "in evaluation mode its output for an image depends on the other images"),
        (RunsOverItsBatch, r"depends on the other images of the batch.*with batch_first=True"),
        (HidesItsStatistics, "after a training its outputs differ.*as a persistent buffer"),
        (HidesANumber, "after a training its outputs differ.*as a persistent buffer"),
        (DrawnByNumpy, "gives other values for output.weight when it is called again"),
    ],
)
def test_a_model_that_would_give_wrong_numbers_is_refused_by_name(
    cell: Make, run: Run, kind: type[nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        run(cell(model=net(kind)))
    assert str(refused.value).startswith(f"model: {kind.__name__}()")


@pytest.mark.parametrize("kind", [Net, CountsForALog, Inverts, Rescales, Flips, Transposed])
def test_a_sound_model_is_not(cell: Make, run: Run, kind: type[nn.Module]) -> None:
    made, store = run(cell(model=net(kind)))
    assert not made.missing(store)


def test_a_layer_that_standardises_its_weights_can_stay_dense(cell: Make, run: Run) -> None:
    made, store = run(cell(model={**net(Standardises), "prunable": {"exclude": ["hidden.*"]}}))
    assert not made.missing(store)


DROP_AND_GROW = {"_target_": "lt_sweeps.plan.methods.rigl", "every": "2it"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model": CONV, "recipe": SGD},
        {"method": DROP_AND_GROW, "recipe": SGD},
        {"method": {"_target_": "lt_sweeps.plan.methods.learned_supermask"}, "recipe": SGD},
        {"recipe__lr": 1e30, "recipe__optimizer": "sgd"},
    ],
    ids=["fixed", "batch norm", "rigl", "supermask", "diverges"],
)
def test_a_rehearsal_changes_no_byte(
    cell: Make, run: Run, tmp_path, monkeypatch: pytest.MonkeyPatch, change: dict
) -> None:
    cells = [cell(seed=seed, **change) for seed in (0, 1)]
    run(*cells, root=tmp_path / "rehearsed")
    monkeypatch.setattr("lt_sweeps.execution.train_pack.rehearse", lambda loop: None)
    run(*cells, root=tmp_path / "not")
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("tickets/*/*.safetensors")}
        for root in (tmp_path / "rehearsed", tmp_path / "not")
    )
    assert first == second and first


def test_the_first_training_of_a_network_is_rehearsed_and_each_that_a_sparsifier_acts_in(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    train = rehearsal._train

    def noted(loop: TrainingLoop, before: dict[str, Tensor], *, resumed: bool) -> None:
        steps.append(loop.stage.level)
        train(loop, before, resumed=resumed)

    monkeypatch.setattr(rehearsal, "_train", noted)
    run(cell())
    assert steps == [0, 0], "and no later level"
    steps.clear()
    gmp = {"_target_": "lt_sweeps.plan.methods.gmp", "every": "3it", "finetune": {"length": "1ep"}}
    one_shot = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    run(cell(method=gmp, schedule=one_shot, recipe=SGD))
    assert steps.count(1) == 2


def test_a_canary_rehearses_too(cell: Make, tmp_path) -> None:
    made, store = plan([cell(model=net(CountsItsCalls))]), Store(tmp_path)
    unit = made.units[0]
    assert isinstance(unit.stage, Train)
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset()])
    loop.start(ticket(unit.stage.start, unit.seed, store))
    with pytest.raises(ValueError, match="CountsItsCalls"):
        rehearse(loop)
    with pytest.raises(ValueError, match="CountsItsCalls"):
        compute([unit], made.moments, store, Machine())


def test_on_a_gpu_the_copies_of_what_is_not_compared_take_no_memory(
    cell: Make, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store = plan([cell(model=net(Net))]), Store(tmp_path)
    unit = made.units[0]
    assert isinstance(unit.stage, Train)
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset()])
    loop.start(ticket(unit.stage.start, unit.seed, store))
    copies, copied = rehearsal._copies, []
    monkeypatch.setattr(
        rehearsal, "_copies", lambda named: copied.append([*named]) or copies(named)
    )
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    loop.device = torch.device("cuda")
    rehearse(loop)
    assert "weights" in copied[0] and copied[1:] == [["the loss"]] * 2
