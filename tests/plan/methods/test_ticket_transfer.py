"""A ticket found on one data set is trained on another, with a new last layer for that data set."""

from collections.abc import Callable

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD, TINY

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import snapshot, ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Reset, Train, Transfer, Work
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

SOURCE = {**TINY["dataset"], "classes": 3, "train": 80, "noise": 0.5}
TRANSFER = {
    "_target_": "lt_sweeps.plan.methods.transfer",
    "source": SOURCE,
    "search": {"_target_": "lt_sweeps.plan.methods.imp"},
    "search_recipe": {},
}
ONE = Seed.of(0)


def asked(cell: Make, **changes) -> Cell:
    return cell(model=CONV, recipe=SGD, reset__to="1ep", method={**TRANSFER, **changes})


def found(made: Plan) -> list[tuple[Work, Transfer]]:
    pairs = [(last, last.start) for last in made.cells[0].lasts]
    return [(last, start) for last, start in pairs if isinstance(start, Transfer)]


def test_the_ticket_keeps_its_mask_and_weights_and_gets_a_head_of_its_own(
    cell: Make, run: Run
) -> None:
    made, store = run(asked(cell))
    drawn = made.cells[0].last.network.draw(ONE)
    for level, (last, start) in enumerate(found(made), 1):
        there, here = ticket(start.found, ONE, store), ticket(last.start, ONE, store)
        assert here.step == 0 and there.step == 5, "an epoch of the source, and none of the target"
        assert last.level == level
        for name in here.state:
            same = torch.equal(here.state[name], there.state[name])
            assert same != name.startswith("output"), name
        assert torch.equal(here.state["output.weight"][0], drawn["output.weight"])
        assert all(torch.equal(kept, there.mask[name]) for name, kept in here.mask.items())
        assert "output.weight" not in here.mask and not all(k.all() for k in here.mask.values())


def test_a_random_mask_has_as_many_weights_in_each_layer_in_other_places(
    cell: Make, run: Run
) -> None:
    made, store = run(asked(cell, mask="random"))
    for last, start in found(made):
        there, here = ticket(start.found, ONE, store), ticket(last.start, ONE, store)
        assert isinstance(start.found, Reset) and isinstance(start.found.origin, Train)
        early = snapshot(start.found.origin, 5, ONE, store)
        for name, kept in here.mask.items():
            assert kept.sum() == there.mask[name].sum()
            assert torch.equal(here.state[name][kept], early.state[name][kept])
            assert (here.state[name][~kept] == 0).all() and (early.state[name][kept] != 0).all()
        assert any(not torch.equal(k, there.mask[n]) for n, k in here.mask.items())


def test_a_freeze_that_a_transferred_ticket_would_lose_is_refused(cell: Make) -> None:
    with pytest.raises(ValueError, match=r"freeze: init\(\); a transferred ticket is 0 where"):
        freeze = {"_target_": "lt_sweeps.sparsity.freezes.init"}
        plan([cell(model=CONV, recipe=SGD, method=TRANSFER, freeze=freeze)])


@pytest.mark.parametrize(
    ("how", "step"),
    [
        ({"weights": "target", "to": "2ep"}, 8),
        ({"weights": "target", "to": "2ep", "restart": True}, 0),
        ({"weights": "init"}, 0),
    ],
)
def test_other_weights_are_the_target_s_own(cell: Make, run: Run, how: dict, step: int) -> None:
    made, store = run(asked(cell, **how))
    dense = made.cells[0].lasts[0]
    then = snapshot(dense, 8 if how["weights"] == "target" else "start", ONE, store)
    for last, start in found(made):
        here = ticket(last.start, ONE, store)
        assert here.step == step
        for name, kept in here.mask.items():
            assert torch.equal(here.state[name][kept], then.state[name][kept])
            assert torch.equal(kept, ticket(start.found, ONE, store).mask[name])


def test_the_first_result_is_the_dense_network_on_the_target(cell: Make) -> None:
    made = plan([asked(cell)])
    first, *rest = made.cells[0].lasts
    assert first == plan([cell(model=CONV, recipe=SGD)]).cells[0].trainings[0]
    assert [made.cells[0].levels[each.key] for each in (first, *rest)] == [0, 1, 2]
    assert all(each.network.classes == 4 for each in made.cells[0].lasts)


def test_all_transfers_of_a_ticket_share_its_search(cell: Make) -> None:
    cells = [asked(cell, **how) for how in ({}, {"mask": "random"}, {"weights": "init"})]
    alone, together = (len(plan(each).units) for each in (cells[:1], cells))
    assert alone == 1 + 2 + 2 and together == 1 + 2 + 3 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {**SOURCE, "shape": [3, 4, 4]}}, "method.source: ResNet.* on images of .3, 4,"),
        ({"source": {"_target_": "nowhere.data"}}, "`nowhere.data` cannot be imported"),
        (
            {"search": {"_target_": "lt_sweeps.plan.methods.dense"}},
            "method.search: .* trains no tickets \\(masks on stored weights\\)",
        ),
        ({"search_recipe": {"lenght": "1ep"}}, "method.search_recipe: .*takes no lenght"),
        ({"mask": "none"}, "method.mask: got 'none'; give one of found, random"),
        ({"to": "2ep"}, "method: to=2ep, restart=False with weights=source"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([asked(cell, **change)])


def test_a_head_that_would_be_pruned_is_refused(cell: Make) -> None:
    with pytest.raises(ValueError, match="exclude it .model.prunable.exclude=.output.weight"):
        plan([cell(recipe=SGD, method=TRANSFER)])
