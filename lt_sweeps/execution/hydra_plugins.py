"""The sweeper and the launchers as Hydra plugins; torch is imported only when something runs."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import Container, DictConfig, OmegaConf, flag_override, read_write

from lt_sweeps.config.call import Call, digest
from lt_sweeps.config.cells import Cell, SweepSpec, multirun
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.config.taken_options import group_of, has_key, refuse_untaken

_log = logging.getLogger("lt_sweeps")

_ROOT = "root=DIR says where tickets, runs and sweeps lie"
_NAME = "name=NAME says what the sweep's folder is called"
_LOGS = "`lt-sweeps logs SWEEP CELL` prints the logs"
_ENVIRONMENT = "export it in the shell, or set hydra.launcher.environment of a cluster's launcher"
_REPLACED: Mapping[str, tuple[Any, str]] = {
    "run.dir": (".", _ROOT),
    "sweep.dir": ("${root}/hydra", _ROOT),
    "sweep.subdir": ("${hydra.job.num}", _NAME),
    "job.name": ("lt_sweeps", _NAME),
    "job.chdir": (False, "the work stays in this folder; give root= and data_dir= as whole paths"),
    "job.env_set": ({}, _ENVIRONMENT),
    "output_subdir": (None, "each cell's config is in ROOT/runs/SIGNATURE/SEED/config.yaml"),
    "verbose": (False, _LOGS),
}
"""Keys of Hydra that our launchers do not use: their value in config.yaml, and what to do."""


def register(words: Sequence[str] = ()) -> None:
    """Register the plugins with Hydra under their own import paths.

    Args:
        words: all overrides of the command line, where our sweeper composes some of them itself.

    Hydra 1.3 accepts only plugins of the namespace package `hydra_plugins`, which it looks for in
    the folders of `sys.path`. It does not find that package in an editable install (1.4 warns of
    it), nor in a clone that was never installed. Hydra 1.4 accepts every registered class. Hydra
    1.3 does so too, once its check of the name is replaced by a look at the registered classes.
    """
    CellSweeper.words = tuple(words)
    plugins = Plugins.instance()
    for plugin in (CellSweeper, CellLauncher, PlanLauncher, SlurmLauncher):
        plugins.register(plugin)
    if hasattr(Plugins, "is_in_toplevel_plugins_module"):
        names = plugins.class_name_to_class
        setattr(Plugins, "is_in_toplevel_plugins_module", staticmethod(names.__contains__))  # noqa: B010


def is_held(word: str) -> bool:
    """Whether our sweeper composes an override that Hydra cannot: `method.every=50it`.

    Hydra lays it over the default option before a multirun is expanded, and refuses it if that
    option lacks the key, though options that the multirun tries may have it.
    """
    key = word.partition("=")[0]
    return "." in key and group_of(key) is not None and not _is_swept(word)


def _is_swept(word: str) -> bool:
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:  # Hydra says what is wrong with it
        return True


def _refuse_unused(hydra: DictConfig) -> None:
    """Raises: ValueError: a key of Hydra is set that our launchers would not obey."""
    given = OmegaConf.to_container(hydra, resolve=False)
    assert isinstance(given, dict)
    for key, (default, instead) in _REPLACED.items():
        value: Any = given
        for name in key.split("."):
            value = value[name]
        if value != default:
            raise ValueError(f"hydra.{key}: {value!r} has no effect with this launcher; {instead}")
    if (option := hydra.runtime.choices.get("hydra/job_logging")) != "none":
        raise ValueError(f"hydra/job_logging: {option} has no effect with this launcher; {_LOGS}")
    for name, callback in (hydra.callbacks or {}).items():
        kind = get_class(callback["_target_"])
        for event in ("on_job_start", "on_job_end"):
            if getattr(kind, event, None) is not getattr(Callback, event):
                raise ValueError(
                    f"hydra.callbacks.{name}: `{kind.__name__}.{event}` is not called by this "
                    "launcher, whose packs train many cells; use on_multirun_start or _end"
                )


def searches(hydra: DictConfig) -> bool:
    """Whether the sweeper looks at what a trial returns; grids, ours and Hydra's own, do not."""
    return not issubclass(get_class(hydra.sweeper["_target_"]), CellSweeper | BasicSweeper)


