"""IMP-Continued and rewinding: which weights are retrained after pruning, and at which rates."""

from collections.abc import Callable

import pytest
import torch
from fixtures.tiny_cell import SGD

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import snapshot, ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity.schedules import geometric
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

RENDA = {"_target_": "lt_sweeps.plan.methods.renda", "retrain": "6it"}
CONTINUED = {"_target_": "lt_sweeps.plan.methods.imp_continued"}
ONE = Seed.of(0)
NAME = "hidden.0.weight"


def rates(stage) -> list[float]:
    """The learning rate at every step of a training."""
    recipe = stage.training.recipe
    return [recipe.lr_at(step) for step in range(stage.start.step, recipe.length)]


@pytest.mark.parametrize(
    ("mode", "at", "expected"),
    [
        ("finetune", 16, [0.005] * 6),
        ("weight_rewind", 10, [0.05, 0.05] + [0.005] * 4),
        ("lr_rewind", 16, [0.05, 0.05] + [0.005] * 4),
        ("low_lr_rewind", 10, [0.005] * 6),
    ],
)
def test_each_mode_goes_on_with_its_weights_at_its_rates(
    cell: Make, run: Run, mode: str, at: int, expected: list[float]
) -> None:
    """16 steps, the last four at a tenth of the rate; then six steps of retraining."""
    made, store = run(cell(recipe=SGD, method={**RENDA, "mode": mode}, schedule__levels=2))
    dense, first, second = (unit.stage for unit in made.units)
    for stage in (first, second):
        assert rates(stage) == pytest.approx(expected)
    start = ticket(first.start, ONE, store)
    then = snapshot(dense, "end" if at == 16 else at, ONE, store)
    assert torch.equal(start.state["output.bias"], then.state["output.bias"])
    kept = start.mask[NAME]
    assert torch.equal(start.state[NAME][kept], then.state[NAME][kept])
    assert (start.state[NAME][~kept] == 0).all() and not kept.all()
    before = snapshot(dense, at, ONE, store).optimizer[f"momentum/{NAME}"]
    assert torch.equal(start.optimizer[f"momentum/{NAME}"], before) and before.any()
    again = ticket(second.start, ONE, store)
    came = then if at == 10 else ticket(first, ONE, store)
    kept = again.mask[NAME]
    assert torch.equal(again.state[NAME][kept], came.state[NAME][kept])


def test_weights_rewound_to_the_start_have_no_momentum(cell: Make, run: Run) -> None:
    method = {**RENDA, "mode": "weight_rewind", "retrain": None}
    made, store = run(cell(recipe=SGD, method=method, schedule__levels=1))
    assert not ticket(made.units[-1].stage.start, ONE, store).optimizer


def test_reinitialised_weights_train_at_the_rewound_rates(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe=SGD, method={**RENDA, "mode": "reinit"}, schedule__levels=1))
    dense, sparse = (unit.stage for unit in made.units)
    start, drawn = ticket(sparse.start, ONE, store), snapshot(dense, "start", ONE, store)
    kept = start.mask[NAME]
    assert rates(sparse) == pytest.approx([0.05, 0.05] + [0.005] * 4)
    assert not (start.state[NAME][kept] == drawn.state[NAME][kept]).any()
    assert torch.equal(start.state["output.bias"], drawn.state["output.bias"])


def test_learning_rate_rewinding_keeps_the_momentum_of_what_is_kept(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe=SGD, method=RENDA, schedule__levels=2))
    dense, first, second = (unit.stage for unit in made.units)
    for before, after in ((dense, first), (first, second)):
        start, end = ticket(after.start, ONE, store), snapshot(before, 16, ONE, store)
        assert start.step == 10 and end.step == 16
        moments = start.optimizer[f"momentum/{NAME}"]
        assert torch.equal(moments, end.optimizer[f"momentum/{NAME}"]) and moments.any()
        assert torch.equal(end.state[NAME], ticket(before, ONE, store).state[NAME])


def test_one_shot_cuts_once_to_the_last_sparsity(cell: Make) -> None:
    made = plan([cell(recipe=SGD, method={**RENDA, "iterative": False}, schedule__levels=5)])
    assert [unit.stage.level for unit in made.units] == [0, 1]
    assert "to sparsity 0.6723" in str(made.units[1].stage.start.inputs[0])


def test_rewinding_over_the_whole_recipe_is_rewinding_to_the_initialisation(cell: Make) -> None:
    rewound = cell(recipe=SGD, method={**RENDA, "mode": "weight_rewind", "retrain": None})
    assert plan([rewound]).cells[0].last.start == plan([cell(recipe=SGD)]).cells[0].last.start


