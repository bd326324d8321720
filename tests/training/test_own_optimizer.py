"""Any torch or user-defined optimizer on a stack equals a plain loop in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import compute_cells
from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.optimizer_checks import check_optimizer, make_optimizer, tried_shapes
from lt_sweeps.plan.planning import plan
from lt_sweeps.training.fixed_mask import FixedMask
from lt_sweeps.training.own_optimizer import OwnOptimizer
from lt_sweeps.training.stack import BufferLayout, Stack
from lt_sweeps.training.training_loop import Interrupted

LEFT_OUT = ("Optimizer", "LBFGS", "SparseAdam")  # the base; a closure; sparse gradients
ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "RMSprop": {"momentum": 0.9, "centered": True},
    "SGD": {"momentum": 0.9, "dampening": 0.5},
    "Adam": {"amsgrad": True},
    "ASGD": {"t0": 2.0},
    "Adagrad": {"initial_accumulator_value": 0.1, "lr_decay": 0.01},
}
FIT = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in LEFT_OUT
)
OWN = "fixtures.strange_optimizers.Forgetful"
RATES = (0.1, 0.1, 0.05, 0.01, 0.01)
SHAPES = {"weight": (6, 4), "bias": (6,), "filter": (3, 2, 3)}
MOVED = [2, 0, 1]


def path_of(name: str) -> str:
    return name if "." in name else f"torch.optim.{name}"


def call_of(name: str) -> Call:
    return Call(path_of(name), Config(ARGUMENTS.get(name, {})))


def drawn(layout: BufferLayout, step: int) -> Tensor:
    draws = torch.Generator().manual_seed(step)
    flat = torch.zeros(3, layout.size, dtype=torch.float64)
    for view in layout.views(flat).values():
        view.copy_(torch.randn(view.shape, generator=draws, dtype=torch.float64))
    return flat


@pytest.mark.parametrize("name", [*FIT, OWN, "fixtures.strange_optimizers.Replacing"])
def test_a_stack_is_trained_as_plain_torch_trains_each_network(name: str) -> None:
    shapes = {"weight": SHAPES["weight"]} if name == "Muon" else SHAPES
    layout, call = BufferLayout.of_shapes(shapes), call_of(name)
    weights = drawn(layout, 0)
    grads = torch.zeros_like(weights)
    plain = [[v[r].clone() for v in layout.views(weights).values()] for r in range(3)]
    theirs = [call(params=parameters, lr=RATES[0]) for parameters in plain]
    ours = OwnOptimizer(call, weights, grads, layout, lr=RATES[0])
    for step, lr in enumerate(RATES):
        if step == 2:  # the rows go on in another stack, in another order
            state = {key: value[MOVED] for key, value in ours.tensors.items()}
            weights, plain = weights[MOVED], [plain[r] for r in MOVED]
            theirs = [theirs[r] for r in MOVED]
            ours = OwnOptimizer(call, weights, grads, layout, lr=RATES[0])
            for key, value in ours.tensors.items():
                value.copy_(state[key])
            ours.ready()
        grads.copy_(drawn(layout, step + 1))
        for r, optimizer in enumerate(theirs):
            for parameter, grad in zip(plain[r], layout.views(grads).values(), strict=True):
                parameter.grad = grad[r].clone()
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        ours.step(lr)
        for r in range(3):
            for parameter, view in zip(plain[r], layout.views(weights).values(), strict=True):
                assert torch.equal(parameter, view[r])
    assert not torch.equal(weights, drawn(layout, 0)[MOVED])


@pytest.mark.parametrize("name", [*FIT, OWN, "fixtures.strange_optimizers.Telling"])
def test_every_optimizer_of_torch_trains_the_networks_that_it_fits(name: str) -> None:
    shapes = SHAPES if name != "Muon" else {"weight": SHAPES["weight"]}
    check_optimizer(call_of(name), shapes, lr=1e-3)


def test_an_optimizer_is_tried_on_the_shapes_of_a_small_network_and_on_short_ones_of_a_large() -> (
    None
):
    assert tried_shapes(SHAPES) == SHAPES
    large = {"weight": (4096, 4096), "bias": (2,)}
    assert tried_shapes(large) == {"weight": (3, 3), "bias": (2,)}


def cell_of(cell: Callable[..., Cell], name: str, **more: Any) -> Cell:
    optimizer = {"_target_": path_of(name), **ARGUMENTS.get(name, {})}
    return cell(recipe__optimizer=optimizer, recipe__length="2ep", schedule__levels=1, **more)


def weights_under(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.glob("tickets/*/*.safetensors"))
    }


@pytest.mark.parametrize(
    ("name", "freeze"),
    [("RMSprop", "init"), ("Adafactor", "init"), ("Rprop", "zero"), (OWN, "init"), (OWN, "zero")],
)
def test_a_pruned_weight_never_moves_and_a_stack_equals_each_seed_alone(
    cell: Callable[..., Cell], tmp_path: Path, name: str, freeze: str
) -> None:
    kind = {"_target_": f"lt_sweeps.sparsity.freezes.{freeze}"}
    cells = [cell_of(cell, name, seed=seed, freeze=kind) for seed in (0, 1)]
    # A training checks that no pruned weight has moved, at every evaluation.
    compute_cells(*cells, root=tmp_path / "stacked")
    compute_cells(*cells, root=tmp_path / "alone", alone=True)
    stacked = weights_under(tmp_path / "stacked")
    assert stacked and stacked == weights_under(tmp_path / "alone")


class Scaled(torch.nn.Module):
    """A network with a scalar parameter."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.inner, self.output = torch.nn.Linear(16, 8), torch.nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.inner(x.flatten(1))) * self.scale)