class SearchSweep(Callback):
    """Has all trials of a multirun join one sweep, where a sweeper or a launcher is not ours.

    Each of its jobs is a command of its own, here or in another process. A word that all of them
    are given, `search=NAME`, says which sweep they join, and it is reported when all have ended.
    """

    begun: ClassVar[DictConfig | None] = None  # the config of the multirun

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        hydra = config.hydra
        if not all("_target_" in plugin for plugin in (hydra.sweeper, hydra.launcher)):
            return  # Hydra refuses it; what a callback raises is only a warning
        for kind in ("sweeper", "launcher"):
            _register_own(kind, hydra[kind])
        ours = ((hydra.sweeper, CellSweeper), (hydra.launcher, CellLauncher))
        if all(issubclass(get_class(plugin["_target_"]), kind) for plugin, kind in ours):
            return
        if config.dry_run and not issubclass(get_class(hydra.launcher["_target_"]), CellLauncher):
            option = hydra.runtime.choices.get("hydra/launcher")
            print(f"hydra/launcher={option} would run each combination as a job of its own")
            with flag_override(config, ["readonly", "struct"], False):
                hydra.launcher = {"_target_": f"{__name__}.{PlanLauncher.__name__}"}
        from lt_sweeps.analysis.objective import Objective

        objective = Objective.of(config.objective)
        if searches(hydra):
            said = hydra.sweeper.get("direction")  # Optuna's: a text, or one of its own kind
            task: Any = OmegaConf.to_container(config.task) if config.get("task") else None
            objective.check_direction(str(getattr(said, "name", said)), task)
        if objective.looks_at_test and searches(hydra):
            _log.warning(
                "objective: %s: what is tuned on the test set is reported too well on it; "
                "val_accuracy leaves the test set for the result",
                config.objective,
            )
        words = hydra.overrides.task  # which Hydra 1.4 makes read-only by itself
        with flag_override(config, ["readonly", "struct"], False), read_write(words):
            config.search = _search_name(hydra)
            words.append(f"search={config.search}")
        SearchSweep.begun = config


def _register_own(kind: str, config: DictConfig) -> None:
    """Register a sweeper or launcher of a user's, which no package `hydra_plugins` brings.

    Raises: ValueError: its `_target_` is not a class of that kind, or cannot be imported.
    """
    target = str(config["_target_"])
    known = Plugins.instance().class_name_to_class
    plugin = known.get(target) or Call(target).function
    base = Launcher if kind == "launcher" else Sweeper
    if not (inspect.isclass(plugin) and issubclass(plugin, base)):
        raise ValueError(
            f"hydra/{kind}: `{target}` is not a Hydra {kind}; derive it from "
            f"`{base.__module__}.{base.__name__}`"
        )
    Plugins.instance().register(plugin)


def _search_name(hydra: DictConfig) -> str:
    """The same for the same words, so that a search that is started again goes on in its sweep."""
    aside = ("report", "data_dir", *SHARED_KEYS)
    task = [w for w in hydra.overrides.task if re.split(r"[.=]", w.lstrip("+~"))[0] not in aside]
    sweeper = OmegaConf.to_container(hydra.sweeper)
    params = sweeper.get("params") if isinstance(sweeper, dict) else None
    choices = [hydra.runtime.choices.get(group) for group in ("experiment", "hydra/sweeper")]
    names = [choices[0] or "default", choices[1] or "search", digest([task, params])[:8]]
    return "-".join(names).replace("/", "-")


@contextmanager
def search_reported() -> Iterator[None]:
    """Report the sweep of a search at its end, also after a trial that failed."""
    SearchSweep.begun = None
    try:
        yield
    except Exception:
        _end_search()
        raise
    _end_search()


def _end_search() -> None:
    config = SearchSweep.begun
    if config is None or config.dry_run:
        return
    launcher = get_class(config.hydra.launcher["_target_"])
    if issubclass(launcher, CellLauncher) and not launcher.waits:
        return
    from lt_sweeps.execution.local_launcher import end_search

    name = config.search if config.name is None else str(config.name)
    end_search(Path(config.root) / "sweeps" / name, config.keep)


