"""L0: the hard concrete distribution against published values, its gradient, its masks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV
from torch import tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Train
from lt_sweeps.sparsity.sparsifiers import HardConcrete
from lt_sweeps.sparsity.sparsifiers.hard_concrete import BETA, fixed_gate, gate, open_chance
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]


def method(**options: Any) -> dict:
    return {"_target_": "lt_sweeps.plan.methods.l0", "finetune": "same", **options}


def test_chances_and_test_gates_are_those_of_the_table() -> None:
    golden = {
        -4: (0.083066, 0),
        -2: (0.400975, 0.043044),
        0: (0.831822, 0.5),
        2: (0.973367, 0.956956),
        4: (0.996311, 1),
    }
    for log_alpha, (open_, value) in golden.items():
        at = tensor([float(log_alpha)], dtype=torch.float64)
        assert open_chance(at).item() == pytest.approx(open_, abs=5e-7)
        assert fixed_gate(at).item() == pytest.approx(value, abs=5e-7)


def test_a_test_gate_is_closed_below_minus_log_11_and_open_above_log_11() -> None:
    edge = math.log(11)
    assert edge == pytest.approx(2.397895, abs=1e-6)
    outside, inside = tensor([-edge - 1e-4, edge + 1e-4]), tensor([-edge + 1e-4, edge - 1e-4])
    assert fixed_gate(outside).tolist() == [0, 1]
    assert (fixed_gate(inside) > 0).all() and (fixed_gate(inside) < 1).all()


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 1.5])
def test_draws_are_open_as_often_as_the_formula_says(log_alpha: float) -> None:
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    drawn = gate(torch.full_like(noise, log_alpha), noise)
    expected = open_chance(tensor(log_alpha)).item()
    error = math.sqrt(expected * (1 - expected) / len(noise))
    assert (drawn > 0).double().mean().item() == pytest.approx(expected, abs=4 * error)
    assert drawn.min() >= 0 and drawn.max() <= 1


def test_gradients_are_the_closed_forms() -> None:
    """dz/da = (zeta - gamma) s (1 - s) / beta if 0 < z < 1; dP/da = P (1 - P)."""
    torch.manual_seed(0)
    w, a, upstream = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3))
    noise = torch.rand(2, 3, 4, dtype=torch.float64)
    w.requires_grad_()
    a.requires_grad_()
    gates, none = HardConcrete(lmbda=0.02, l2=0.3), torch.zeros(0)
    loss = (gates.weights(w, a, none, noise) * upstream).sum() + gates.penalty(w, a, none).sum()
    by_w, by_a = torch.autograd.grad(loss, [w, a])
    u = 1e-6 + (1 - 2e-6) * noise
    s = torch.sigmoid((u.log() - (1 - u).log() + a) / BETA)
    z, p = (1.2 * s - 0.1).clamp(0, 1), torch.sigmoid(a - BETA * math.log(0.1 / 1.1))
    slope = torch.where((z > 0) & (z < 1), 1.2 * s * (1 - s) / BETA, 0.0)
    assert ((z == 0) | (z == 1)).any() and (slope > 0).any()
    torch.testing.assert_close(by_w, z * upstream + 0.3 * w * p)
    torch.testing.assert_close(
        by_a, w * upstream * slope + (0.02 + 0.15 * w.square()) * p * (1 - p)
    )


def test_a_channel_is_an_output_map_of_a_convolution_and_an_input_of_a_linear_layer() -> None:
    gates, conv, linear = (
        HardConcrete(grain="channel"),
        Layer("a", (4, 3, 5, 5), "conv"),
        Layer("b", (4, 3), "output"),
    )
    assert gates.shape(conv) == (4, 1, 1, 1) and gates.shape(linear) == (1, 3)
    log_alpha = tensor([[[9.0]], [[-9.0]]])[None]
    kept = gates.keeps(torch.ones(1, 2, 3, 3), log_alpha)
    assert kept[0, 0].all() and not kept[0, 1].any()


def test_log_alpha_stays_within_reach() -> None:
    log_alpha = tensor([-9.0, 0, 9])
    HardConcrete().after_step(log_alpha)
    assert log_alpha.tolist() == pytest.approx([math.log(1e-2), 0, math.log(1e2)])


def test_gates_start_around_the_drop_rate(cell: Make, run: Run) -> None:
    made, store = run(cell(method=method(droprate=0.3)))
    search = made.cells[0].trainings[1]
    drawn = torch.cat(
        [s.flatten() for s in ticket(search.start, Seed.of(0), store).learned.values()]
    )
    assert drawn.mean().item() == pytest.approx(
        math.log(0.7 / 0.3), abs=4 * 0.01 / len(drawn) ** 0.5
    )
    assert drawn.std().item() == pytest.approx(0.01, rel=0.2)


def test_a_fixed_gate_goes_into_the_weight_and_stays_out_of_a_binary_mask(
    cell: Make, run: Run
) -> None:
    asked = [method(lmbda=0.001, mask_lr=40.0, mask=mask) for mask in ("gate", "binary", "sample")]
    made, store = run(*(cell(method=each) for each in asked))
    name, seed = "hidden.0.weight", Seed.of(0)
    ended = ticket(made.cells[0].trainings[1], seed, store)
    fixed, w = fixed_gate(ended.learned[name]), ended.state[name]
    starts = [ticket(each.last.start, seed, store) for each in made.cells]
    assert 0 < (fixed > 0).sum() < fixed.numel()
    assert torch.equal(starts[0].mask[name], fixed > 0)
    assert torch.equal(starts[0].state[name], w * fixed)
    assert torch.equal(starts[1].state[name], w * (fixed > 0))
    assert not torch.equal(starts[2].mask[name], starts[1].mask[name]), "a draw is another mask"
    assert torch.equal(starts[2].state[name], w * starts[2].mask[name])


def test_a_mask_that_is_not_fixed_is_drawn_in_fine_tuning_too(cell: Make) -> None:
    made = plan([cell(method=method(mask="none", finetune={"lr": 0.001}))]).cells[0]
    _, search, last = made.trainings
    assert isinstance(last, Train) and last.sparsifier == search.sparsifier
    assert last.training.recipe.lr == 0.001


def test_channels_leave_whole_or_not_at_all(cell: Make, run: Run) -> None:
    asked = method(lmbda=0.02, mask_lr=300.0, grain="channel", mask="sample")
    made, store = run(cell(method=asked, model=CONV))
    mask = ticket(made.cells[0].last, Seed.of(0), store).mask
    kept = torch.cat([kept[0].flatten(1).double().mean(1) for kept in mask.values()])
    assert set(kept.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "ticket"}, "method: protocol=ticket; l0 cannot search for tickets, because"),
        ({"lmbda": -1.0}, "method: lmbda=-1.0"),
        ({"l2": -1.0}, "method: lmbda=1e-06, l2=-1.0; give 0 or more"),
        ({"droprate": 1.0}, "method: droprate=1.0; give a number between 0 and 1"),
        ({"grain": "layer"}, "method.grain: got 'layer'; give one of weight, channel"),
        ({"mask": "fixed"}, "method.mask: got 'fixed'; give one of gate, binary, sample, none"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(method=method(**options))])
