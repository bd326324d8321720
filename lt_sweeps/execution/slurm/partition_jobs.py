"""Jobs: which packs a cluster's job works on, and which jobs it waits for.

Cells are cut into as many groups as jobs are asked for. A training that one group alone needs is
part of that group's job; what several groups need is a job of its own, for all that the same groups
need. Whatever such a job stands on is needed by at least the same groups, so jobs never wait for
each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from lt_sweeps.config.call import digest
from lt_sweeps.plan.planning import Pack, Plan, Planned, needs, packs
from lt_sweeps.plan.stages import Work
from lt_sweeps.plan.unit import Unit


@dataclass(frozen=True)
class Job:
    """Packs that one job of the cluster works on, and the jobs that must be done before."""

    name: str
    packs: tuple[Pack, ...]
    after: frozenset[str]


def share_out(
    made: Plan, missing: Sequence[Unit], count: int | None, seconds: Callable[[Work], float]
) -> dict[Unit, str]:
    """The name of each missing unit's job, for `count` jobs of near equal work; None: one a cell.

    Neighbours in one group share what they stand on and stack: cells of one kind, then of one seed.
    """
    todo = set(missing)
    wanting = [c for c in made.cells if any(Unit(s, c.seed) in todo for s in c.trainings)]
    ordered = sorted(range(len(wanting)), key=lambda i: _place(wanting[i], i))
    work = _marginal([wanting[i] for i in ordered], todo, seconds)
    total, done = sum(work) or 1.0, 0.0
    owners: dict[Unit, set[int]] = {}
    for i, more in zip(ordered, work, strict=True):
        group = i if count is None else min(count - 1, int((done + more / 2) / total * count))
        done += more
        for stage in wanting[i].trainings:
            if (unit := Unit(stage, wanting[i].seed)) in todo:
                owners.setdefault(unit, set()).add(group)
    return {unit: _job_name(groups) for unit, groups in owners.items()}


def build(
    names: Mapping[Unit, str],
    left: Sequence[tuple[Pack, str]],
    *,
    stack_size: Mapping[str, int],
    workers: int,
) -> list[Job]:
    """Packs of the units by their job's name, and those left of before; the first first."""
    members: dict[str, list[Pack]] = {}
    for pack, name in left:
        members.setdefault(name, []).append(pack)
    units: dict[str, list[Unit]] = {}
    for unit, name in names.items():
        units.setdefault(name, []).append(unit)
    for name, own in units.items():
        own.sort(key=lambda unit: unit.stage.depth)
        members.setdefault(name, []).extend(packs(own, stack_size=stack_size, workers=workers))
    return _ordered(members)


def _place(cell: Planned, number: int) -> tuple[str, str, int, int]:
    training = cell.last.training.key
    return training, str(cell.last.network.net), cell.seed.value, number


def _marginal(
    cells: Sequence[Planned], todo: set[Unit], seconds: Callable[[Work], float]
) -> list[float]:
    """What each cell adds to the work of those before it."""
    seen: set[Unit] = set()
    work = []
    for cell in cells:
        found = (Unit(stage, cell.seed) for stage in cell.trainings)
        new = [unit for unit in found if unit in todo and unit not in seen]
        seen.update(new)
        work.append(sum(seconds(unit.stage) for unit in new))
    return work


def _job_name(groups: set[int]) -> str:
    if len(groups) == 1:
        return f"{min(groups)}"
    return f"shared-{digest(sorted(groups))[:8]}"


def _ordered(members: Mapping[str, Sequence[Pack]]) -> list[Job]:
    """Order jobs such that each comes after those it waits for; merge jobs that form a circle."""
    # A job waits for every other job that holds a unit which one of its own units needs. Submitting
    # in topological order means that the Slurm ids to wait for are known when a job is submitted.
    #
    # Jobs cut by one submission never wait for each other. A resumed sweep may mix packs that an
    # earlier submission cut with new ones cut in another way; then job A may need a unit of job B
    # and B one of A, and Slurm would run neither. The jobs of such a circle become one job, under
    # the first one's name, and the order is sought again. Each merge leaves fewer jobs, so this
    # ends. Within a job, packs run by the depth of their level, which puts every unit behind
    # those it needs.
    name_of = {unit: name for name, own in members.items() for pack in own for unit in pack.units}
    after = {
        name: {
            name_of[Unit(stage, unit.seed)]
            for pack in own
            for unit in pack.units
            for stage in needs(unit.stage)
            if Unit(stage, unit.seed) in name_of
        }
        - {name}
        for name, own in members.items()
    }
    try:
        order = tuple(TopologicalSorter(after).static_order())
    except CycleError as circle:
        one, *others = dict.fromkeys(circle.args[1])
        joined = {name: list(own) for name, own in members.items() if name not in others}
        joined[one] = [pack for name in (one, *others) for pack in members[name]]
        return _ordered(joined)
    by_level = {
        name: sorted(own, key=lambda pack: pack.units[0].stage.depth)
        for name, own in members.items()
    }
    return [Job(name, tuple(by_level[name]), frozenset(after[name])) for name in order]
