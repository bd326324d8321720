"""Resets on values worked out by hand, and over the rounds of a real chain."""

from collections.abc import Callable

import pytest
import torch
from torch import tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Prune, Reset, Train
from lt_sweeps.sparsity import resets
from lt_sweeps.sparsity.pruning import initial_weights
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

W = tensor([0.5, -1.0, 2.0, -4.0])
KEPT = tensor([True, True, False, True])
NOISE = tensor([0.3, 0.1, 0.9, 0.2])  # puts the weights in the order 1, 3, 0, 2
LAYER = "hidden.0.weight"


def of(name: str, **options: object) -> dict:
    return {"_target_": f"lt_sweeps.sparsity.resets.{name}", **options}


def test_rewinding_copies_no_weight() -> None:
    """A deep level passes the initial weights through the resets of all earlier levels."""
    rewind, freeze = (
        Call.of({"_target_": f"lt_sweeps.sparsity.{name}"}, where=name, supplied=("init", "final"))
        for name in ("resets.rewind", "freezes.zero")
    )
    initial, layers = {LAYER: W[None]}, (Layer(LAYER, (4,), "linear"),)
    seed = Seed.of(0)
    now = initial_weights(rewind, freeze, {"init": initial}, layers=layers, seed=seed, level=1)
    assert now[LAYER] is initial[LAYER]


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        (resets.reinit(W, W, KEPT, NOISE), [-1.0, -4.0, 0.5, 2.0]),
        (resets.reinit(W, W, KEPT, NOISE, sign=True), [1.0, -4.0, 0.5, -2.0]),
        (
            resets.reinit(-W / 9, W, KEPT, NOISE, sign=True, rescale=True),
            [4 / 3, -16 / 3, 2 / 3, -8 / 3],
        ),
        (resets.reshuffle(W, KEPT, NOISE), [-1.0, -4.0, 2.0, 0.5]),
        (resets.reshuffle(W, KEPT, NOISE, sign=True), [1.0, -4.0, 2.0, -0.5]),
        (resets.constant(W, W, KEPT, NOISE, value=3.0), [-3.0, -3.0, 3.0, 3.0]),
        (resets.constant(W, W, KEPT, NOISE, value=3.0, sign=True), [3.0, -3.0, 3.0, -3.0]),
        (resets.constant(-W, W, KEPT, NOISE, value=3.0, sign=True, rescale=True), [4.0, -4, 4, -4]),
        (resets.random_signs(W, NOISE), [-0.5, -1.0, 2.0, 4.0]),
    ],
)
def test_each_formula_gives_the_values_worked_out_by_hand(
    reset: torch.Tensor, expected: list[float]
) -> None:
    assert reset.tolist() == pytest.approx(expected)


def test_the_constant_is_the_population_standard_deviation_of_the_layer() -> None:
    ours = resets.constant(W, W, KEPT, NOISE, sign=True).abs()
    assert ours.tolist() == pytest.approx([float(W.numpy().std())] * 4)


def chain(cell: Make, run: Run, reset: dict, **more: object) -> tuple[list[Reset], Store]:
    """The resets of three levels, computed."""
    made, store = run(cell(reset=reset, schedule__levels=3, **more))
    return [u.stage.start for u in made.units if isinstance(u.stage.start, Reset)], store


