"""Continuous Sparsification: its schedule, its gradients in closed form, its rounds and masks."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from torch import Tensor, tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import snapshot, ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Evaluate, Reset, Train
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.mask_logits import reopened
from lt_sweeps.sparsity.pruning import prune
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Continuous
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

NONE = torch.zeros(0)
RELEASED = Recipe("sgd", 0.1, 128, 85 * 352, 352, 352)  # 85 epochs of 45,000 images
HERE = "lt_sweeps.plan.methods."


def method(name: str = "continuous_sparsification", **options: Any) -> dict:
    return {"_target_": HERE + name, "finetune": "same", **options}


def rows(made: Plan, store: Store, number: int = 0) -> list[dict]:
    cell = made.cells[number]
    records = store.root / "runs" / cell.signature / str(cell.seed) / "records.jsonl"
    return [json.loads(line) for line in records.read_text().splitlines()]


def beta(at: float, **options: Any) -> Tensor:
    return torch.full((1, 1), at, dtype=torch.float64)


def test_beta_rises_by_epochs_to_the_values_of_the_released_script() -> None:
    golden = {
        0: 1,
        1: 1.06511,
        2: 1.13445,
        10: 1.87902,
        28: 5.84804,
        42: 14.14214,
        56: 34.19952,
        71: 88.08830,
        83: 187.77457,
        84: 200,
    }
    for epoch, value in golden.items():
        for step in (352 * epoch, 352 * epoch + 351):
            assert Continuous().temperature(step, RELEASED) == pytest.approx(value, abs=5e-6)


def test_an_epoch_that_is_cut_short_is_the_last_one() -> None:
    cut = replace(RELEASED, length=2 * 352 + 100)
    found = [Continuous().temperature(352 * epoch, cut) for epoch in range(3)]
    assert found == pytest.approx([1, math.sqrt(200), 200])


def test_beta_rises_by_steps_with_the_factor_of_the_papers_curve() -> None:
    soft = Continuous(anneal="step")
    first, second = (soft.temperature(step, RELEASED) for step in (0, 1))
    assert (first, second) == (1, pytest.approx(1.0001771043, abs=1e-10))
    assert soft.temperature(RELEASED.length - 1, RELEASED) == pytest.approx(200)


def test_beta_rises_linearly_or_not_at_all() -> None:
    short = replace(RELEASED, length=5)
    linear, constant = Continuous(anneal="linear", final_beta=9.0), Continuous(anneal="constant")
    assert [linear.temperature(step, short) for step in range(5)] == [1, 3, 5, 7, 9]
    assert {constant.temperature(step, short) for step in range(5)} == {200}


def test_a_scaled_mask_is_1_at_the_start() -> None:
    w = torch.randn(2, 3, 4)
    for s0 in (-0.3, 0.0, 0.2):
        s = torch.full_like(w, s0)
        assert torch.allclose(Continuous(scaled_from=s0).weights(w, s, beta(1.0), NONE), w.double())
    unscaled = Continuous().weights(w, torch.zeros_like(w), beta(1.0), NONE)
    assert torch.allclose(unscaled, w.double() / 2)


@pytest.mark.parametrize("s0", [None, -0.1])
@pytest.mark.parametrize("at", [1.0, 14.2])
def test_gradients_are_the_closed_forms(s0: float | None, at: float) -> None:
    """dL/ds = c beta sigma (1 - sigma) (w dL/dtheta + lambda), dL/dw = M dL/dtheta."""
    torch.manual_seed(0)
    w, s, upstream = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3))
    w.requires_grad_()
    s.requires_grad_()
    soft = Continuous(lmbda=0.03, scaled_from=s0)
    theta, t = soft.weights(w, s, beta(at), NONE), beta(at)
    loss = (theta * upstream).sum() + soft.penalty(w, s, t).sum()
    by_w, by_s = torch.autograd.grad(loss, [w, s])
    c = 1.0 if s0 is None else 1 + math.exp(-s0)
    sigma = torch.sigmoid(at * s)
    torch.testing.assert_close(by_w, c * sigma * upstream)
    torch.testing.assert_close(
        by_s, c * at * sigma * (1 - sigma) * (w * upstream + 0.03), rtol=1e-12, atol=1e-12
    )


def test_the_hard_mask_keeps_what_is_above_0_and_the_scale_of_the_soft_one() -> None:
    w, s = tensor([[3.0, 3, 3]]), tensor([[-0.1, 0, 0.1]])
    assert Continuous().hardened(w, s).tolist() == [[0, 0, 3]]
    assert Continuous(scaled_from=0.0).hardened(w, s).tolist() == [[0, 0, 6]]


def test_sparsity_counts_s_and_not_the_zeros_of_a_soft_mask() -> None:
    """At beta 200 a soft mask is exactly 0 in float32 only from about s = -0.44 on."""
    soft = torch.sigmoid(200 * tensor([-0.43, -0.45]))
    assert (soft == 0).tolist() == [False, True]
    assert Continuous().density(torch.ones(1, 2), tensor([[-0.43, -0.45]])).sum() == 0


def test_a_round_reopens_survivors_and_keeps_the_suppressed_where_they_were() -> None:
    s = tensor([-0.1, 3.0, 0.0])
    assert reopened(s, beta=200.0, highest=0.0).tolist() == [-20, 0, 0]
    assert reopened(s, beta=200.0, highest=0.05).tolist() == [-20, tensor(0.05).item(), 0]
    assert reopened(s, beta=1.0, highest=0.0).tolist() == [tensor(-0.1).item(), 0, 0]


@pytest.mark.parametrize("round_reset", ["paper", "released"])
def test_a_second_round_goes_on_with_the_weights_of_the_first(
    cell: Make, run: Run, round_reset: str
) -> None:
    made, store = run(cell(method=method(rounds=2, s0=0.01, round_reset=round_reset)))
    first, second = (s for s in made.cells[0].trainings if s.sparsifier.learns)
    ended, started = ticket(first, Seed.of(0), store), ticket(second.start, Seed.of(0), store)
    name, factor = "hidden.0.weight", 200 if round_reset == "paper" else 1
    assert torch.equal(ended.state[name], started.state[name])
    expected = (factor * ended.learned[name]).clamp(max=0.01)
    assert torch.equal(started.learned[name], expected)
    results = [row["level"] for row in rows(made, store) if row["kind"] == "train"]
    assert started.step == 0 and results == [0, 1, 2]


@pytest.mark.parametrize("keep", [True, False])
def test_a_second_round_goes_on_with_the_momentum_of_weights_and_s(
    cell: Make, run: Run, keep: bool
) -> None:
    """The first step of a round is computed by hand from the momentum of the round before."""
    asked = method(rounds=2, keep_momentum=keep)
    recipe = {**SGD, "lr": 0.1, "momentum": 0.9, "nesterov": False, "milestones": []}
    made, store = run(cell(method=asked, recipe=recipe))
    first, second = (s for s in made.cells[0].trainings if s.sparsifier.learns)
    start = ticket(second.start, Seed.of(0), store)
    assert bool(start.optimizer) == second.start.has_momentum == keep
    loops = []
    for momentum in (start.optimizer, {}):
        loop = TrainingLoop([Unit(second, Seed.of(0))], store, Machine(), moments=[frozenset()])
        loop.start(replace(start, optimizer=momentum))
        loop.update()(0)
        loops.append(loop.masking.ticket(loop.masking.trained, 1))
    kept, fresh = loops
    name = "hidden.0.weight"
    if not keep:
        assert torch.equal(kept.learned[name], fresh.learned[name])
        return
    ended = snapshot(first, first.step, Seed.of(0), store).optimizer
    for moment, after, without in (
        (f"momentum/{name}", kept.state, fresh.state),
        (f"logits/momentum/{name}", kept.learned, fresh.learned),
    ):
        assert ended[moment].any()
        torch.testing.assert_close(after[name], without[name] - 0.1 * 0.9 * ended[moment])


def test_momentum_between_rounds_counts_in_the_key_and_only_from_the_second_round_on(
    cell: Make,
) -> None:
    made = plan([cell(method=method(rounds=2, keep_momentum=keep)) for keep in (True, False)])
    (one, two), (other, another) = (
        [s.key for s in c.trainings if s.sparsifier.learns] for c in made.cells
    )
    assert one == other and two != another


def test_a_pruned_network_starts_with_the_function_that_the_search_ended_with(
    cell: Make, run: Run
) -> None:
    """Without batch norm the mask's scale matters, so kept weights are multiplied by it."""
    made, store = run(cell(method=method(s0=0.02)))
    _, search, last = made.cells[0].trainings
    ended, start = (ticket(each, Seed.of(0), store) for each in (search, last.start))
    for name, s in ended.learned.items():
        assert torch.equal(start.mask[name], s > 0)
        expected = ended.state[name] * (1 + math.exp(-0.02)) * (s > 0)
        assert torch.allclose(start.state[name], expected)


