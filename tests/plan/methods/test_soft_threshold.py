"""STR: its shrinking of weights, the drift that raises a threshold, and refused protocols."""

from collections.abc import Callable

import pytest
import torch
from fixtures.tiny_cell import SGD
from torch import tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity.sparsifiers import SoftThreshold
from lt_sweeps.storage.store import Store
from lt_sweeps.training.optimizers import Optimizer

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
NONE = torch.zeros(0)


def method(**options: object) -> dict:
    return {
        "_target_": "lt_sweeps.plan.methods.soft_threshold",
        "finetune": "same",
    } | options


def test_weights_shrink_by_the_threshold_and_no_further_than_0() -> None:
    w, half = tensor([[2.0, -2, 0.3, -0.3]]), tensor([[0.0]])
    assert SoftThreshold().weights(w, half, NONE, NONE).tolist() == [[1.5, -1.5, 0, 0]]
    assert SoftThreshold().keeps(w, half).tolist() == [[True, True, False, False]]


def test_far_below_0_a_threshold_has_no_gradient() -> None:
    """At -100 sigmoid and its derivative are 0 in float32, so only the decay moves s."""
    w, s = torch.randn(1, 5), tensor([[-100.0]], requires_grad=True)
    made = SoftThreshold().weights(w, s, NONE, NONE)
    assert torch.equal(made, w)
    assert torch.autograd.grad(made.sum(), s)[0].item() == pytest.approx(0, abs=1e-40)


@pytest.mark.parametrize(("decay", "then"), [(5e-4, -0.005), (1e-4, -13.9)])
def test_the_decay_alone_raises_s_as_the_authors_say(decay: float, then: float) -> None:
    """56 epochs of 352 steps at learning rate 0.1 and momentum 0.9."""
    s, grads = torch.full((1, 1), -100.0), torch.zeros(1, 1)
    sgd = Optimizer(s, grads, momentum=0.9, weight_decay=decay)
    for _ in range(56 * 352):
        sgd.step(0.1)
    assert s.item() == pytest.approx(then, rel=0.06)


def test_a_threshold_is_a_layers_and_fine_tuning_starts_from_what_it_leaves(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(method=method(s_init=-1.5)))
    ended = ticket(made.cells[0].trainings[1], Seed.of(0), store)
    start = ticket(made.cells[0].last.start, Seed.of(0), store)
    for name, s in ended.learned.items():
        w = ended.state[name]
        assert s.numel() == 1
        assert torch.equal(start.state[name], w.sign() * (w.abs() - s.sigmoid()).relu())
        assert torch.equal(start.mask[name], start.state[name] != 0)
    assert not all(kept.all() for kept in start.mask.values())


def test_weights_decay_as_thresholds_do_and_in_fine_tuning_as_the_recipe_says(cell: Make) -> None:
    """In the released code one weight decay applies to both."""
    asked = (method(threshold_decay=2e-3), method(threshold_decay=2e-3, same_decay=False))
    same, other = (plan([cell(recipe=SGD, method=m)]).cells[0].trainings for m in asked)
    decays = [
        [stage.training.recipe.weight_decay for stage in (search, last)]
        for _, search, last in (same, other)
    ]
    assert decays == [[2e-3, SGD["weight_decay"]], [SGD["weight_decay"]] * 2]


def test_an_optimizer_of_ones_own_keeps_its_own_decay(cell: Make) -> None:
    own = {"_target_": "torch.optim.SGD", "weight_decay": 0.1}
    recipe = {key: v for key, v in SGD.items() if key not in ("momentum", "nesterov")}
    del recipe["weight_decay"]
    with pytest.raises(ValueError, match="for torch.optim.SGD give method.same_decay=false"):
        plan([cell(recipe={**recipe, "optimizer": own}, method=method())])
    plan([cell(recipe={**recipe, "optimizer": own}, method=method(same_decay=False))])


def test_it_has_no_tickets(cell: Make) -> None:
    with pytest.raises(ValueError, match="str cannot search for tickets, because its thresholds"):
        plan([cell(method=method(protocol="ticket"))])
    with pytest.raises(ValueError, match="method: threshold_decay=-1.0"):
        plan([cell(method=method(threshold_decay=-1.0))])
