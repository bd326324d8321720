"""Pruning before training: GraSP and SynFlow equal their definitions."""

from collections.abc import Callable

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from torch.nn.functional import cross_entropy

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.network import Network
from lt_sweeps.plan.methods.after_search import KEEP, ZERO
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Init, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import one_shot
from lt_sweeps.sparsity.synflow import flow
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.gradients import hessian_gradient

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

AT_INIT = {"_target_": "lt_sweeps.plan.methods.at_init"}
UNTRAINED = {"_target_": "lt_sweeps.plan.methods.supermask", "statistics": -1}
NINETY = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.9, "scope": "global"}
NAME = "hidden.1.weight"


def criterion(name: str, **arguments) -> dict:
    return {"_target_": f"lt_sweeps.sparsity.criteria.{name}", **arguments}


@pytest.mark.parametrize(
    "chosen",
    [
        criterion("random"),
        criterion("snip", examples=24),
        criterion("grasp", examples=24),
        criterion("synflow", rounds=5),
        criterion("large_init"),
    ],
    ids=lambda chosen: chosen["_target_"].rpartition(".")[2],
)
def test_it_trains_the_initial_weights_under_a_mask_and_nothing_else(
    cell: Make, run: Run, chosen: dict
) -> None:
    made, store = run(
        cell(model=CONV, recipe=SGD, method=AT_INIT, mask_criterion=chosen, schedule=NINETY)
    )
    unit = made.units[-1]
    start = ticket(unit.stage.start, Seed.of(0), store)
    drawn = unit.stage.network.draw(Seed.of(0))
    kept = sum(int(mask.sum()) for mask in start.mask.values())
    assert kept == round(0.1 * sum(layer.size for layer in unit.stage.network.layers))
    for name, mask in start.mask.items():
        assert torch.equal(start.state[name][mask], drawn[name][mask[0]])
    assert unit.stage.level == 1 and len(made.units) == 2, "and the dense network, to compare"


def test_the_mask_does_not_depend_on_the_recipe_but_a_gradient_does_on_the_data(
    cell: Make,
) -> None:
    def cut(chosen: dict, **changes) -> str:
        made = plan([cell(method=AT_INIT, mask_criterion=chosen, schedule=NINETY, **changes)])
        return made.cells[0].last.start.key

    for chosen in (criterion("synflow"), criterion("snip", examples=24)):
        assert cut(chosen) == cut(chosen, recipe__lr=0.5)
    assert cut(criterion("synflow")) == cut(criterion("synflow"), dataset__noise=2.0)
    snip = criterion("snip", examples=24)
    assert cut(snip) != cut(snip, dataset__noise=2.0)


def test_hessian_times_gradient_is_half_the_slope_of_the_squared_gradient(
    cell: Make, tmp_path
) -> None:
    """d|g|^2/dw = 2 H g, computed here by finite differences in float64."""
    stage = plan([cell()]).units[0].stage
    start = ticket(stage.start, Seed.of(0), Store(tmp_path))
    found = hessian_gradient(start, stage.network, stage.training.task, Seed.of(0), 24, 2.0)
    split = stage.training.task.dataset.load()["train"]
    order = torch.randperm(64, generator=generator(0, "order", 0))[:24]

    def squared(shift: float, at: tuple[int, int]) -> torch.Tensor:
        module = stage.network.module("cpu").double()
        module.load_state_dict({name: t[0].double() for name, t in start.state.items()})
        with torch.no_grad():
            module.get_parameter(NAME)[at] += shift
        outputs = module(split.inputs[order].double() / 255) / 2.0
        weights = [module.get_parameter(layer.name) for layer in stage.network.layers]
        grads = torch.autograd.grad(cross_entropy(outputs, split.targets[order]), weights)
        return torch.stack([grad.square().sum() for grad in grads]).sum()

    for at in ((0, 0), (3, 5), (7, 11)):
        slope = (squared(1e-5, at) - squared(-1e-5, at)) / 2e-5
        assert found[NAME][0][at].item() == pytest.approx(slope.item() / 2, rel=1e-3, abs=1e-7)