@pytest.mark.parametrize("origin", ["search", "dense"])
def test_a_ticket_is_the_mask_on_early_weights_and_trains_the_whole_recipe(
    cell: Make, run: Run, origin: str
) -> None:
    asked = method(protocol="ticket", to="5it", restart=True, origin=origin)
    made, store = run(cell(method=asked, model=CONV))
    last = made.cells[0].last
    assert isinstance(last.start, Reset)
    begun = last.start.origin
    assert isinstance(begun, Train)
    assert begun.sparsifier.learns == (origin == "search")
    early, start = snapshot(begun, 5, Seed.of(0), store), ticket(last.start, Seed.of(0), store)
    assert (last.start.step, last.length) == (0, begun.length), "it restarts the recipe"
    for name, kept in start.mask.items():
        assert torch.equal(start.state[name], early.state[name] * kept)
    assert torch.equal(start.state["norm.running_mean"], early.state["norm.running_mean"])
    on = plan([cell(method={**asked, "restart": False}, model=CONV)]).cells[0].last
    assert on.length == begun.length - 5


def test_soft_and_hard_accuracy_are_both_recorded(cell: Make, run: Run) -> None:
    """At s0 = 0 only the gradient moves s away from 0, so about half of the weights are kept."""
    made, store = run(cell(method=method()))
    _, search, trained = rows(made, store)
    assert search["kind"] == "search" and trained["kind"] == "train"
    assert search["hard_test_accuracy"] is not None and search["test_accuracy"] is not None
    assert trained["hard_test_accuracy"] is None
    assert 0.2 < search["sparsity"] == trained["sparsity"] < 0.8


