"""The plan: every cell's stages, each once, and the packs that compute what is not stored."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lt_sweeps.config.call import Call, Config, digest, nearest
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import GROUPS, MACHINE_KEYS, SUPPLIED
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages import (
    Evaluate,
    Init,
    Moment,
    Prune,
    Reset,
    Task,
    Train,
    Training,
    ancestors,
)
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.evidence import Criterion, reset
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import name_of


@dataclass(frozen=True)
class Planned:
    """A cell with what it takes: its seed, its last stages, and the trainings up to there.

    `signature` names the cell for all its seeds: equal for cells that ask for the same thing.
    `labels` are the options that count in it; an axis that the method does not take is None.
    `levels` are those of the trainings that are results, by key; the others are a search for them.
    """

    cell: Cell
    seed: Seed
    lasts: tuple[Train, ...]
    trainings: tuple[Train, ...]
    levels: Mapping[str, int]
    signature: str
    labels: Mapping[str, str | None]

    @property
    def last(self) -> Train:
        return self.lasts[-1]

    @property
    def report_at(self) -> str:
        return self.cell.config["report_at"]


@dataclass(frozen=True)
class Pack:
    """Units that train together, stacked on one device."""

    units: tuple[Unit, ...]

    @functools.cached_property
    def name(self) -> str:
        names = [(unit.stage.key, str(unit.seed)) for unit in self.units]
        return name_of(self.units[0].stage.level, names)

    @property
    def steps(self) -> int:
        """Optimizer steps, a score counting as one."""
        return max(1, self.units[0].stage.length)


@dataclass(frozen=True)
class Plan:
    """All cells of a multirun, and what they need in all."""

    cells: tuple[Planned, ...]
    asked: int
    moments: Mapping[str, frozenset[Moment]]

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """Every training for every seed that wants it, once, after those that it stands on."""
        found = {
            (stage.key, cell.seed): Unit(stage, cell.seed)
            for cell in self.cells
            for stage in cell.trainings
        }
        return tuple(sorted(found.values(), key=lambda unit: unit.stage.depth))

    def missing(self, store: Store) -> tuple[Unit, ...]:
        """The units that are not stored, or lack a snapshot that somebody needs."""
        return tuple(unit for unit in self.units if not stored(unit, self.moments, store))


def plan(cells: Sequence[Cell]) -> Plan:
    """The plan of these cells; nothing is computed.

    Raises:
        ValueError: a cell is wrong: the first line of every error says where.
    """
    planned = [planned_cell(cell) for cell in cells]
    distinct = {(each.signature, each.seed): each for each in planned}
    moments: dict[str, set[Moment]] = {}
    for last in {last.key: last for each in planned for last in each.lasts}.values():
        for train, moment in _wanted(last):
            moments.setdefault(train.key, set()).add(moment)
    return Plan(
        tuple(distinct.values()),
        sum(len(each.trainings) for each in planned),
        {key: frozenset(wanted) for key, wanted in moments.items()},
    )


def planned_cell(cell: Cell) -> Planned:
    """One cell's stages, from its config alone."""
    config = cell.config
    allowed = (*GROUPS, *MACHINE_KEYS, "report_at")
    for key in config:
        if key not in allowed:
            raise ValueError(f"{key}: no such key{nearest(key, allowed)}; keys are {list(allowed)}")
    if missing := [key for key in (*GROUPS, "seed", "seeds", "report_at") if key not in config]:
        raise ValueError(f"{missing[0]}: it cannot be left out")
    if config["report_at"] not in ("best", "end"):
        raise ValueError(f"report_at: {config['report_at']!r}; it is `best` or `end`")
    layout(cell.report)  # a mistake in it is said before anything runs
    settings = Config({key: value for key, value in config.items() if key not in MACHINE_KEYS})
    lasts, chain = _last_stages(settings, config["data_dir"])
    found = trainings(*lasts)
    labels = {
        group: option
        if group in ("model", "dataset", "method", "recipe") or group in _named(config["method"])
        else None
        for group, option in cell.choices.items()
        if group not in ("tracker", "experiment")
    }
    experiment = cell.choices.get("experiment") or "default"
    return Planned(
        cell,
        Seed.of(config["seed"], config["seeds"]),
        lasts,
        found,
        {stage.key: stage.level for stage in found} if chain else _numbered(lasts),
        digest([experiment, lasts[0].key if chain else _keys(lasts), config["report_at"]]),
        {**labels, "experiment": experiment},
    )


def stored(unit: Unit, moments: Mapping[str, frozenset[Moment]], store: Store) -> bool:
    """Whether nothing of a unit has to be computed. A start can be made again without training.

    A ticket beside a checkpoint belongs to a pack that was killed while it wrote its tickets: it
    is repeated from there with the others, byte for byte.
    """
    key, seed = unit.stage.key, unit.seed
    wanted = moments.get(key, frozenset()) - {"start"}
    whole = all(store.has(key, seed, moment) for moment in ("end", *wanted))
    return whole and not store.checkpoints(key, seed)


