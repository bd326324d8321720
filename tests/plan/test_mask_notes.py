"""The notes on methods that change their mask too rarely or too little, and the steps they count.

A tiny training has 12 steps in 3 epochs.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import SGD

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.recipes import recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity.sparsifiers import Gradual, RigL, Sparsifier
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
HALF = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}


def method(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"lt_sweeps.plan.methods.{name}", **options}


@pytest.mark.parametrize(
    ("options", "often"),
    [
        (method("rigl"), "only once, at step 0 in"),
        (method("rigl", every="4it"), "3 times in"),
        (method("gmp"), "only once, at step 9 in"),
        (method("gmp", every="3it"), "3 times in"),
    ],
)
def test_a_plan_says_how_rarely_a_mask_is_updated(cell: Make, options: dict, often: str) -> None:
    made = plan([cell(method=options, schedule=HALF)])
    assert made.notes == (
        f"method changes its mask {often} a training of 12 steps, and its paper does so hundreds "
        "of times; give a shorter method.every or a longer recipe",
    )
    count = 1 if "once" in often else 3
    assert str(made.cells[0].last).endswith(f"): {count} mask update{'s' * (count > 1)}")


@pytest.mark.parametrize("name", ["rigl", "gmp"])
def test_five_mask_updates_need_no_note(cell: Make, name: str) -> None:
    options = method(name, every="2it", begin=0.0, end=0.65)  # step 10 of 16
    assert plan([cell(method=options, schedule=HALF, recipe=SGD)]).notes == ()


@pytest.mark.parametrize(
    ("begin", "end", "every"), [(0, 40, 100), (3, 17, 4), (2, 8, 3), (0, 1, 1)]
)
def test_the_updates_are_the_steps_at_which_the_mask_may_change(
    begin: int, end: int, every: int
) -> None:
    """Gradual pruning keeps all weights at `begin`, so this step is none of them."""
    rigl, gradual = RigL(0.3, begin, end, every), Gradual("global", (10,), begin, end, every)
    assert list(rigl.mask_updates) == _acting(rigl)
    left = [gradual.remaining(10**6, 10, step) for step in (begin, *gradual.mask_updates)]
    assert left[0] == 10**6 and left[-1] == 10
    assert all(fewer < more for more, fewer in pairwise(left))
    assert [begin, *gradual.mask_updates] == _acting(gradual)


def test_continuous_sparsification_says_in_how_few_epochs_beta_rises(cell: Make) -> None:
    soft = method("continuous_sparsification", final_beta=100.0)
    assert plan([cell(method=soft)]).notes == (
        "method raises beta from 1 to 100 in only 3 epochs; its paper has 85 or more; give a "
        "longer recipe, or method.anneal=step",
    )
    assert plan([cell(method={**soft, "anneal": "step"})]).notes == ()


@pytest.mark.parametrize(
    ("length", "anneal"), [("1ep", "epoch"), ("3it", "epoch"), ("1it", "step")]
)
def test_a_beta_that_does_not_rise_is_refused(cell: Make, length: str, anneal: str) -> None:
    soft = method("continuous_sparsification", anneal=anneal)
    short = {**SGD, "length": length, "evaluate_every": "1it", "milestones": []}
    with pytest.raises(ValueError, match=f"method: anneal={anneal} over . steps.*beta at final_be"):
        plan([cell(method=soft, recipe=short)])
    plan([cell(method={**soft, "anneal": "constant"}, recipe=short)])


def test_thresholds_that_stay_too_low_to_prune_are_named(cell: Make, run: Run) -> None:
    """Adam raises s by the learning rate in each step: 12 times 0.01."""
    options = method("soft_threshold", threshold_decay=0.01, finetune=None)
    made, store = run(cell(method=options))
    (note,) = made.notes
    assert "method prunes nothing: weight decay raises s from -100 to about -99.9 in 12" in note
    search = ticket(made.cells[0].trainings[1], Seed.of(0), store)
    assert all(bool(mask.all()) for mask in search.mask.values())
    s = torch.cat([logits.flatten() for logits in search.learned.values()])
    assert s.tolist() == pytest.approx([-99.88] * len(s), abs=0.01)


def test_thresholds_that_weight_decay_raises_need_no_note(cell: Make) -> None:
    """With sgd, s decays to about -100 exp(-16 decay / (1 - 0.9)) in 16 steps at rate 1."""
    weak, strong = (method("soft_threshold", threshold_decay=decay) for decay in (0.003, 0.01))
    rate_1 = {**SGD, "lr": 1.0, "milestones": []}
    (note,) = plan([cell(method=weak, recipe=rate_1)]).notes
    assert "to about -61.9 in 16 steps" in note
    assert plan([cell(method=strong, recipe=rate_1)]).notes == ()
    assert plan([cell(method=method("soft_threshold", s_init=-5.0))]).notes == ()


def test_gates_that_adam_cannot_close_are_named(cell: Make, run: Run) -> None:
    made, store = run(cell(method=method("l0", lmbda=1.0, finetune=None)))
    assert made.notes == (
        "method closes no gate: adam moves log alpha by about 0.12 in 12 steps, from 0, and a gate "
        "closes below -2.4; give a higher method.mask_lr or method.droprate, or a longer recipe",
    )
    search = ticket(made.cells[0].trainings[1], Seed.of(0), store)
    assert all(bool(mask.all()) for mask in search.mask.values())
    assert plan([cell(method=method("l0", mask_lr=30.0))]).notes == ()


def test_a_gamma_without_milestones_is_named(cell: Make) -> None:
    words = ("recipe.gamma: 0.5 does nothing without recipe.milestones",)
    assert plan([cell(recipe__gamma=0.5)]).notes == words
    assert plan([cell(recipe__gamma=0.5, recipe__milestones=["1ep"])]).notes == ()


def _acting(sparsifier: Sparsifier) -> list[int]:
    keys = {"optimizer": "adam", "lr": 0.1, "batch_size": 10, "length": "500it"}
    training = recipe(100, evaluate_every="10it", **keys)  # pyright: ignore[reportArgumentType]
    return [step for step in range(500) if sparsifier.acts(step, training)]
