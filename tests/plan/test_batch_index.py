"""The batches of a training: new ones if it continues weights that have seen some already."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages import Reset, Train, Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
HERE = "lt_sweeps.plan.methods."
FINE = {"finetune": {"length": "2ep"}}
CONTINUED: dict[str, dict[str, Any]] = {
    "imp_continued": {},
    "renda": {"retrain": "2ep"},
    "magnitude": FINE,
    "gmp": {"every": "3it", **FINE},
    "l0": {"mask": "none", **FINE},
    "amc": {"episodes": 4, "warmup": 2, **FINE},
    "slimming": FINE,
    "soft_threshold": FINE,
    "continuous_sparsification": {"rounds": 3, **FINE},
}


def trainings(cell: Cell) -> list[Train]:
    return [stage for stage in plan([cell]).cells[0].trainings if isinstance(stage, Train)]


def weights_of(stage: Train) -> Iterator[Work]:
    """The trainings that have changed a training's starting weights, the latest first."""
    start = stage.start
    while start.continues:
        before = start.trained if isinstance(start, Reset) else start.inputs[0]
        if isinstance(before, Train):
            yield before
        assert isinstance(before, Work)
        start = before.start


@pytest.mark.parametrize("order", ["same", "fresh"])
@pytest.mark.parametrize("name", CONTINUED)
def test_weights_never_see_the_same_batches_in_the_same_order_again(
    cell: Make, name: str, order: str
) -> None:
    method = {"_target_": HERE + name, **CONTINUED[name]}
    made = trainings(cell(model=CONV, recipe={**SGD, "order": order}, method=method))
    gone_on = [stage for stage in made if stage.start.continues]
    assert gone_on, "the method continues no weights"
    for stage in gone_on:
        chain = [stage, *weights_of(stage)]
        assert len({work.batch_index for work in chain}) == len(chain) > 1
        assert len({work.noise_index for work in chain}) == len(chain), "dropout"


def test_the_loop_draws_other_batches_and_crops_for_a_training_that_goes_on(
    cell: Make, tmp_path
) -> None:
    recipe = {**SGD, "augment": "crop_flip"}
    dense, tuned = trainings(cell(recipe=recipe, method={"_target_": HERE + "magnitude"}))
    drawn = []
    for stage in (dense, tuned):
        seed = plan([cell()]).cells[0].seed
        loop = TrainingLoop([Unit(stage, seed)], Store(tmp_path), Machine(), moments=[frozenset()])
        drawn.append(loop.batches.index(0)[0])
    assert not torch.equal(drawn[0][:, 0], drawn[1][:, 0]), "the images"
    assert not torch.equal(drawn[0][:, 1:], drawn[1][:, 1:]), "the crops"


@pytest.mark.parametrize(
    "method",
    [
        {"_target_": HERE + "imp"},
        {"_target_": HERE + "renda", "mode": "weight_rewind", "retrain": "2ep"},
        {"_target_": HERE + "imp_continued", "protocol": "ticket"},
        {"_target_": HERE + "continuous_sparsification", "protocol": "ticket"},
    ],
)
def test_a_ticket_of_early_weights_sees_the_batches_of_the_dense_run(
    cell: Make, method: dict
) -> None:
    """It is compared with the dense run, so they must not differ in their data order."""
    dense, *_, last = trainings(cell(recipe=SGD, method=method))
    assert dense.batch_index == last.batch_index == ()


def test_only_trainings_that_go_on_have_another_key(cell: Make) -> None:
    made = trainings(cell(method={"_target_": HERE + "imp_continued"}))
    assert ["again" in stage.fields() for stage in made] == [False, True, True]
    assert not any("again" in stage.fields() for stage in trainings(cell()))