RESUMED: list[tuple[str, dict[str, Any]]] = [
    *(
        (OWN, {"method": {"_target_": f"lt_sweeps.plan.methods.{method}"}})
        for method in ("imp", "renda", "continuous_sparsification", "rigl")
    ),
    ("fixtures.strange_optimizers.Numbering", {}),
    ("fixtures.strange_optimizers.Sharer", {}),
    ("NAdam", {"model": {"net": {"_target_": f"{__name__}.Scaled"}}}),
]


@pytest.mark.parametrize(("name", "more"), RESUMED)
def test_a_training_that_is_stopped_goes_on_to_equal_bytes(
    cell: Callable[..., Cell], tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    own = cell_of(cell, name, **more)
    compute_cells(own, root=tmp_path / "whole")
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked % 6 == 5

    for _ in range(30):
        try:
            compute_cells(own, root=tmp_path / "parts", stopped=stopped)
            break
        except Interrupted:
            continue
    assert asked > 6
    assert weights_under(tmp_path / "parts") == weights_under(tmp_path / "whole")


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"_target_": "torch.optim.LBFGS"}, "LBFGS` computes the loss several times in a step"),
        ({"_target_": "fixtures.strange_optimizers.Needy"}, "its `step` needs a closure"),
        ({"_target_": "fixtures.strange_optimizers.Drawing"}, "draws random numbers"),
        ({"_target_": "fixtures.strange_optimizers.Slowing"}, "changes its learning rate, which"),
        (
            {"_target_": "fixtures.strange_optimizers.Listing"},
            "keeps `history` where no checkpoint",
        ),
        ({"_target_": "fixtures.strange_optimizers.Counting"}, "keeps `steps` where no checkpoint"),
        ({"_target_": "fixtures.strange_optimizers.Sharing"}, "keeps `shared` where no checkpoint"),
        ({"_target_": "fixtures.strange_optimizers.Wrapping"}, "keeps `inner` where no checkpoint"),
        (
            {"_target_": "fixtures.strange_optimizers.Remembering"},
            "keeps `norms` where no checkpoint",
        ),
        (
            {"_target_": "fixtures.strange_optimizers.DrawingBesides"},
            "keeps `draws` where no checkpoint",
        ),
        ({"_target_": "torch.optim.Muon"}, "cannot be made: Muon only supports 2D parameters"),
        ({"_target_": "torch.optim.SparseAdam"}, "SparseAdam does not support dense gradients"),
        ({"_target_": "torch.optim.RMSprop", "alpa": 0.9}, r"takes no alpa;.*mean `alpha`"),
        ({"_target_": "torch.optim.RMSprop", "alpha": -1.0}, "Invalid alpha value: -1.0"),
        ({"_target_": "torch.optim.RMSprop", "lr": 0.1}, r"takes no lr;"),
        ({"_target_": "torch.nn.ReLU"}, r"takes no lr, params;"),
        ({"alpha": 0.9}, "recipe.optimizer: no `_target_`"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_when_the_plan_is_made(
    cell: Callable[..., Cell], optimizer: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        plan([cell(recipe__optimizer=optimizer)])


def test_the_recipe_s_own_keys_are_for_its_own_optimizers(cell: Callable[..., Cell]) -> None:
    with pytest.raises(ValueError, match=r"give it there: recipe.optimizer.weight_decay=..."):
        plan([cell_of(cell, "RMSprop", recipe__weight_decay=0.1)])


def test_the_logits_of_a_mask_decay_as_its_method_says_whatever_the_optimizer_calls_it() -> None:
    weights = [torch.ones(2, 2), torch.ones(2)]
    decaying = Call("fixtures.strange_optimizers.Decaying")
    for decay, expected in ((None, [0.1, 0.0]), (0.0, [0.0, 0.0])):
        made = make_optimizer(decaying, weights, 0.5, weight_decay=decay)
        assert [group["weight_decay"] for group in made.param_groups] == expected


def test_an_optimizer_that_adds_state_after_its_first_step_is_refused() -> None:
    layout = BufferLayout.of_shapes(SHAPES)
    weights, grads = drawn(layout, 0), drawn(layout, 1)
    late = OwnOptimizer(Call("fixtures.strange_optimizers.Late"), weights, grads, layout, lr=0.1)
    late.step(0.1)
    with pytest.raises(ValueError, match="adds `late` to its state after its first step"):
        late.step(0.1)


def test_an_optimizer_whose_state_a_checkpoint_would_lose_is_refused(
    cell: Callable[..., Cell], tmp_path: Path
) -> None:
    warming = cell_of(cell, "fixtures.strange_optimizers.Warming")
    with pytest.raises(
        ValueError, match=r"\(optimizer, loss.*keeps something.* no checkpoint holds"
    ):
        compute_cells(warming, root=tmp_path)


def test_the_momentum_of_another_optimizer_is_refused(cell: Callable[..., Cell]) -> None:
    made = [cell_of(cell, "RMSprop"), cell(recipe__optimizer="adam")]
    maskings = []
    for each in made:
        (unit,) = (unit for unit in plan([each]).units if unit.stage.level == 0)
        stack = Stack(unit.stage.network.module("cpu"), 1, backend="loop")
        maskings.append(FixedMask(stack, [unit]))
    for one, other in (maskings, maskings[::-1]):
        one.load_moments(one.moments())
        with pytest.raises(ValueError, match="cannot continue with the momentum of another"):
            one.load_moments(other.moments())
