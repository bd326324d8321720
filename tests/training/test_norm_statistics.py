"""Batch-norm statistics that are estimated again do not depend on the earlier ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from torch import nn

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages import Search, Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
METHODS = "lt_sweeps.plan.methods."
ONCE = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}


class Averaged(nn.Module):
    """A norm of images; without `momentum` its statistics are the mean of those of all batches."""

    def __init__(
        self, input_shape: Sequence[int], classes: int, momentum: float | None, kind: str = "Batch"
    ) -> None:
        super().__init__()
        norm = getattr(nn, f"{kind}Norm2d")
        self.norm = norm(input_shape[0], momentum=momentum, track_running_stats=True)
        self.output = nn.Linear(input_shape[0], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.norm(x).mean((2, 3)))


def begun(
    cell: Cell, store: Store, kind: type[Work] = Work, backend: str = "auto"
) -> tuple[TrainingLoop, Ticket]:
    """The last training or score of a cell at its start, and a ticket with wrong statistics."""
    made = plan([cell])
    (*_, stage) = [unit.stage for unit in made.units if isinstance(unit.stage, kind)]
    first = ticket(made.units[0].stage.start, made.cells[0].seed, store)
    for name, tensor in first.state.items():
        if "running" in name:
            tensor.fill_(1000.0)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
    unit = Unit(stage, made.cells[0].seed)
    return TrainingLoop([unit], store, Machine(backend=backend), moments=[frozenset()]), first


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize(
    ("kind", "momentum"),
    [("Batch", None), ("Batch", 0.1), ("Batch", 1.0), ("Instance", 0.1), ("Instance", 1.0)],
)
def test_statistics_are_those_of_the_batches_alone(
    cell: Make, tmp_path: Path, kind: str, momentum: float | None, batches: int
) -> None:
    method = {"_target_": f"{METHODS}supermask", "statistics": batches}
    net = {"_target_": f"{__name__}.Averaged", "momentum": momentum, "kind": kind}
    asked = cell(model={"net": net}, method=method, schedule=ONCE)
    loop, far = begun(asked, Store(tmp_path))
    loop.start(far)
    seen = [loop.batches.take(*loop.batches.batch(step))[0][0] for step in range(batches)]
    m = momentum or 0.0
    weights = torch.tensor([(1 - m) ** (batches - 1 - n) for n in range(batches)])
    of_batch = [x.transpose(0, 1).flatten(1).var(1) for x in seen]
    of_each = [x.var((2, 3)).mean(0) for x in seen]
    for leaf, values in (
        ("mean", [x.mean((0, 2, 3)) for x in seen]),
        ("var", of_batch if kind == "Batch" else of_each),
    ):
        wanted = (torch.stack(values, 1) * weights).sum(1) / weights.sum()
        assert torch.allclose(loop.stack.buffers[f"norm.running_{leaf}"][0], wanted, rtol=1e-5)


@pytest.mark.parametrize("backend", ["loop", "stacked", "grouped"])
def test_statistics_are_those_of_a_training_step_and_need_no_backward_pass(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    method = {"_target_": f"{METHODS}supermask", "statistics": 3}
    asked = cell(model=CONV, recipe=SGD, method=method, schedule=ONCE)
    loop, first = begun(asked, Store(tmp_path), backend=backend)
    loop.start(first)
    estimated = {name: tensor.clone() for name, tensor in loop.stack.buffers.items()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "no_grad", torch.enable_grad)
        loop.start(first)
    assert loop.stack.grads.any()
    assert all(torch.equal(t, estimated[name]) for name, t in loop.stack.buffers.items())
    monkeypatch.setattr(torch.autograd, "grad", None)
    loop.start(first)


def test_a_reward_of_amc_does_not_depend_on_the_episode_before(cell: Make, tmp_path: Path) -> None:
    method = {"_target_": f"{METHODS}amc", "episodes": 2, "warmup": 1, "recalibrate": 2}
    asked = cell(model=CONV, recipe=SGD, method=method, schedule=ONCE)
    loop, first = begun(asked, Store(tmp_path), Search)
    loop.stack.load(first.state)
    measured = []
    for _ in range(2):
        loop._rewards(2)
        measured.append({n: t.clone() for n, t in loop.stack.buffers.items() if "running" in n})
    assert all(torch.allclose(t, measured[1][name]) for name, t in measured[0].items())


def test_only_a_score_whose_number_was_wrong_has_another_key(cell: Make) -> None:
    def fields(**changes: Any) -> Any:
        return planned_cell(cell(recipe=SGD, schedule=ONCE, **changes)).last.fields()["statistics"]

    few = {"_target_": f"{METHODS}supermask", "statistics": 3}
    many = {**few, "statistics": 200}
    averaged = {"net": {"_target_": f"{__name__}.Averaged", "momentum": None}}
    assert fields(model=CONV, method=few)["statistics"] == 2
    assert fields(model=averaged, method=many)["statistics"] == 2
    assert "statistics" not in fields(model=CONV, method=many)
    assert "statistics" not in fields(model=CONV, method={**few, "statistics": 0})