def test_imp_continued_goes_on_from_the_trained_weights_for_the_whole_recipe(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(recipe=SGD, method=CONTINUED, schedule__levels=2))
    first, second = (unit.stage for unit in made.units[1:])
    start, came = ticket(second.start, ONE, store), ticket(first, ONE, store)
    kept = start.mask[NAME]
    assert rates(second) == pytest.approx([0.05] * 12 + [0.005] * 4)
    assert torch.equal(start.state[NAME][kept], came.state[NAME][kept])
    assert set(made.cells[0].levels.values()) == {0, 1, 2}


@pytest.mark.parametrize(("restart", "step"), [(False, 8), (True, 0)])
def test_a_ticket_of_imp_continued_has_its_mask_on_the_dense_run_s_early_weights(
    cell: Make, run: Run, restart: bool, step: int
) -> None:
    """This holds at every level: the search continues its own weights, not those of the ticket."""
    method = {**CONTINUED, "protocol": "ticket", "to": "2ep", "restart": restart}
    made, store = run(cell(recipe=SGD, method=method, schedule__levels=3))
    dense, *tickets = made.cells[0].lasts
    early = snapshot(dense, 8, ONE, store)
    search = plan([cell(recipe=SGD, method=CONTINUED, schedule__levels=3)]).cells[0].trainings
    for found, trained in zip(tickets, search[1:], strict=True):
        start = ticket(found.start, ONE, store)
        kept = start.mask[NAME]
        assert start.step == step
        assert torch.equal(kept, ticket(trained.start, ONE, store).mask[NAME])
        assert torch.equal(start.state[NAME][kept], early.state[NAME][kept])
    assert len(made.units) == 1 + 3 + 2, "the last level needs no further search"


def test_tickets_of_a_learned_mask_and_of_a_criterion_train_in_one_stack(
    cell: Make, run: Run
) -> None:
    learned = "lt_sweeps.plan.methods.continuous_sparsification"
    methods = (CONTINUED, {"_target_": learned, "finetune": "same"})
    made, store = run(*(cell(recipe=SGD, method=m, schedule__levels=1) for m in methods))
    first, second = (planned.last for planned in made.cells)
    assert first.group == second.group
    assert not ticket(second.start, ONE, store).learned


def test_twenty_percent_a_level_leaves_one_less_a_power_of_point_eight() -> None:
    layers = (Layer("a", (200_000,), "conv"), Layer("b", (67_696,), "conv"))
    targets = geometric(layers, levels=30, scope="global")
    golden = {5: 0.6723, 10: 0.8926, 12: 0.9313, 15: 0.9648, 20: 0.9885, 25: 0.9962, 30: 0.99876}
    for level, sparsity in golden.items():
        assert 1 - targets[level - 1].keep[0] / 267_696 == pytest.approx(sparsity, abs=6e-5)


def test_a_sparsity_takes_as_many_rounds_of_twenty_percent_as_logarithms_say() -> None:
    layers = (Layer("a", (267_696,), "conv"),)
    golden = {0.755: 7, 0.86: 9, 0.893: 11, 0.95: 14, 0.98: 18, 0.99: 21, 0.996: 25}
    rounds = {s: len(geometric(layers, sparsity=s, scope="global")) for s in golden}
    assert rounds == golden
    assert (85 * rounds[0.893], 85 * rounds[0.996]) == (935, 2125)  # epochs of the search


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({**RENDA, "mode": "rewind"}, "method.mode: got 'rewind'; give one of finetune, weight_"),
        ({**RENDA, "retrain": "99ep"}, "method.retrain: 99ep is step 396; give 1 to 16 steps"),
        ({**RENDA, "retrain": "0it"}, "method.retrain: 0it is step 0; give 1 to 16"),
        ({**RENDA, "mode": "finetune", "finetune_lr": -1.0}, "recipe.lr: got -1.0; give a"),
        ({**CONTINUED, "protocol": "tickets"}, "method.protocol: got 'tickets'; give one of"),
        ({**CONTINUED, "protocol": "ticket", "to": "4ep"}, "reset.to: 4ep is the end of the tra"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, method: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(recipe=SGD, method=method)])


def test_a_reset_past_the_recipe_s_end_leaves_nothing_to_train(cell: Make) -> None:
    late = {"_target_": "lt_sweeps.sparsity.resets.keep", "at": "4ep"}
    with pytest.raises(ValueError, match="step 16 of a recipe of 16 steps; nothing would be left"):
        plan([cell(recipe=SGD, reset=late)])
