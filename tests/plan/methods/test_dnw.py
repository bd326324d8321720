"""DNW: the largest weights in the forward pass, a gradient for all weights, exact counts."""

from collections.abc import Callable

import pytest
import torch
from torch import tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity.sparsifiers import StraightThrough
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
NONE = torch.zeros(0)
ONE_SHOT = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.75}


def method(**options: object) -> dict:
    return {"_target_": "lt_sweeps.plan.methods.dnw", "finetune": "same", **options}


def test_the_largest_half_computes_and_all_weights_have_a_gradient() -> None:
    w = tensor([[3.0, -1, 2, -4]], requires_grad=True)
    made = StraightThrough(0.5).weights(w, NONE, NONE, NONE)
    assert made.tolist() == [[3, 0, 0, -4]]
    upstream = tensor([[1.0, 2, 3, 4]])
    assert torch.equal(torch.autograd.grad((made * upstream).sum(), w)[0], upstream)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9])
def test_counts_are_exact_whatever_the_ties(sparsity: float) -> None:
    kept = StraightThrough(sparsity).keeps(torch.ones(3, 4, 5), NONE)
    assert kept.flatten(1).sum(1).tolist() == [round(20 * (1 - sparsity))] * 3


def test_a_weight_that_was_left_out_goes_on_training(cell: Make, run: Run) -> None:
    made, store = run(cell(method=method(), schedule=ONE_SHOT))
    search = made.cells[0].trainings[1]
    began, ended = (ticket(each, Seed.of(0), store) for each in (search.start, search))
    w, then = began.state["hidden.0.weight"], ended.state["hidden.0.weight"]
    kept, moved = StraightThrough(0.75).keeps(w, NONE), w != then
    alive = (moved & kept).any(2)  # units that any gradient got to
    assert (~kept)[alive].any() and moved[alive].all()
    mask = ticket(made.cells[0].last, Seed.of(0), store).mask
    assert {name: int(kept.sum()) for name, kept in mask.items()} == {
        "hidden.0.weight": 48,
        "hidden.1.weight": 24,
        "output.weight": 8,
    }


@pytest.mark.parametrize(
    "schedule",
    [
        {**ONE_SHOT, "scope": "global"},
        {"_target_": "lt_sweeps.sparsity.schedules.geometric", "levels": 2, "hidden": 0.4},
    ],
)
def test_layers_that_keep_different_fractions_are_refused(cell: Make, schedule: dict) -> None:
    with pytest.raises(ValueError, match="schedule: dnw keeps the same fraction of every layer"):
        plan([cell(method=method(), schedule=schedule)])


def test_it_claims_no_tickets(cell: Make) -> None:
    with pytest.raises(ValueError, match="dnw cannot search for tickets, because its mask changes"):
        plan([cell(method=method(protocol="ticket"), schedule=ONE_SHOT)])