def test_flow_in_one_round_is_the_product_of_the_absolute_weights_along_all_paths() -> None:
    """Three inputs, two hidden units, one output: R = sum over paths of |a| |b|."""
    network, ticket_of = _tiny()
    a = torch.tensor([[1.0, -2, 3], [0.5, 0, -1]])
    b = torch.tensor([[2.0, -4]])
    state = {"hidden.0.weight": a, "output.weight": b}
    biases = {"hidden.0.bias": torch.zeros(2), "output.bias": torch.zeros(1)}
    (target,) = one_shot(network.layers, sparsity=0.5, scope="global")
    found = flow(ticket_of({**state, **biases}), network, target, Seed.of(0), 1)
    # Of eight weights two rounds leave 8 / √2, so 6, and then 4. What is pruned ranks below 0.
    twice = flow(ticket_of({**state, **biases}), network, target, Seed.of(0), 2)
    scores = torch.cat([score.flatten() for score in twice.values()])
    assert int((scores >= 0).sum()) == 6
    paths = a.abs() * b.abs().T
    assert torch.equal(found["hidden.0.weight"][0], paths.double())
    assert torch.equal(found["output.weight"][0], paths.sum(1)[None].double())


def test_nothing_flows_through_a_bias_of_a_recurrent_layer() -> None:
    """Their names are like `bias_ih_l0`. They count as 0, so their values do not matter."""
    net = {"_target_": "lt_sweeps.models.Recurrent", "width": 3, "cell": "gru"}
    network = Network.of({"net": net}, (4, 5), 2)
    drawn = {name: tensor[None] for name, tensor in network.draw(Seed.of(0)).items()}
    other = {n: t + 3.0 if "bias" in n else t for n, t in drawn.items()}
    mask = {la.name: torch.ones(1, *la.shape, dtype=torch.bool) for la in network.layers}
    (target,) = one_shot(network.layers, sparsity=0.5, scope="global")
    flows = [flow(Ticket(s, mask), network, target, Seed.of(0), 1) for s in (drawn, other)]
    for name, first in flows[0].items():
        assert torch.equal(first, flows[1][name])


def test_flow_in_many_rounds_keeps_a_layer_that_one_round_would_empty(cell: Make, run: Run) -> None:
    """This is the purpose of SynFlow: no layer collapses, even at an extreme sparsity."""
    deep = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [40, 6, 6, 40]}}
    most, least = {**NINETY, "sparsity": 0.98}, {}
    for rounds in (1, 100):
        chosen = criterion("synflow", rounds=rounds)
        made = plan([cell(model=deep, method=AT_INIT, mask_criterion=chosen, schedule=most)])
        _, store = run()
        start = ticket(made.cells[0].last.start, Seed.of(0), store)
        least[rounds] = min(int(mask.sum()) for mask in start.mask.values())
    assert least[100] >= 1 and least[1] == 0


def of_no_task(init: Init, recipe: Training, schedule: tuple, mask_criterion: Criterion) -> Train:
    """A user-defined method that does not say on which images a gradient is computed."""
    cut = Prune(init, schedule[-1], mask_criterion, origin=init)
    return Train(Reset(cut, KEEP, ZERO, origin=init), recipe)


def test_a_gradient_without_images_is_refused(cell: Make) -> None:
    forgets = {"_target_": f"{__name__}.{of_no_task.__name__}"}
    with pytest.raises(ValueError, match=r"`\S+\.snip` takes a gradient .* task=recipe\.task"):
        plan([cell(method=forgets, mask_criterion=criterion("snip", examples=24))])


@pytest.mark.parametrize(
    ("method", "chosen", "says"),
    [
        (AT_INIT, criterion("grasp", examples=8, temperature=0.0), "temperature: got 0; give"),
        (AT_INIT, criterion("synflow", rounds=0), "mask_criterion.rounds: got 0; give 1 or more"),
        (UNTRAINED, criterion("large_final"), "method: statistics=-1; give 0 batches or more"),
    ],
)
def test_a_number_that_would_be_taken_for_another_is_refused(
    cell: Make, method: dict, chosen: dict, says: str
) -> None:
    """With a temperature of 0 every score was NaN, and the mask was silently random."""
    with pytest.raises(ValueError, match=says):
        plan([cell(method=method, mask_criterion=chosen, schedule=NINETY)])


def test_a_criterion_that_needs_training_is_refused(cell: Make) -> None:
    with pytest.raises(
        ValueError, match="final: got 'end', and the network is pruned before it is trained"
    ):
        plan([cell(method=AT_INIT, schedule=NINETY)])


def _tiny() -> tuple[Network, Callable[[dict], Ticket]]:
    net = {"_target_": "lt_sweeps.models.FC", "hidden": [2]}
    network = Network.of({"net": net}, (1, 1, 3), 1)

    def ticket_of(state: dict[str, torch.Tensor]) -> Ticket:
        mask = {layer.name: torch.ones(1, *layer.shape) > 0 for layer in network.layers}
        return Ticket({name: tensor[None] for name, tensor in state.items()}, mask)

    return network, ticket_of
