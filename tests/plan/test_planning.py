"""A plan has every stage once, even if several cells need it; its packs can be stacked."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
from fixtures.tiny_cell import CONV, SGD

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.packing import dependencies, packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages import Evaluate, Init, Training

Make = Callable[..., Cell]


def test_ten_targets_and_five_seeds_take_55_trainings_and_not_325(cell: Make) -> None:
    made = plan(
        [cell(schedule__levels=n, seed=s) for n in range(1, 11) for s in range(5)],
    )
    assert (made.asked, len(made.units)) == (325, 55)


def test_ten_target_sparsities_share_their_levels_too(cell: Make) -> None:
    targets = [round(1 - 0.8**n, 4) for n in range(1, 11)]
    made = plan(
        [
            cell(schedule__levels=None, schedule__sparsity=t, seed=s)
            for t in targets
            for s in range(5)
        ]
    )
    assert len(made.units) == 55


def test_criteria_share_the_dense_training(cell: Make) -> None:
    names = ["large_final", "random", "movement"]
    made = plan(
        [
            cell(mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{n}"}, seed=s)
            for n in names
            for s in (0, 1)
        ]
    )
    assert len(made.units) == 2 + 3 * 2 * 2


def test_an_axis_that_the_method_does_not_take_makes_no_new_cell(cell: Make) -> None:
    dense = {"_target_": "lt_sweeps.plan.methods.dense"}
    names = ["large_final", "random"]
    made = plan(
        [
            cell(method=dense, mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{n}"})
            for n in names
        ]
    )
    assert len(made.cells) == 1
    assert made.cells[0].labels["mask_criterion"] is None


def test_a_plan_says_what_a_method_does_not_take(cell: Make) -> None:
    names = ["large_final", "random", "movement"]
    dense = {"_target_": "lt_sweeps.plan.methods.dense"}
    cells = [
        Cell(
            cell(mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{name}"}, **more).config,
            {"method": method, "mask_criterion": name},
            (),
            untaken=keys,
        )
        for method, more, keys in [("imp", {}, ("method.every",)), ("dense", {"method": dense}, ())]
        for name in names
    ]
    assert plan(cells).notes == (
        "imp takes no method.every",
        "dense takes no mask_criterion, so its 3 options give the same line",
    )


def test_a_plan_says_which_words_compute_the_same(cell: Make) -> None:
    """With protocol=prune no weights are rewound, so sweeping `to` has no effect."""
    method = {"_target_": "lt_sweeps.plan.methods.magnitude"}
    cells = [
        replace(cell(method={**method, "to": to}, seed=s), overrides=(f"seed={s}", f"to={to}"))
        for s in (0, 1)
        for to in ("0it", "1ep")
    ]
    assert plan(cells).notes == (
        "to=0it, to=1ep compute the same, so they are one line of a report",
    )
    assert plan(cells[::2]).notes == ()


def test_a_plan_names_the_milestones_that_a_training_never_reaches(cell: Make) -> None:
    fine = {"_target_": "lt_sweeps.plan.methods.magnitude", "finetune": {"length": "2ep"}}
    short = plan([cell(recipe={**SGD, "milestones": ["2ep", "4ep", "17it"]})])
    assert short.notes == (
        "recipe.milestones: 16, 17 of a training of 16 steps; a milestone at its end or later does "
        "nothing",
    )
    assert plan([cell(recipe=SGD)]).notes == ()
    assert plan([cell(recipe=SGD, method=fine)]).notes == (
        "recipe.milestones: 12 of a training of 8 steps; a milestone at its end or later does "
        "nothing",
    )


def sizes(made, **options) -> list[int]:
    units = made.units
    size = options.get("stack_size", 99)
    found = packs(
        units, stack_size={u.stage.key: size for u in units}, workers=options.get("workers", 1)
    )
    return [len(pack.units) for pack in found]


def test_a_level_trains_stacked_in_stacks_of_near_equal_size(cell: Make) -> None:
    made = plan([cell(schedule__levels=1, seed=s) for s in range(7)])
    assert sizes(made) == [7, 7]
    assert sizes(made, stack_size=3) == [2, 2, 3, 2, 2, 3]
    assert sizes(made, workers=2) == [3, 4, 3, 4]


def test_another_recipe_is_another_pack(cell: Make) -> None:
    made = plan([cell(schedule__levels=1), cell(schedule__levels=1, recipe__lr=0.5)])
    assert sizes(made) == [1, 1, 1, 1]


def test_a_pack_waits_only_for_what_its_own_units_are_made_from(cell: Make) -> None:
    made = plan([cell(schedule__levels=2, seed=s) for s in range(4)])
    found = packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=2)
    needs = dependencies({pack.name: pack.units for pack in found})
    left, right = found[0::2], found[1::2]
    assert needs[left[2].name] == {left[0].name, left[1].name}
    assert needs[right[1].name] == {right[0].name}


def test_a_batch_of_one_example_is_refused_before_a_batch_norm_fails_on_it(cell: Make) -> None:
    """The norm fails where images have shrunk to one pixel, at the end of the first epoch."""
    odd = {"model": CONV, "dataset__train": 65, "recipe__drop_last": False}
    with pytest.raises(ValueError, match=r"recipe.batch_size: an epoch has a batch of one example"):
        plan([cell(**odd)])
    with pytest.raises(ValueError, match=r"recipe.batch_size: an epoch has a batch of one example"):
        plan([cell(model=CONV, recipe__batch_size=1)])
    for fits in (
        {"recipe__drop_last": True},
        {"recipe__length": "4it", "recipe__evaluate_every": "2it"},
        {"dataset__train": 66},
        {"dataset__shape": [1, 8, 8]},
        {"model": {"net": {"_target_": "lt_sweeps.models.FC"}}},
    ):
        plan([cell(**odd | fits)])


def scored(init: Init, recipe: Training, *, statistics: int) -> Evaluate:
    return Evaluate(init, recipe, statistics=statistics)


def test_a_score_that_draws_no_batches_takes_any_batch_size(cell: Make) -> None:
    """A score needs training batches only to estimate the statistics of batch norms."""
    for statistics, refused in ((0, False), (1, True)):
        method = {"_target_": f"{__name__}.scored", "statistics": statistics}
        odd = cell(model=CONV, recipe__batch_size=1, method=method)
        with pytest.raises(ValueError, match="a batch of one") if refused else nullcontext():
            plan([odd])
