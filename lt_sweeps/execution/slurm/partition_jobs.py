"""Jobs: the packs that each job of a cluster trains, and the jobs that it waits for.

The cells are cut into as many groups as there shall be jobs. A training that one group needs is
part of that group's job. Trainings that the same several groups need form a shared job of their
own. A shared job needs only trainings that at least the same groups need, so new jobs never wait
for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from lt_sweeps.config.identity import digest
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.packing import Pack, packs
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Work, needs
from lt_sweeps.plan.unit import Unit


@dataclass(frozen=True)
class Job:
    """The packs that one job of the cluster trains, and the names of the jobs that it waits for."""

    name: str
    packs: tuple[Pack, ...]
    after: frozenset[str]


def share_out(
    plan: Plan, missing: Sequence[Unit], count: int | None, seconds: Callable[[Work], float]
) -> dict[Unit, str]:
    """The name of each missing unit's job, for `count` jobs of near equal work.

    Cells that share trainings or can be stacked lie side by side in the order that is cut: cells of
    one recipe and network, then of one seed.

    Args:
        count: how many groups the cells are cut into; None: each cell is a group.
        seconds: how long a training takes.
    """
    todo = set(missing)
    cells = [cell for cell in plan.cells if not todo.isdisjoint(cell.units)]
    ordered = sorted(range(len(cells)), key=lambda i: _place(cells[i], i))
    work = _marginal([cells[i] for i in ordered], todo, seconds)
    total, done = sum(work) or 1.0, 0.0
    owners: dict[Unit, set[int]] = {}  # the groups that need each unit
    for i, added in zip(ordered, work, strict=True):
        # The group in which the middle of this cell's work lies, on a line of all work.
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
    """The jobs in an order of submission: a job comes after the jobs that it waits for.

    Args:
        names: the job of each unit, as `share_out` returns it.
        left: unfinished packs of an earlier submission, each with the name of its job then.
        stack_size: by stage key.
        workers: the processes of one job.
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
    """Where a cell stands in the order that is cut into groups."""
    training = cell.last.training.key
    return training, str(cell.last.network.net), cell.seed.value, number


def _marginal(
    cells: Sequence[Planned], todo: set[Unit], seconds: Callable[[Work], float]
) -> list[float]:
    """The seconds of work that each cell adds to the cells before it."""
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
    """The jobs in an order of submission; jobs that wait for each other are joined.

    Args:
        members: the packs of each job, by its name.
    """
    # Slurm takes only the ids of jobs that are submitted already, so a job must come after the
    # jobs that it waits for: a topological order. New jobs always have one. Packs that an earlier
    # submission left keep the names of their jobs, and those were cut in another way, so a circle
    # is possible. Example: level 0 lies in job a, level 1 in job b, and level 2 in job a again.
    # Then b waits for a (level 1 needs level 0) and a for b (level 2 needs level 1).
    #
    # All jobs of a circle become one job, which trains its packs by depth: levels 0, 1, 2. Jobs
    # that waited for one of them now wait for the joined job. That can close another circle, so
    # the result is ordered again; each time there are fewer jobs, so this ends.
    name_of = {unit: name for name, held in members.items() for pack in held for unit in pack.units}
    after = {
        name: {
            name_of[Unit(stage, unit.seed)]
            for pack in held
            for unit in pack.units
            for stage in needs(unit.stage)
            if Unit(stage, unit.seed) in name_of
        }
        - {name}
        for name, held in members.items()
    }
    try:
        order = tuple(TopologicalSorter(after).static_order())
    except CycleError as error:
        first, *others = dict.fromkeys(error.args[1])  # the circle names its first job twice
        joined = {name: list(held) for name, held in members.items() if name not in others}
        joined[first] = [pack for name in (first, *others) for pack in members[name]]
        return _ordered(joined)
    by_level = {
        name: sorted(held, key=lambda pack: pack.units[0].stage.depth)
        for name, held in members.items()
    }
    return [Job(name, tuple(by_level[name]), frozenset(after[name])) for name in order]