def test_a_higher_s0_is_denser(cell: Make, run: Run) -> None:
    made, store = run(*(cell(method=method(s0=s0)) for s0 in (-0.05, 0.0, 0.05)))
    found = [rows(made, store, number)[-1]["sparsity"] for number in range(3)]
    assert found[0] > found[1] > found[2]


def test_exact_sparsities_share_one_search_and_are_exact(cell: Make, run: Run) -> None:
    schedule = {"_target_": "lt_sweeps.sparsity.schedules.sparsities", "sparsity": [0.5, 0.8, 0.95]}
    asked = method("exact_continuous_sparsification", finetune=None)
    made, store = run(cell(method=asked, schedule={**schedule, "scope": "global"}))
    assert len([s for s in made.cells[0].trainings if s.sparsifier.learns]) == 1
    assert all(isinstance(last, Evaluate) for last in made.cells[0].lasts[1:])
    total = 16 * 12 + 12 * 8 + 8 * 4
    found = [row["weights_remaining"] for row in rows(made, store) if row["kind"] == "score"]
    assert found == [round(total * (1 - s)) for s in (0.5, 0.8, 0.95)]


def test_equal_s_are_ordered_by_magnitude_and_the_count_is_exact() -> None:
    layer = (Layer("a", (8,), "hidden"),)
    logits = {"a": tensor([[0.0, 0, 0, 0, 0, 0, -1, 1]])}
    final = {"a": tensor([[1.0, -6, 2, 5, -3, 4, 9, 0.1]])}
    criterion = Call("lt_sweeps.sparsity.criteria.large_logit")
    whole = {"a": torch.ones(1, 8, dtype=torch.bool)}
    mask = prune(
        whole,
        Target("global", (3,), 0.6),
        criterion,
        {"logits": logits, "final": final},
        layers=layer,
        seed=Seed(0),
        level=1,
    )
    assert mask["a"][0].nonzero().flatten().tolist() == [1, 3, 7]


def test_beta_1_is_another_search(cell: Make) -> None:
    exact = "exact_continuous_sparsification"
    asked = [method(exact), method(exact, anneal="constant", final_beta=1.0)]
    annealed, ablated = (plan([cell(method=each)]).cells[0].trainings[1] for each in asked)
    assert annealed != ablated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmbda": -1e-8}, "method: lmbda=-1e-08; give 0 or more"),
        ({"final_beta": 0.5}, "method: final_beta=0.5; beta rises from 1"),
        ({"final_beta": 0.0, "anneal": "constant"}, "method: final_beta=0.0; beta rises"),
        ({"mask_lr": 0.0}, "method: mask_lr=0.0; give a positive"),
        (
            {"s0": -2000.0},
            "method: s0=-2000; .* sigmoid.s0., which is 0 in float32; give -87 or more",
        ),
        ({"rounds": 0}, "method: rounds=0; give 1 or more"),
        ({"anneal": "cosine"}, "method.anneal: got 'cosine'; give one of epoch, step, linear"),
        ({"protocol": "ticket", "to": "3ep"}, "reset.to: 3ep is the end of the training"),
        ({"finetune": {"lenght": "2ep"}}, "method.finetune: .*takes no lenght"),
    ],
)
def test_an_argument_out_of_range_is_refused_when_the_plan_is_made(
    cell: Make, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(method=method(**options))])


def test_an_unreachable_sparsity_is_refused(cell: Make) -> None:
    schedule = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.999}
    with pytest.raises(ValueError, match="schedule: level 1 .sparsity 0.999. leaves nothing of"):
        plan([cell(method=method("exact_continuous_sparsification"), schedule=schedule)])
