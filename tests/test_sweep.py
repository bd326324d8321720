"""A sweep is frozen, resumed as it was, and never done twice."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from lt_sweeps.cells import Cell
from lt_sweeps.plan import Plan, packs, plan
from lt_sweeps.store import Store
from lt_sweeps.sweep import Sweep, compute, find, freeze, unfinished, work
from lt_sweeps.training import Machine

Make = Callable[..., Cell]


def all_packs(made: Plan) -> list:
    return packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=1)


def frozen(made: Plan, root: Path, name: str | None = None) -> Sweep:
    return freeze(made, all_packs(made), Machine(), root=root, name=name)


def test_a_pack_is_worked_on_from_the_manifest_alone(cell: Make, tmp_path: Path) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1)])
    sweep = Sweep(frozen(made, tmp_path).folder)
    for pack in sweep.manifest["packs"]:
        work(sweep, pack["name"], device="cpu")
    assert not made.missing(Store(tmp_path))
    assert len(list(tmp_path.glob("runs/*/*/DONE"))) == 2


def test_the_same_cells_are_the_same_sweep_and_others_are_not(cell: Make, tmp_path: Path) -> None:
    one, other = plan([cell()]), plan([cell(), cell(seed=1)])
    assert find(one, root=tmp_path, name=None) == frozen(one, tmp_path)
    assert find(other, root=tmp_path, name=None) != find(one, root=tmp_path, name=None)


def test_a_name_is_one_sweeps(cell: Make, tmp_path: Path) -> None:
    frozen(plan([cell()]), tmp_path, "mine")
    with pytest.raises(ValueError, match="name: 'mine' is taken by another sweep"):
        frozen(plan([cell(seed=1)]), tmp_path, "mine")


def test_an_interrupted_sweep_keeps_its_packs(cell: Make, tmp_path: Path) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1, 2)])
    sweep = frozen(made, tmp_path)
    names = [pack["name"] for pack in sweep.manifest["packs"]]
    work(sweep, names[0], device="cpu")
    left = unfinished(sweep, made, Store(tmp_path))
    assert [pack.name for pack in left] == names[1:]


def test_a_seed_more_computes_only_what_is_new(cell: Make, tmp_path: Path) -> None:
    first = plan([cell(seed=seed) for seed in (0, 1)])
    for pack in all_packs(first):
        compute(pack.units, first.moments, Store(tmp_path), Machine())
    more = plan([cell(seed=seed, schedule__levels=3) for seed in (0, 1, 2)])
    missing = more.missing(Store(tmp_path))
    assert [(u.stage.level, u.seed.value) for u in missing] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 0),
        (3, 1),
        (3, 2),
    ]


def test_a_corrupt_ticket_is_missing_again(cell: Make, tmp_path: Path) -> None:
    made, store = plan([cell()]), Store(tmp_path)
    for pack in all_packs(made):
        compute(pack.units, made.moments, store, Machine())
    unit = made.units[1]
    path = store.path(unit.stage.key, 0)
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    assert made.missing(store) == (unit,)
    compute([unit], made.moments, store, Machine())
    assert path.read_bytes() == before


def _compute(root: Path, cells: list[Cell], barrier) -> None:
    made = plan(cells)
    barrier.wait()
    for pack in all_packs(made):
        compute(pack.units, made.moments, Store(root), Machine())


def test_two_processes_on_one_root_double_nothing(cell: Make, tmp_path: Path) -> None:
    """Each training appends its stack size once to the cost beside its ticket: first writer wins,
    so a doubled training would leave a second process's checkpoint or another time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    mine = [cell(seed=seed, schedule__levels=1, recipe__length="30ep") for seed in (0, 1, 2)]
    theirs = [cell(seed=seed, schedule__levels=1, recipe__length="30ep") for seed in (1, 2, 3)]
    both = [context.Process(target=_compute, args=(tmp_path, c, barrier)) for c in (mine, theirs)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    costs = [json.loads(path.read_text()) for path in tmp_path.glob("tickets/*/*.cost.json")]
    assert len(costs) == 8
    # A unit that was trained once counts in one stack: the sizes of all stacks add up to 8.
    assert sum(1 / cost["stack_size"] for cost in costs) == pytest.approx(
        round(sum(1 / cost["stack_size"] for cost in costs))
    )
    assert not list(tmp_path.glob("tickets/*/*.partial-*"))