def packs(units: Iterable[Unit], *, stack_size: Mapping[str, int], workers: int) -> list[Pack]:
    """Units that can train together, in stacks of near equal size, enough for all workers.

    Units keep the order of their cells, so a pack's next level is mostly the pack beside it and
    two workers can go down their own halves without waiting for each other.
    """
    kinds: dict[tuple[int | str | bool, ...], list[Unit]] = {}
    for unit in units:
        stage = unit.stage
        kind = (*stage.group, *_start(stage), _net(stage))
        kinds.setdefault(kind, []).append(unit)
    made: list[Pack] = []
    for members in kinds.values():
        largest = stack_size[members[0].stage.key]
        count = max(math.ceil(len(members) / largest), min(workers, len(members)))
        edges = [len(members) * i // count for i in range(count + 1)]
        made += [Pack(tuple(members[first:last])) for first, last in itertools.pairwise(edges)]
    return made


def dependencies(packs: Sequence[Pack]) -> dict[str, set[str]]:
    """Which packs must be done before each: those that train what its units are made from."""
    made_by = {(u.stage.key, u.seed): pack.name for pack in packs for u in pack.units}
    return {
        pack.name: {
            made_by[stage.key, unit.seed]
            for unit in pack.units
            for stage in needs(unit.stage)
            if (stage.key, unit.seed) in made_by
        }
        - {pack.name}
        for pack in packs
    }


@functools.cache
def needs(stage: Train) -> tuple[Train, ...]:
    """The trainings whose tickets this one starts from, without what those stand on in turn."""
    found: dict[str, Train] = {}
    waiting = list(stage.inputs)
    while waiting:
        current = waiting.pop()
        if isinstance(current, Train) and not isinstance(current, Evaluate):
            found[current.key] = current
        else:  # what is evaluated is found through its own start
            waiting += current.inputs
    return tuple(found.values())


@functools.cache
def _last_stages(config: Config, data_dir: str) -> tuple[tuple[Train, ...], bool]:
    """What the method returns, and whether it is one chain, all of whose levels are results."""
    task = Task(Call.of(config["dataset"], where="dataset", supplied=("data_dir",)), data_dir)
    dataset = task.dataset
    network = Network.of(config["model"], dataset.input_shape, dataset.classes)
    method = Call.of(config["method"], where="method", supplied=SUPPLIED)
    schedule = Call.of(config["schedule"], where="schedule", supplied=("layers",))
    builders = {
        "init": lambda: Init(network),
        "recipe": lambda: Training.of(task, config["recipe"]),
        "schedule": lambda: schedule(layers=network.layers),
        "mask_criterion": lambda: Criterion.of(config["mask_criterion"]),
        "reset": lambda: reset(config["reset"]),
        "freeze": lambda: reset(config["freeze"], "freeze"),
    }
    last = method(**{name: builders[name]() for name in SUPPLIED if name in method.names})
    lasts = last if isinstance(last, tuple) else (last,)
    if not lasts or not all(isinstance(each, Train) for each in lasts):
        raise ValueError(f"method: `{method.target}` returns {last!r}; it is a Train, or several")
    return lasts, not isinstance(last, tuple)


def _named(method: Mapping[str, Any]) -> tuple[str, ...]:
    return Call(method["_target_"]).names


@functools.cache
def trainings(*lasts: Train) -> tuple[Train, ...]:
    """The trainings up to `lasts`, each once and after those that it stands on."""
    found = (stage for last in lasts for stage in ancestors(last) if isinstance(stage, Train))
    return tuple({stage.key: stage for stage in found}.values())


def _numbered(results: Sequence[Train]) -> dict[str, int]:
    """Several results of one cell by their place, from 0 only where nothing is pruned there."""
    return {stage.key: n for n, stage in enumerate(results, min(1, results[0].level))}


def _keys(lasts: Sequence[Train]) -> list[str]:
    return [last.key for last in lasts]


def _start(stage: Train) -> tuple[int, bool]:
    """Where in the recipe a training starts, and whether with moments of the optimizer."""
    start = stage.start
    return start.step, isinstance(start, Reset) and bool(start.reset.bound().get("momentum"))


@functools.cache
def _net(stage: Train) -> str:
    return digest(stage.network.identity())


def _wanted(last: Train) -> Iterable[tuple[Train, Moment]]:
    """The snapshots that the stages up to `last` need beside each training's end."""
    for stage in ancestors(last):
        found: Iterable[tuple[Train | Init, Moment] | None] = ()
        if isinstance(stage, Prune):
            found = [snapshot for _, snapshot in stage.evidence]
        elif isinstance(stage, Reset):
            found = stage.evidence.values()
        for snapshot in found:
            if snapshot is None or snapshot[1] == "end":
                continue
            train, moment = snapshot
            if isinstance(train, Init):
                continue
            if moment != "start" or not isinstance(train.start, Init):
                yield train, moment
