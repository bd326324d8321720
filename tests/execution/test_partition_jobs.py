"""Cells become jobs of similar size that share no work and never wait in a circle."""

from collections.abc import Callable

import pytest

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.slurm.partition_jobs import Job, build, share_out
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.unit import Unit

Make = Callable[..., Cell]
CRITERIA = ("large_final", "random", "movement")


def sweep(cell: Make, seeds: int = 4, **changes) -> Plan:
    return plan(
        [
            cell(seed=s, mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{c}"}, **changes)
            for c in CRITERIA
            for s in range(seeds)
        ]
    )


def jobs(made: Plan, count: int | None, left: list | None = None) -> list[Job]:
    covered = {unit for pack, _ in left or [] for unit in pack.units}
    missing = [unit for unit in made.units if unit not in covered]
    names = share_out(made, missing, count, lambda stage: float(stage.length))
    sizes = {unit.stage.key: 99 for unit in made.units}
    return build(names, left or [], stack_size=sizes, workers=1)


def units(job: Job) -> list[Unit]:
    return [unit for pack in job.packs for unit in pack.units]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12])
def test_every_unit_is_in_one_job_and_its_inputs_are_computed_before(
    cell: Make, count: int
) -> None:
    made = sweep(cell)
    found = jobs(made, count)
    everything = [unit for job in found for unit in units(job)]
    assert sorted(everything, key=repr) == sorted(made.units, key=repr)
    done: set[Unit] = set()
    names: set[str] = set()
    for job in found:
        assert job.after <= names, "jobs come after those that they wait for"
        for pack in job.packs:
            for unit in pack.units:
                before = {Unit(s, unit.seed) for s in (made.cells[0].trainings[0],)}
                assert unit.stage.level == 0 or before <= done
            done.update(pack.units)
        names.add(job.name)


def test_a_job_per_seed_shares_nothing_and_stacks_all_criteria(cell: Make) -> None:
    found = jobs(sweep(cell), 4)
    assert len(found) == 4 and not any(job.after for job in found)
    assert [len(pack.units) for pack in found[0].packs] == [1, 3, 3]


def test_work_that_several_jobs_need_is_a_separate_job(cell: Make) -> None:
    found = jobs(sweep(cell, seeds=1), 3)
    assert [len(units(job)) for job in found] == [1, 2, 2, 2]
    assert [job.after for job in found[1:]] == [{found[0].name}] * 3


def test_a_job_per_cell_is_one_also_where_some_bring_more_work(cell: Make) -> None:
    found = jobs(sweep(cell), None)
    assert [len(job.after) for job in found] == [0] * 4 + [1] * 12
    assert all(len(units(job)) == 2 for job in found[4:])


def test_jobs_have_near_equal_work(cell: Make) -> None:
    made = plan([cell(seed=s, schedule__levels=1 + 7 * (s == 0)) for s in range(8)])
    found = jobs(made, 2)
    work = [sum(unit.stage.length for unit in units(job)) for job in found]
    assert len(found) == 2 and max(work) <= 1.5 * min(work)


def test_packs_that_are_left_keep_their_jobs_and_circles_become_one_job(cell: Make) -> None:
    made = sweep(cell, seeds=1)
    sizes = {unit.stage.key: 99 for unit in made.units}
    dense, first, second = packs(made.units, stack_size=sizes, workers=1)
    assert [job.name for job in jobs(made, 1, [(dense, "a"), (first, "b"), (second, "b")])] == [
        "a",
        "b",
    ]
    (one,) = jobs(made, 1, [(dense, "a"), (first, "b"), (second, "a")])
    assert [pack.units[0].stage.level for pack in one.packs] == [0, 1, 2]
