"""Learning-rate schedules equal those of torch, and user-defined ones work in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from lt_sweeps.config.recipes import Recipe, recipe

STEPS = 40
TORCH: Mapping[str, tuple[Any, Callable[[torch.optim.Optimizer], Any]]] = {
    "linear": ("linear", lambda sgd: lr_scheduler.LinearLR(sgd, 1.0, 1e-9, STEPS)),
    "polynomial": (
        {"_target_": "lt_sweeps.config.decays.polynomial", "power": 1.5},
        lambda sgd: lr_scheduler.PolynomialLR(sgd, STEPS, 1.5),
    ),
    "one_cycle": (
        "one_cycle",
        lambda sgd: lr_scheduler.OneCycleLR(sgd, 0.5, STEPS, cycle_momentum=False),
    ),
}


def made(**keys: Any) -> Recipe:
    return recipe(100, **{"optimizer": "sgd", "lr": 0.5, "batch_size": 10, "length": "4ep"} | keys)


@pytest.mark.parametrize("name", TORCH)
def test_a_schedule_is_that_of_torch(name: str) -> None:
    decay, scheduler = TORCH[name]
    sgd = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = scheduler(sgd)
    for step in range(STEPS):
        lr = sgd.param_groups[0]["lr"]
        assert made(decay=decay).lr_at(step) == pytest.approx(lr, rel=1e-9, abs=1e-8)
        sgd.step()
        theirs.step()


def test_a_trapezoid_rises_stays_and_falls() -> None:
    decay = {"_target_": "lt_sweeps.config.decays.trapezoidal", "rise": 0.25, "fall": 0.5}
    rates = [made(decay=decay).lr_at(step) / 0.5 for step in range(STEPS)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert set(rates[9:21]) == {1.0}
    assert rates[20:] == pytest.approx([n / 20 for n in range(20, 0, -1)])
    triangle = [made(decay="triangular").lr_at(step) / 0.5 for step in range(STEPS)]
    assert triangle.index(max(triangle)) == 11 and triangle[0] == pytest.approx(1 / 12)


def test_a_schedule_begins_where_the_warmup_ends() -> None:
    warmed = made(decay="linear", warmup="1ep")
    assert [warmed.lr_at(step) for step in (4, 9, 10, 25)] == [0.25, 0.5, 0.5, 0.25]


def test_a_schedule_counts_with_its_arguments() -> None:
    plain, own = made(decay="linear"), {"_target_": "lt_sweeps.config.decays.linear", "end": 0.0}
    assert plain.identity() == made(decay=own).identity()
    assert plain.identity() != made(decay={**own, "end": 0.1}).identity()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"decay": {"_target_": "math.log", "base": 2}}, "`math.log` is built into Python"),
        ({"decay": {"_target_": "fixtures.schedules.below"}}, r"gives -1.0 at step 0 of 40"),
        ({"decay": {"_target_": "fixtures.schedules.text"}}, r"gives 'high' at step 0 of 40"),
        ({"decay": "one_cycle", "milestones": ["1ep"]}, "decay=one_cycle has no milestones"),
        ({"clip": {"norm": 0}}, r"recipe.clip: got norm: 0; give \{norm: 1.0\}"),
        ({"clip": {"size": 1}}, "recipe.clip: got"),
        ({"clip": {"norm": 1, "value": 1}}, "recipe.clip: got"),
        ({"augment": []}, "recipe.augment: got an empty list"),
    ],
)
def test_a_wrong_schedule_clip_or_augmentation_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**keys)


CALLS: list[int] = []


def counts_its_calls(step: int) -> float:
    CALLS.append(step)
    return 1 / len(CALLS)


def test_a_schedule_that_counts_its_calls_is_refused() -> None:
    own = {"_target_": f"{__name__}.counts_its_calls"}
    with pytest.raises(ValueError, match="recipe.decay: counts_its_calls.* from the step alone"):
        recipe(64, optimizer="sgd", lr=0.1, batch_size=8, length="2ep", decay=own)


def test_a_rate_below_0_is_refused_at_its_step_at_the_latest() -> None:
    own = {"_target_": "fixtures.schedules.dips"}
    dips = recipe(64, optimizer="sgd", lr=0.1, batch_size=8, length="400it", decay=own)
    assert dips.lr_at(150) == 0.1
    with pytest.raises(ValueError, match="recipe.decay: dips.* gives -1.0 at step 151 of 400"):
        dips.lr_at(151)
