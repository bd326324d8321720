"""RigL moves weights but never changes their number; grown weights start from 0."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from fixtures.training_loops import last, loop_of

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Prune, ancestors
from lt_sweeps.sparsity.sparsifiers import RigL, TrainingState
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

RIGL = {"_target_": "lt_sweeps.plan.methods.rigl", "every": "2it"}
ERK = {"_target_": "lt_sweeps.sparsity.densities.erk", "sparsity": 0.8}
NAME = "hidden.0.weight"


def test_the_fraction_falls_along_a_cosine_to_zero_at_the_end() -> None:
    rigl = RigL(0.3, begin=0, end=100, every=10)
    assert [rigl.moving(step) for step in (0, 50, 100)] == pytest.approx([0.3, 0.15, 0.0])
    assert RigL(0.3, begin=20, end=100, every=10).moving(50) == pytest.approx(0.15)
    assert rigl.moving(25) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert [s for s in range(200) if rigl.acts(s, None)] == list(range(0, 100, 10))  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["erk", "uniform"])
def test_every_layer_has_its_exact_number_of_weights_after_every_step(
    cell: Make, tmp_path: Path, schedule: str
) -> None:
    target = {"_target_": f"lt_sweeps.sparsity.densities.{schedule}", "sparsity": 0.8}
    rigl = cell(model=CONV, recipe=SGD, method=RIGL, schedule=target)
    stage = plan([rigl]).units[-1].stage
    cut = stage.start.inputs[0]
    assert isinstance(cut, Prune)
    loop, masking = loop_of(last(rigl), Store(tmp_path))
    update, before, moved = loop.update(), masking.mask.clone(), []
    for step in range(16):
        update(step)
        assert tuple(int(n) for n in masking.remaining().values()) == cut.target.keep
        assert not loop.stack.weights[masking.mask == 0].any()
        moved.append(int((masking.mask != before).sum()))
        before = masking.mask.clone()
    assert all(moved[step] > 0 for step in (0, 2, 4, 6))
    assert not any(moved[1::2]) and not any(moved[12:]), "the mask is fixed between and afterwards"


def test_two_sparsities_in_one_stack_keep_their_own_numbers_of_weights(
    cell: Make, run: Run
) -> None:
    asked = (0.5, 0.9)
    cells = [cell(recipe=SGD, method=RIGL, schedule={**ERK, "sparsity": s}) for s in asked]
    made, store = run(*cells)
    first, second = (planned.last for planned in made.cells)
    assert first.group == second.group
    for found in (first, second):
        cut = found.start.inputs[0]
        assert isinstance(cut, Prune)
        end = ticket(found, Seed.of(0), store)
        kept = [int(end.mask[layer.name].sum()) for layer in found.network.layers]
        assert tuple(kept) == cut.target.keep


def test_what_grows_starts_from_zero_without_momentum_and_a_move_takes_the_place_of_a_step(
    cell: Make, tmp_path: Path
) -> None:
    loop, masking = loop_of(last(cell(recipe=SGD, method=RIGL, schedule=ERK)), Store(tmp_path))
    update = loop.update()
    for step in range(4):
        update(step)
    mask, weights = masking.mask.clone(), loop.stack.weights.clone()
    update(4)
    grown, stayed = (masking.mask > mask), (masking.mask * mask) != 0
    assert grown.any() and not loop.stack.weights[grown].any()
    assert not masking.optimizer.tensors["momentum"][grown].any()
    assert torch.equal(loop.stack.weights[stayed], weights[stayed]), "no gradient step was taken"
    update(5)
    assert loop.stack.weights[grown].any()


def test_the_smallest_drop_and_the_largest_gradients_grow() -> None:
    """Of six weights three are active; one moves. The dropped weight may grow back, unchanged."""
    (layer,) = _layers(6)
    rigl = RigL(0.4, begin=0, end=100, every=10)  # int(0.4 * 3) = 1
    for gradient, expected in (
        ([9.0, 9, 0.5, 1, 3, 2], [1, 1, 0, 0, 1, 0]),
        ([9.0, 9, 5.0, 1, 3, 2], [1, 1, 1, 0, 0, 0]),
    ):
        mask = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
        state = TrainingState(
            layers=(layer,),
            weights={"w": torch.tensor([[-3.0, 2, 0.1, 0, 0, 0]])},
            grads={"w": torch.tensor([gradient])},
            mask={"w": mask},
            moments=(),
            seeds=(Seed.of(0),),
        )
        rigl.rewire(state, 0, None)  # type: ignore[arg-type]
        assert mask[0].tolist() == expected


def test_a_diverged_replicate_keeps_its_number_of_weights() -> None:
    (layer,) = _layers(6)
    mask = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    nan = torch.full((1, 6), torch.nan)
    state = TrainingState((layer,), {"w": nan}, {"w": nan}, {"w": mask}, (), (Seed.of(0),))
    RigL(1.0, begin=0, end=100, every=10).rewire(state, 0, None)  # type: ignore[arg-type]
    assert mask.sum() == 3


def test_five_times_as_long_stretches_milestones_and_moves(cell: Make) -> None:
    longer = cell(recipe=SGD, method={**RIGL, "multiplier": 5}, schedule=ERK)
    stage = plan([longer]).units[-1].stage
    assert stage.training.recipe.length == 80 and stage.training.recipe.milestones == (60,)
    assert isinstance(stage.sparsifier, RigL)
    assert stage.sparsifier.end == 60 and stage.sparsifier.every == 2


def test_it_needs_no_dense_network(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe=SGD, method=RIGL, schedule=ERK))
    dense, sparse = made.cells[0].lasts
    assert dense not in ancestors(sparse) and list(made.cells[0].levels.values()) == [0, 1]
    unit = made.units[-1]
    assert not ticket(unit.stage.start, Seed.of(0), store).mask[NAME].all()


@pytest.mark.parametrize(
    ("change", "schedule", "message"),
    [
        ({}, {"scope": "global"}, "method: rigl needs the number of weights in each layer"),
        ({"fraction": 1.5}, {}, "method: fraction=1.5, every=2 steps"),
        ({"end": 1.5}, {}, "method: begin=0, end=1.5; give fractions"),
        ({"begin": 0.5, "end": 0.55}, {}, "begin=0.5, end=0.55 are both step 8 of 16, so the mask"),
        ({"end": 0.05}, {}, "begin=0, end=0.05 are both step 0 of 16"),
        ({"fraction": 0.01}, {}, "fraction=0.01 replaces none of the 38 weights that the largest"),
        (
            {"protocol": "ticket"},
            {},
            "rigl cannot search for tickets, because it trains no",
        ),
        ({"multiplier": 0}, {}, "method.multiplier: 0; give 1 or more"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, schedule: dict, message: str
) -> None:
    one_shot = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.8, **schedule}
    with pytest.raises(ValueError, match=message):
        plan([cell(recipe=SGD, method={**RIGL, **change}, schedule=one_shot)])


def _layers(size: int) -> tuple[Layer]:
    return (Layer("w", (size,), "hidden"),)
