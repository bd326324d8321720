"""The plan: every cell's stages, each once, and the packs that compute what is not stored."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lt_sweeps.config.call import Call, Config, digest, nearest
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import GROUPS, MACHINE_KEYS, SUPPLIED
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.seeds import Seed
from lt_sweeps.config.taken_options import groups_taken, not_taken
from lt_sweeps.data.image_transforms import ImageTransforms
from lt_sweeps.models.network import Network
from lt_sweeps.plan.optimizer_checks import check_clip, check_optimizer
from lt_sweeps.plan.stages import Init, Moment, Prune, Task, Training, Work, ancestors
from lt_sweeps.plan.stages.task_kind import TaskKind
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.evidence import Criterion, reset
from lt_sweeps.sparsity.granularity import Granularity
from lt_sweeps.sparsity.group_schedules import check_schedule, group_counts
from lt_sweeps.sparsity.schedules import targets_of
from lt_sweeps.storage.dropped_tickets import read_dropped
from lt_sweeps.storage.manifest import pack_name
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store


@dataclass(frozen=True)
class Planned:
    """A cell with what it takes: its seed, its last stages, and all work up to there.

    `signature` names the cell for all its seeds: equal for cells that ask for the same thing.
    `labels` are the options that count in it; None for a group that the method does not take.
    `levels` has the level of every work that is a result, by key; all other work is the search.
    """

    cell: Cell
    seed: Seed
    lasts: tuple[Work, ...]
    trainings: tuple[Work, ...]
    levels: Mapping[str, int]
    signature: str
    labels: Mapping[str, str | None]

    @property
    def last(self) -> Work:
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
        return pack_name(self.units[0].stage.level, names)

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
    notes: tuple[str, ...] = ()  # what was given and is not taken

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """All work for every seed that needs it, once, after the work that it starts from."""
        units = {
            (stage.key, cell.seed): Unit(stage, cell.seed)
            for cell in self.cells
            for stage in cell.trainings
        }
        return tuple(sorted(units.values(), key=lambda unit: unit.stage.depth))

    @functools.cached_property
    def best_reported(self) -> frozenset[str]:
        """The keys of trainings whose best evaluation a cell reports, and not the end."""
        best = (cell for cell in self.cells if cell.report_at == "best")
        return frozenset(s.key for cell in best for s in cell.trainings if s.key in cell.levels)

    def missing(self, store: Store, *, thorough: bool = False) -> tuple[Unit, ...]:
        """The units that are not stored, or lack a snapshot that a later stage needs.

        With `thorough` all that is stored is read and compared with its stage, not only its head,
        unless that was done before and no file has changed since.
        """
        tickets = StoredTickets(store, thorough=thorough)
        missing = tuple(unit for unit in self.units if not stored(unit, self.moments, tickets))
        tickets.verified.save()
        dropped = read_dropped(store.root) if missing else {}
        return self._needed(missing, tickets, dropped) if dropped else missing

    def _needed(
        self,
        missing: Sequence[Unit],
        tickets: StoredTickets,
        dropped: Mapping[str, frozenset[str]],
    ) -> tuple[Unit, ...]:
        """The missing units without those that were dropped and whose results records hold."""
        spared: set[tuple[str, Seed]] = set()
        for unit in missing:
            moments = ("end", *(self.moments.get(unit.stage.key, frozenset()) - {"start"}))
            if tickets.has_only_dropped(unit.stage, unit.seed, moments, dropped):
                spared.add((unit.stage.key, unit.seed))
        for cell in self.cells:
            keys = {(stage.key, cell.seed) for stage in cell.trainings}
            if keys & spared and not _is_done(cell, tickets.store):
                spared -= keys
        for unit in missing:  # what is computed needs all that it starts from
            if (unit.stage.key, unit.seed) not in spared:
                spared -= {(stage.key, unit.seed) for stage in ancestors(unit.stage)}
        return tuple(unit for unit in missing if (unit.stage.key, unit.seed) not in spared)


def plan(cells: Sequence[Cell]) -> Plan:
    """The plan of these cells; nothing is computed.

    Raises:
        ValueError: a cell is wrong: the first line of every error says where.
    """
    planned = [planned_cell(cell) for cell in cells]
    _check_defaults_of_torch()
    distinct = {(cell.signature, cell.seed): cell for cell in planned}
    moments: dict[str, set[Moment]] = {}
    lasts = {last.key: last for cell in planned for last in cell.lasts}.values()
    for stage in itertools.chain.from_iterable(map(ancestors, lasts)):
        for source, moment in stage.snapshots:
            if source.must_save(moment):
                moments.setdefault(source.key, set()).add(moment)
    return Plan(
        tuple(distinct.values()),
        sum(len(cell.trainings) for cell in planned),
        {key: frozenset(wanted) for key, wanted in moments.items()},
        tuple(dict.fromkeys(_notes(planned))),
    )


def _check_defaults_of_torch() -> None:
    """Raises: ValueError: a module of the user's has changed what every network is made of.

    Planning has imported these modules. The initial weights of a network of ours would be drawn
    otherwise, and stored under the key that all other sweeps share.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32 or device.type != "cpu":
        raise ValueError(
            f"torch: its default dtype is {dtype} and its default device {device.type}, which a "
            "module of yours sets; networks begin as torch.float32 on the cpu, so set neither"
        )


