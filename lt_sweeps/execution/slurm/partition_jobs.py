"""Divide packs into jobs: the packs that each job trains, and the jobs that it waits for.

The cells are divided into groups, one for each requested job. A training that only one group needs
belongs to that group's job. Trainings that are needed by the same several groups form a separate
shared job. A shared job depends only on trainings that all of its groups need too, so new jobs
never wait for each other in a cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from lt_sweeps.config.identity import digest
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.packing import Pack, dependencies, packs
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Work
from lt_sweeps.plan.unit import Unit


@dataclass(frozen=True)
class Job:
    """One job of the cluster: the packs that it trains, and the names of jobs that it waits for."""

    name: str
    packs: tuple[Pack, ...]
    after: frozenset[str]


def share_out(
    plan: Plan, missing: Sequence[Unit], count: int | None, seconds: Callable[[Work], float]
) -> dict[Unit, str]:
    """Assign each missing unit to a job, for `count` jobs with about the same amount of work.

    The cells are sorted by recipe and network, then by seed, and the sorted list is divided into
    groups. So cells that share trainings or can be stacked are usually in the same group.

    Args:
        count: the number of groups of cells; None: each cell is a group.
        seconds: returns the seconds that a training takes.

    Returns:
        The name of each unit's job.
    """
    todo = set(missing)
    cells = [cell for cell in plan.cells if not todo.isdisjoint(cell.units)]
    ordered = sorted(range(len(cells)), key=lambda i: _place(cells[i], i))
    work = _marginal([cells[i] for i in ordered], todo, seconds)
    total, done = sum(work) or 1.0, 0.0
    owners: dict[Unit, set[int]] = {}  # the groups that need each unit
    for i, added in zip(ordered, work, strict=True):
        # Lay the work of all cells end to end and cut it into equal groups: the cell belongs to
        # the group that contains the middle of its work.
        group = i if count is None else min(count - 1, int((done + added / 2) / total * count))
        done += added
        for unit in (unit for unit in cells[i].units if unit in todo):
            owners.setdefault(unit, set()).add(group)
    return {unit: _job_name(groups) for unit, groups in owners.items()}


def build(
    names: Mapping[Unit, str],
    left: Sequence[tuple[Pack, str]],
    *,
    stack_size: Mapping[str, int],
    workers: int,
) -> list[Job]:
    """Return the jobs in the order of submission: each job after the jobs that it waits for.

    Args:
        names: the job of each unit, as `share_out` returns it.
        left: unfinished packs of an earlier submission, each with the name of its job.
        stack_size: the number of replicates in a stack, by stage key.
        workers: the number of processes of one job.
    """
    members: dict[str, list[Pack]] = {}
    for pack, name in left:
        members.setdefault(name, []).append(pack)
    units: dict[str, list[Unit]] = {}
    for unit, name in names.items():
        units.setdefault(name, []).append(unit)
    for name, in_job in units.items():
        in_job.sort(key=lambda unit: unit.stage.depth)
        members.setdefault(name, []).extend(packs(in_job, stack_size=stack_size, workers=workers))
    return _ordered(members)


def _place(cell: Planned, number: int) -> tuple[str, str, int, int]:
    """The sort key of a cell, for the order that is divided into groups."""
    training = cell.last.training.key
    return training, str(cell.last.network.net), cell.seed.value, number


def _marginal(
    cells: Sequence[Planned], todo: set[Unit], seconds: Callable[[Work], float]
) -> list[float]:
    """The seconds of work that each cell adds to the work of the cells before it."""
    seen: set[Unit] = set()
    work = []
    for cell in cells:
        new = [unit for unit in cell.units if unit in todo and unit not in seen]
        seen.update(new)
        work.append(sum(seconds(unit.stage) for unit in new))
    return work


def _job_name(groups: set[int]) -> str:
    if len(groups) == 1:
        return f"{min(groups)}"
    return f"shared-{digest(sorted(groups))[:8]}"


def _ordered(members: Mapping[str, Sequence[Pack]]) -> list[Job]:
    """Return the jobs in the order of submission; jobs that wait for each other are merged.

    Args:
        members: the packs of each job, by the job's name.
    """
    # A Slurm dependency can name only jobs that are already submitted, so the jobs are sorted
    # topologically. For new jobs such an order always exists. But unfinished packs of an earlier
    # submission keep the names of their jobs, which were divided differently, so a cycle is
    # possible. Example: level 0 is in job a, level 1 in job b, and level 2 in job a again. Then b
    # waits for a (level 1 needs level 0), and a waits for b (level 2 needs level 1).
    #
    # All jobs of a cycle are merged into one job, which trains its packs by depth: levels 0, 1, 2.
    # Jobs that waited for one of them now wait for the merged job. This can close another cycle,
    # so the result is sorted again. Each time there are fewer jobs, so the recursion ends.
    units = {name: [u for pack in held for u in pack.units] for name, held in members.items()}
    after = dependencies(units)
    try:
        order = tuple(TopologicalSorter(after).static_order())
    except CycleError as error:
        first, *others = dict.fromkeys(error.args[1])  # the cycle lists its first job twice
        joined = {name: list(held) for name, held in members.items() if name not in others}
        joined[first] = [pack for name in (first, *others) for pack in members[name]]
        return _ordered(joined)
    by_level = {
        name: sorted(held, key=lambda pack: pack.units[0].stage.depth)
        for name, held in members.items()
    }
    return [Job(name, tuple(by_level[name]), frozenset(after[name])) for name in order]