class CellLauncher(Launcher):
    """Runs all cells of a multirun as one plan, so that they share trainings and stacks."""

    waits: ClassVar[bool] = True  # whether it returns when the results are there

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config
        _refuse_unused(config.hydra)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose each job by itself and run all: the entry for other people's sweepers.

        What is returned holds the objective of each trial; one without is a failed job, and its
        sweeper says how many it allows.
        """
        searched = searches(self.config.hydra)
        if searched and not self.waits:
            raise ValueError(
                "hydra/launcher: a search waits for each trial's result, and this launcher returns "
                "when jobs are submitted; use hydra/launcher=local in a job of your own"
            )
        if searched and not self.config.dry_run:  # others write there, and Hydra's own make it
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        trials = [self._trial(overrides) for overrides in job_overrides]
        status = self.start([cell for trial in trials for cell in trial])
        if trials[0][0].config["dry_run"]:  # the others depend on what these return
            sys.exit(status)
        pairs = zip(job_overrides, trials, strict=True)
        return [self._returned(overrides, trial) for overrides, trial in pairs]

    def _trial(self, overrides: Sequence[str]) -> list[Cell]:
        """The cells of one job: a seed each."""
        loader = self.hydra_context.config_loader
        composed = multirun(loader, self.config, SweepSpec(), overrides)
        # A search tries a method that takes no criterion with any criterion.
        lacking = [tuple(k for k in c.untaken if not has_key(c.config, k)) for c in composed]
        pairs = zip(composed, lacking, strict=True)
        refuse_untaken([replace(cell, untaken=keys) for cell, keys in pairs])
        from lt_sweeps.execution.search_trial import by_seed

        return [cell for each in composed for cell in by_seed(each)]

    def _returned(self, overrides: Sequence[str], trial: Sequence[Cell]) -> JobReturn:
        from lt_sweeps.execution.search_trial import FailedTrial, objective_of

        returned = JobReturn(status=JobStatus.COMPLETED, overrides=overrides)
        if self.waits:
            try:
                returned.return_value = objective_of(trial, searched=searches(self.config.hydra))
            except FailedTrial as error:
                returned.status, returned.return_value = JobStatus.FAILED, error
        return returned

    def launch_cells(self, cells: list[Cell]) -> Sequence[JobReturn]:
        """Run the cells to their end; a failure ends the process with its exit status."""
        status = self.start(cells)
        if status:
            sys.exit(status)
        # Sweepers read `return_value`, which raises for any other status.
        return [JobReturn(status=JobStatus.COMPLETED, overrides=cell.overrides) for cell in cells]

    def start(self, cells: list[Cell]) -> int:
        """Run the cells on this machine; returns the exit status."""
        from lt_sweeps.execution import local_launcher

        return local_launcher.launch(cells, words=CellSweeper.words)


class PlanLauncher(CellLauncher):
    """Plans, and starts nothing, in the place of a launcher that is not ours."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch_cells(self, cells: list[Cell]) -> Sequence[JobReturn]:
        from lt_sweeps.execution.search_trial import by_seed

        return super().launch_cells([each for cell in cells for each in by_seed(cell)])


class SlurmLauncher(CellLauncher):
    """Submits the cells of a multirun to a Slurm cluster and returns without waiting."""

    waits = False

    def __init__(self, **profile: Any) -> None:
        self.profile = profile

    def start(self, cells: list[Cell]) -> int:
        from lt_sweeps.execution.slurm import slurm_launcher
        from lt_sweeps.execution.slurm.resources import SlurmResources

        values = {
            name: OmegaConf.to_container(value, resolve=True)
            if isinstance(value, Container)
            else value
            for name, value in self.profile.items()
        }
        resources = SlurmResources.of(values)
        return slurm_launcher.submit_cells(cells, resources, words=CellSweeper.words)


class CellSweeper(Sweeper):
    """Expands a multirun into cells and hands all of them to the launcher at once.

    `words` are all overrides of the command line; Hydra got those that are not held (`is_held`).
    """

    words: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **spec: Any) -> None:
        """Ignore `spec`: what is swept is read from the config, anew for each experiment."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        assert self.config is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        words = [w for w in self.words if w in arguments or is_held(w)]
        words += [w for w in arguments if w not in self.words]
        cells = multirun(loader, self.config, SweepSpec.of(self.config), words)
        refuse_untaken(cells)
        if isinstance(self.launcher, CellLauncher):
            return self.launcher.launch_cells(cells)
        assert self.launcher is not None
        jobs = [list(cell.overrides) for cell in cells]
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        for job in returns:
            _ = job.return_value  # raises what the job raised
        return returns