def planned_cell(cell: Cell) -> Planned:
    """One cell's stages, from its config alone."""
    config = cell.config
    allowed = (*GROUPS, "task", *MACHINE_KEYS, "precision", "report_at")
    for key in config:
        if key not in allowed:
            near = nearest(key, allowed) or ";"
            raise ValueError(f"{key}: unknown key{near} keys: {', '.join(sorted(allowed))}")
    if missing := [key for key in (*GROUPS, "seed", "seeds", "report_at") if key not in config]:
        raise ValueError(f"{missing[0]}: it cannot be left out")
    if config["report_at"] not in ("best", "end"):
        raise ValueError(f"report_at: {config['report_at']!r}; it is `best` or `end`")
    _check_layout(Config(cell.report))  # a mistake in it is said before anything runs
    settings = Config({key: value for key, value in config.items() if key not in MACHINE_KEYS})
    lasts, chain = _last_stages(settings, config["data_dir"])
    work, keys = trainings(*lasts), [last.key for last in lasts]
    ignored = set(SUPPLIED) - set(groups_taken(config["method"]))
    labels = {
        group: None if group in ignored else option
        for group, option in cell.choices.items()
        if group not in ("tracker", "experiment")
    }
    experiment = cell.choices.get("experiment") or "default"
    return Planned(
        cell,
        Seed.of(config["seed"], config["seeds"]),
        lasts,
        work,
        {stage.key: stage.level for stage in work} if chain else _numbered(lasts),
        digest([experiment, keys[0] if chain else keys, config["report_at"]]),
        {**labels, "experiment": experiment},
    )


@functools.cache  # most cells of a sweep share one
def _check_layout(report: Config) -> None:
    layout(report)


def _notes(planned: Sequence[Planned]) -> Iterator[str]:
    """What some cells do not take: groups that were swept for them, and keys that were given.

    And what a seed changes, where it does not draw the weights; and milestones that do nothing.
    """
    alike: dict[str, list[Planned]] = {}
    for cell in planned:
        alike.setdefault(cell.signature, []).append(cell)
    for cells in alike.values():
        method, folded = cells[0].labels["method"], set[str]()
        network = cells[0].last.network
        if network.weights is not None:
            drawn = ", ".join(sorted(network.drawn)) or "no weights"
            yield (
                f"{cells[0].labels['model']} begins with {network.weights.said}; a seed changes "
                f"the order of batches, augmentation, noise and {drawn}"
            )
        for recipe in dict.fromkeys(work.training.recipe for work in cells[0].trainings):
            if late := ", ".join(map(str, recipe.unreached)):
                yield (
                    f"recipe.milestones: {late} of a training of {recipe.length} steps; a "
                    "milestone at its end or later does nothing"
                )
        for group in GROUPS:
            options = {cell.cell.choices.get(group) for cell in cells}
            if cells[0].labels.get(group) is None and len(options) > 1:
                folded.add(group)
                yield f"{method} takes no {group}: one line instead of {len(options)}"
        if not folded:
            yield from _alike([cell.cell for cell in cells if cell.seed == cells[0].seed])
        for cell in cells:
            for key in cell.cell.untaken:
                if key not in folded:
                    yield not_taken(key, cell.cell)
        prunings = [s for s in ancestors(cells[0].last) if isinstance(s, Prune)]
        if prunings and (grouped := prunings[0].criterion.granularity) is not None:
            targets = [pruning.target for pruning in prunings]
            yield from group_counts(grouped, targets, prunings[0].network)


def _alike(cells: Sequence[Cell]) -> Iterator[str]:
    """That cells with other overrides lead to the same stages, by the overrides that differ."""
    words = dict.fromkeys(word for cell in cells for word in cell.overrides)
    differing = [word for word in words if not all(word in cell.overrides for cell in cells)]
    if differing:
        yield f"{', '.join(differing)} compute the same: one line instead of {len(cells)}"


def stored(unit: Unit, moments: Mapping[str, frozenset[Moment]], tickets: StoredTickets) -> bool:
    """Whether nothing of a unit has to be computed; its start can be made again without training.

    A ticket beside a checkpoint belongs to a pack that was killed while it wrote its tickets. The
    pack then goes on from the checkpoint and writes them again, with the same bytes.
    """
    stage, seed = unit.stage, unit.seed
    wanted = ("end", *(moments.get(stage.key, frozenset()) - {"start"}))
    whole = all(tickets.holds(stage, seed, moment) for moment in wanted)
    return whole and not tickets.is_training(stage.key, seed)


def _is_done(cell: Planned, store: Store) -> bool:
    folder = RunFolder.of(store.root, cell.signature, cell.seed)
    stored = folder.read(stages=[stage.key for stage in cell.trainings])
    return stored.done and not stored.faults


