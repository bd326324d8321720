"""`Planned`: one cell with its stages, which its method creates from the cell's config alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import GROUPS, MACHINE_KEYS, SUPPLIED
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.seeds import Seed
from lt_sweeps.config.spelling import nearest
from lt_sweeps.config.taken_options import groups_taken
from lt_sweeps.data.image_transforms import ImageTransforms
from lt_sweeps.models.network import Network
from lt_sweeps.plan.optimizer_checks import check_clip, check_optimizer
from lt_sweeps.plan.stages import Init, Task, Training, Work, trainings
from lt_sweeps.plan.stages.task_kind import TaskKind
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.evidence import Criterion, reset
from lt_sweeps.sparsity.group_schedules import check_schedule
from lt_sweeps.sparsity.schedules import targets_of

_NEEDED = (*GROUPS, "seed", "seeds", "data_dir", "report_at")
_KEYS = (*GROUPS, "task", *MACHINE_KEYS, "precision", "report_at")
_layout = functools.cache(layout)  # most cells of a sweep share one


@dataclass(frozen=True)
class Planned:
    """A cell with its seed, its last stages, and all trainings that lead up to them.

    `signature` identifies the cell without its seed: cells that compute the same thing share it.
    `labels` are the options that matter for it; None for a group that the method does not use.
    `levels` has the level of each training that is a result, by key. All other trainings only
    search for a ticket.
    """

    cell: Cell
    seed: Seed
    lasts: tuple[Work, ...]
    trainings: tuple[Work, ...]
    levels: Mapping[str, int]
    signature: str
    labels: Mapping[str, str | None]

    def __repr__(self) -> str:
        return f"Planned({self.signature}/{self.seed}: {len(self.trainings)} trainings)"

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """All trainings of the cell, for its seed."""
        return tuple(Unit(stage, self.seed) for stage in self.trainings)

    @property
    def last(self) -> Work:
        return self.lasts[-1]

    @property
    def experiment(self) -> str:
        return self.labels["experiment"] or ""

    @property
    def report_at(self) -> str:
        return self.cell.config["report_at"]


def planned_cell(cell: Cell) -> Planned:
    """Plan one cell.

    Raises:
        ValueError: the cell's config is wrong; the message begins with the key.
    """
    config = cell.config
    _check_keys(config)
    _layout(Config(cell.report))  # raises an error for a wrong key before anything runs
    settings = Config({key: value for key, value in config.items() if key not in MACHINE_KEYS})
    lasts, chain = _last_stages(settings, config["data_dir"])
    work, keys = trainings(*lasts), [last.key for last in lasts]
    if chain:
        levels = {stage.key: stage.level for stage in work}
    else:  # count results from 0 if the first is dense, otherwise from 1
        levels = {key: n for n, key in enumerate(keys, min(1, lasts[0].level))}
    experiment = cell.choices.get("experiment") or "default"
    return Planned(
        cell,
        Seed.of(config["seed"], config["seeds"]),
        lasts,
        work,
        levels,
        digest([experiment, keys[0] if chain else keys, config["report_at"]]),
        {**_labels(cell), "experiment": experiment},
    )


def _check_keys(config: Config) -> None:
    if "experiment" in config:  # Hydra puts it there without `# @package _global_`
        raise ValueError("experiment: begin your yaml with `# @package _global_`")
    for key in config:
        if key not in _KEYS:
            near = nearest(key, _KEYS) or ";"
            raise ValueError(f"{key}: unknown key{near} keys: {', '.join(sorted(_KEYS))}")
    if missing := [key for key in _NEEDED if key not in config]:
        raise ValueError(f"{missing[0]}: missing; every config has this key")
    if config["report_at"] not in ("best", "end"):
        raise ValueError(f"report_at: got {config['report_at']!r}; give best or end")


def _labels(cell: Cell) -> dict[str, str | None]:
    """The options of a cell; None for a group that its method does not use."""
    ignored = set(SUPPLIED) - set(groups_taken(cell.config["method"]))
    return {
        group: None if group in ignored else option
        for group, option in cell.choices.items()
        if group not in ("tracker", "experiment")
    }


@functools.cache
def _last_stages(config: Config, data_dir: str) -> tuple[tuple[Work, ...], bool]:
    """The method's last stages, and whether they are one chain whose levels are all results."""
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
    given: dict[str, Any] = {n: builders[n]() for n in SUPPLIED if n in method.names}
    criterion = given.get("mask_criterion")
    if criterion is not None and criterion.granularity is not None:
        check_schedule(criterion.granularity, given.get("schedule", ()), network)
    last = method(**given)
    lasts = last if isinstance(last, tuple) else (last,)
    if not lasts or not all(isinstance(stage, Work) for stage in lasts):
        raise ValueError(
            f"method: `{method.target}` returned {type(last).__name__}; give a Train, an Evaluate, "
            "or several in a tuple"
        )
    for stage in trainings(*lasts):
        _check_recipe(stage.training.recipe, stage.network, stage.training.task.dataset.input_shape)
        if stage.has_batch_of_one:
            _check_batch_of_one(stage.network)
    return lasts, not isinstance(last, tuple)


@functools.cache
def _check_recipe(recipe: Recipe, network: Network, shape: tuple[int, ...]) -> None:
    """Try a recipe's user-defined optimizer, clipping and augmentation on the network's shapes.

    Raises: ValueError: one of them does not work.
    """
    shapes = {name: tuple(p.shape) for name, p in network.module().named_parameters()}
    if isinstance(recipe.optimizer, Call):
        check_optimizer(recipe.optimizer, shapes, recipe.lr)
    if recipe.clip is not None and not recipe.clip.ours:
        check_clip(recipe.clip, shapes)
    if isinstance(recipe.augment, tuple):
        ImageTransforms(recipe.augment).check(shape)


@functools.cache
def _check_batch_of_one(network: Network) -> None:
    """Raises: ValueError: a batch norm of the network needs more than one example."""
    try:
        network.module()(network.example().to("meta"))
    except Exception as error:  # other errors are found when the network is tried before training
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                "recipe.batch_size: an epoch has a batch of one example, and a batch norm of the "
                "network needs two or more; give a larger batch_size or, if only the last batch is "
                "that small, recipe.drop_last=true"
            ) from error