def starts(stages: list[Reset], store: Store) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and mask of the first layer, at the start of each level."""
    tickets = [ticket(stage, Seed.of(0), store) for stage in stages]
    return [(level.state[LAYER][0], level.mask[LAYER][0]) for level in tickets]


def _init(stage: Reset, store: Store) -> torch.Tensor:
    assert isinstance(stage.origin, Train)
    return ticket(stage.origin.start, Seed.of(0), store).state[LAYER][0]


def test_reinit_is_a_permutation_of_the_whole_layer_at_every_round(cell: Make, run: Run) -> None:
    """Kept weights get values from the whole layer, pruned ones included, anew in each round."""
    stages, store = chain(cell, run, of("reinit"))
    drawn = _init(stages[0], store)
    before = None
    for values, kept in starts(stages, store):
        assert set(values[kept].tolist()) <= set(drawn.flatten().tolist())
        assert len(set(values[kept].tolist())) == int(kept.sum())
        assert before is None or not torch.equal(values[kept], before[kept])
        before = values


def test_reshuffle_keeps_what_the_round_before_kept_of_its_own_values(cell: Make, run: Run) -> None:
    """Round 2 permutes the values that its kept weights had in round 1."""
    stages, store = chain(cell, run, of("reshuffle"))
    (first, _), (second, kept), _ = starts(stages, store)
    assert sorted(second[kept].tolist()) == sorted(first[kept].tolist())
    assert not torch.equal(second[kept], first[kept])


@pytest.mark.parametrize("name", ["reinit", "reshuffle", "constant"])
def test_with_sign_every_kept_weight_has_the_sign_of_its_initial_weight(
    cell: Make, run: Run, name: str
) -> None:
    stages, store = chain(cell, run, of(name, sign=True))
    signs = _init(stages[0], store).sign()
    for values, kept in starts(stages, store):
        assert torch.equal(values[kept].sign(), signs[kept])


@pytest.mark.parametrize("name", ["reinit", "reshuffle", "constant", "redraw"])
def test_every_reset_differs_from_rewind_and_leaves_biases_initial(
    cell: Make, run: Run, name: str
) -> None:
    stages, store = chain(cell, run, of(name))
    drawn = _init(stages[0], store)
    for stage in stages:
        start = ticket(stage, Seed.of(0), store)
        kept = start.mask[LAYER][0]
        assert not torch.equal(start.state[LAYER][0][kept], drawn[kept])
        assert isinstance(stage.origin, Train)
        first = ticket(stage.origin.start, Seed.of(0), store)
        assert torch.equal(start.state["hidden.0.bias"], first.state["hidden.0.bias"])
        assert start.step == 0


def test_a_rescaled_reset_begins_with_the_dense_weights_at_every_round(
    cell: Make, run: Run
) -> None:
    stages, store = chain(cell, run, of("constant", sign=True, rescale=True))
    drawn = _init(stages[0], store)
    for values, kept in starts(stages, store):
        expected = drawn.std(correction=0) * drawn.numel() / kept.sum()
        assert torch.allclose(values[kept].abs(), expected)


def test_redraw_is_another_draw_at_every_level_and_not_a_permutation(cell: Make, run: Run) -> None:
    stages, store = chain(cell, run, of("redraw"))
    drawn = set(_init(stages[0], store).flatten().tolist())
    values = [set(values[kept].tolist()) for values, kept in starts(stages, store)]
    assert not any(each & drawn for each in values) and not values[0] & values[1]


def test_mask_init_starts_pruned_weights_at_zero_and_trains_them(cell: Make, run: Run) -> None:
    stages, store = chain(cell, run, of("mask_init"))
    for stage, (values, kept) in zip(stages, starts(stages, store), strict=True):
        assert not values[~kept].any() and torch.equal(values[kept], _init(stage, store)[kept])
    trained = next(s for s in _trainings(stages) if s.start == stages[1])
    end = ticket(trained, Seed.of(0), store)
    assert end.state[LAYER][~end.mask[LAYER]].any(), "the pruned weights moved"
    assert torch.equal(end.mask[LAYER], ticket(stages[1], Seed.of(0), store).mask[LAYER])


def _trainings(stages: list[Reset]) -> list[Train]:
    return [stage.trained for stage in stages if isinstance(stage.trained, Train)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reset": of("mask_init"), "freeze": {"_target_": "lt_sweeps.sparsity.freezes.init"}},
            "freeze=zero",
        ),
        ({"reset": of("reinit", to="99ep")}, "outside the training"),
        ({"reset": of("constant", value="big")}, "reset.value: got 'big'; give a number"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned_cell(cell(**change))


def test_a_late_rewind_goes_with_every_reset(cell: Make, run: Run) -> None:
    """Values, including biases, come from the dense run at that time."""
    stages, store = chain(cell, run, of("reshuffle", sign=True, to="2ep"))
    at = store.read(stages[0].origin.key, 0, 8)
    for stage, (values, kept) in zip(stages, starts(stages, store), strict=True):
        then = at.state[LAYER][0]
        assert torch.equal(values[kept].sign(), then[kept].sign()) and stage.step == 8
        assert set(values[kept].abs().tolist()) <= set(then.abs().flatten().tolist())


def test_resets_share_their_dense_training(cell: Make) -> None:
    made = plan([cell(schedule__levels=1, reset=of(n)) for n in ("rewind", "reinit", "constant")])
    assert [unit.stage.level for unit in made.units] == [0, 1, 1, 1]
    assert all(isinstance(u.stage.start.pruned, Prune) for u in made.units[1:])  # pyright: ignore