def packs(units: Iterable[Unit], *, stack_size: Mapping[str, int], workers: int) -> list[Pack]:
    """Units that can train together, in stacks of near equal size, enough for all workers.

    Units keep the order of their cells, so that the units of a pack stay together at the next
    level, and two workers can each go through the levels of their half without waiting.
    """
    kinds: dict[tuple[int | str | bool, ...], list[Unit]] = {}
    for unit in units:
        stage, start = unit.stage, unit.stage.start
        kind = (*stage.group, start.step, start.has_momentum, _network_key(stage.network))
        kinds.setdefault(kind, []).append(unit)
    stacks: list[Pack] = []
    for members in kinds.values():
        largest = stack_size[members[0].stage.key]
        count = max(math.ceil(len(members) / largest), min(workers, len(members)))
        edges = [len(members) * i // count for i in range(count + 1)]
        stacks += [Pack(tuple(members[first:last])) for first, last in itertools.pairwise(edges)]
    return stacks


def dependencies(packs: Sequence[Pack]) -> dict[str, set[str]]:
    """The packs that must be done before each pack, by name: they train what it starts from."""
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
def needs(stage: Work) -> tuple[Work, ...]:
    """The work whose stored tickets a stage starts from, without what that starts from."""
    stored: dict[str, Work] = {}
    waiting = list(stage.inputs)
    while waiting:
        current = waiting.pop()
        if isinstance(current, Work) and current.stores_ticket:
            stored[current.key] = current
        else:  # a score stores no ticket: its own start has it
            waiting += current.inputs
    return tuple(stored.values())


@functools.cache
def _last_stages(config: Config, data_dir: str) -> tuple[tuple[Work, ...], bool]:
    """What the method returns, and whether it is one chain, all of whose levels are results."""
    data = Call.of(config["dataset"], where="dataset", supplied=("data_dir",))
    task = Task(data, data_dir, TaskKind.of(config.get("task")))  # none in an earlier frozen cell
    dataset = task.dataset
    shape, dtype = dataset.input_shape, dataset.input_dtype
    network = Network.of(config["model"], shape, dataset.outputs, task.kind.output, dtype)
    method = Call.of(config["method"], where="method", supplied=SUPPLIED)
    schedule = Call.of(config["schedule"], where="schedule", supplied=("layers",))
    precision = config.get("precision", "float32")  # none in a cell frozen before there was one
    builders = {
        "init": lambda: Init(network),
        "recipe": lambda: Training.of(task, config["recipe"], precision=precision),
        "schedule": lambda: targets_of(schedule, network.layers),
        "mask_criterion": lambda: Criterion.of(config["mask_criterion"]),
        "reset": lambda: reset(config["reset"]),
        "freeze": lambda: reset(config["freeze"], "freeze"),
    }
    given = {name: builders[name]() for name in SUPPLIED if name in method.names}
    if (grouped := _granularity(given)) is not None:
        check_schedule(grouped, given.get("schedule", ()), network)
    last = method(**given)
    lasts = last if isinstance(last, tuple) else (last,)
    if not lasts or not all(isinstance(stage, Work) for stage in lasts):
        raise ValueError(
            f"method: `{method.target}` returned {type(last).__name__}; give a Train, an Evaluate, "
            "or several in a tuple"
        )
    for stage in trainings(*lasts):
        _check_recipe(stage.training.recipe, stage.network, stage.training.task.dataset.input_shape)
    return lasts, not isinstance(last, tuple)


def _granularity(given: Mapping[str, Any]) -> Granularity | None:
    criterion = given.get("mask_criterion")
    return None if criterion is None else criterion.granularity


@functools.cache
def _check_recipe(recipe: Recipe, network: Network, shape: tuple[int, ...]) -> None:
    """Try what a recipe brings of a user's on a network's shapes.

    Raises: ValueError: an optimizer, a clipping or an augmentation that cannot do what is asked.
    """
    shapes = {name: tuple(p.shape) for name, p in network.module().named_parameters()}
    if isinstance(recipe.optimizer, Call):
        check_optimizer(recipe.optimizer, list(shapes.values()), recipe.lr)
    if recipe.clip is not None and not recipe.clip.ours:
        check_clip(recipe.clip, shapes)
    if isinstance(recipe.augment, tuple):
        ImageTransforms(recipe.augment).check(shape)


@functools.cache
def trainings(*lasts: Work) -> tuple[Work, ...]:
    """All work up to `lasts`, each once and after the work that it starts from."""
    work = (stage for last in lasts for stage in ancestors(last) if isinstance(stage, Work))
    return tuple({stage.key: stage for stage in work}.values())


def _numbered(results: Sequence[Work]) -> dict[str, int]:
    """Levels of several results: their places, from 0 where the first is dense and from 1 else."""
    return {stage.key: n for n, stage in enumerate(results, min(1, results[0].level))}


@functools.cache
def _network_key(network: Network) -> str:
    return digest({**network.identity(), **network.told_kinds})
