"""Properties that stage keys and packs have for every plan."""

from __future__ import annotations

from typing import Any

from fixtures.tiny_cell import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.packing import dependencies, packs
from lt_sweeps.plan.planning import Plan, plan

OPTIONS: dict[str, list[Any]] = {
    "mask_criterion": [
        {"_target_": f"lt_sweeps.sparsity.criteria.{name}"}
        for name in ("large_final", "random", "movement")
    ],
    "reset": [
        {"_target_": "lt_sweeps.sparsity.resets.rewind"},
        {"_target_": "lt_sweeps.sparsity.resets.rewind", "to": "1ep"},
        {"_target_": "lt_sweeps.sparsity.resets.reinit", "sign": True},
    ],
    "freeze": [{"_target_": f"lt_sweeps.sparsity.freezes.{name}"} for name in ("zero", "init")],
    "recipe": [{**TINY["recipe"], "lr": lr} for lr in (0.01, 0.02)],
    "schedule": [{**TINY["schedule"], "levels": levels} for levels in (1, 2, 3)],
    "method": [{"_target_": f"lt_sweeps.plan.methods.{name}"} for name in ("imp", "dense")],
    "seed": [0, 1, 2],
}
MACHINE = {"root": "elsewhere", "device": "cuda", "workers": 7, "checkpoint_every": 1.0}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    chosen = {group: draw(st.sampled_from(options)) for group, options in OPTIONS.items()}
    return {**TINY, **chosen}


def cell(config: dict[str, Any]) -> Cell:
    groups = ("model", "dataset", "method", "mask_criterion", "schedule", "recipe")
    return Cell(Config(config), {group: group for group in (*groups, "reset", "freeze")}, ())


def keys(config: dict[str, Any]) -> list[str]:
    return [stage.key for stage in plan([cell(config)]).cells[0].trainings]


@settings(max_examples=40)
@given(configs(), configs())
def test_two_cells_share_a_key_if_and_only_if_they_do_the_same_work(one, other) -> None:
    first, second = keys(one), keys(other)
    # Level 0, the dense training, depends on the recipe alone; level n on all but the seed.
    assert (first[0] == second[0]) == (one["recipe"] == other["recipe"])
    chain = ("mask_criterion", "reset", "freeze", "recipe")
    if len(first) > 1 and len(second) > 1:
        assert (first[1] == second[1]) == all(one[group] == other[group] for group in chain)
    assert len(set(first)) == len(first)


@settings(max_examples=20)
@given(configs(), st.sampled_from(sorted(MACHINE)))
def test_no_key_depends_on_the_machine_or_on_the_order_of_keys(config, machine) -> None:
    shuffled = dict(reversed(config.items()))
    assert keys(config) == keys({**config, machine: MACHINE[machine]}) == keys(shuffled)


@settings(max_examples=25)
@given(st.lists(configs(), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 3))
def test_packs_hold_every_unit_once_and_come_after_what_they_need(several, size, workers) -> None:
    sweep: Plan = plan([cell(config) for config in several])
    stacks = packs(
        sweep.units, stack_size={unit.stage.key: size for unit in sweep.units}, workers=workers
    )
    units = [(unit.stage.key, unit.seed) for pack in stacks for unit in pack.units]
    assert sorted(units) == sorted((unit.stage.key, unit.seed) for unit in sweep.units)
    assert len(set(units)) == len(units)
    assert all(len(pack.units) <= size for pack in stacks)
    for pack in stacks:
        assert len({unit.stage.training.identity()["recipe"]["lr"] for unit in pack.units}) == 1
    # The packs that each needs form no circle: taking away those whose needs are met ends.
    waiting = dependencies({pack.name: pack.units for pack in stacks})
    while waiting:
        ready = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert ready, waiting
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
