"""Our sweeper and launchers as Hydra plugins; torch is imported only when something runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from lt_sweeps.config.cells import Cell, multirun
from lt_sweeps.config.composition import Composer
from lt_sweeps.config.sweep_spec import SweepSpec
from lt_sweeps.config.taken_options import group_of, has_key, refuse_untaken
from lt_sweeps.execution.unused_hydra_keys import refuse_unused


def register(words: Sequence[str] = ()) -> None:
    """Register the plugins with Hydra under their own import paths.

    Args:
        words: all overrides of the command line; our sweeper composes some of them itself.

    Hydra 1.3 accepts only plugins of the namespace package `hydra_plugins`, which it searches for
    in the folders of `sys.path`. It does not find that package in an editable install (1.4 warns
    about it), nor in a clone that was never installed. Hydra 1.4 accepts every registered class. To
    make Hydra 1.3 do the same, its check of a plugin's package name is replaced by a check whether
    the class is registered.
    """
    CellSweeper.words = tuple(words)
    plugins = Plugins.instance()
    for plugin in (CellSweeper, CellLauncher, PlanLauncher, SlurmLauncher):
        plugins.register(plugin)
    if hasattr(Plugins, "is_in_toplevel_plugins_module"):
        names = plugins.class_name_to_class
        setattr(Plugins, "is_in_toplevel_plugins_module", staticmethod(names.__contains__))  # noqa: B010


def is_held(word: str) -> bool:
    """Whether an override is held back from Hydra and composed by our sweeper: `method.every=50it`.

    Before a multirun is expanded, Hydra applies an override to the default option of its group. It
    refuses the override if that option lacks the key, although an option of the multirun may have
    it.
    """
    key = word.partition("=")[0]
    return "." in key and group_of(key) is not None and not _is_swept(word)


def _is_swept(word: str) -> bool:
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:  # not held back, so that Hydra reports the error
        return True


def searches(hydra: DictConfig) -> bool:
    """Whether the sweeper uses the value that a trial returns; our and Hydra's grids do not."""
    return not issubclass(get_class(hydra.sweeper["_target_"]), CellSweeper | BasicSweeper)


class CellLauncher(Launcher):
    """A launcher that runs all cells of a multirun as one plan, so that they share trainings."""

    waits: ClassVar[bool] = True  # whether it returns only when the results are there
    plans: ClassVar[bool] = False  # whether it only plans, in place of another launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config
        if not self.plans:
            refuse_unused(config.hydra)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose each job separately and run all of them; third-party sweepers call this.

        Each returned job holds the objective of its trial. A trial without an objective is a failed
        job, and the sweeper decides how many failed jobs it accepts.
        """
        searched = searches(self.config.hydra)
        if searched and not self.waits:
            raise ValueError(
                "hydra/launcher: a search waits for each trial's result, and this launcher returns "
                "when jobs are submitted; use hydra/launcher=local in a job of your own"
            )
        # Third-party sweepers write to this folder, which Hydra's own launchers would create.
        if searched and not self.config.dry_run:
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        trials = [self._trial(overrides) for overrides in job_overrides]
        status = self.start([cell for trial in trials for cell in trial])
        if trials[0][0].config["dry_run"]:  # later trials depend on results, so stop here
            sys.exit(status)
        pairs = zip(job_overrides, trials, strict=True)
        return [self._returned(overrides, trial) for overrides, trial in pairs]

    def _trial(self, overrides: Sequence[str]) -> list[Cell]:
        """The cells of one job, one for each seed."""
        composer = Composer(self.hydra_context.config_loader, self.config)
        composed = multirun(composer, SweepSpec(), overrides)
        # A search may combine any criterion with a method that takes none. So groups that a method
        # does not take are allowed here; only unknown keys are refused.
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
        """Run the cells until they are complete; after a failure, exit with its exit status."""
        status = self.start(cells)
        if status:
            sys.exit(status)
        # Sweepers read `return_value`, which raises an exception for any other status.
        return [JobReturn(status=JobStatus.COMPLETED, overrides=cell.overrides) for cell in cells]

    def start(self, cells: list[Cell]) -> int:
        """Run the cells on this machine; return the exit status."""
        from lt_sweeps.execution import local_launcher

        return local_launcher.launch(cells, words=CellSweeper.words)


class PlanLauncher(CellLauncher):
    """A launcher that only plans, in place of a launcher that is not ours."""

    plans = True

    def launch_cells(self, cells: list[Cell]) -> Sequence[JobReturn]:
        from lt_sweeps.execution.search_trial import by_seed

        return super().launch_cells([each for cell in cells for each in by_seed(cell)])


class SlurmLauncher(CellLauncher):
    """A launcher that submits the cells of a multirun to Slurm and returns without waiting."""

    waits = False

    def __init__(self, **profile: Any) -> None:
        self.profile = profile

    def start(self, cells: list[Cell]) -> int:
        from lt_sweeps.execution.slurm import slurm_launcher
        from lt_sweeps.execution.slurm.resources import SlurmResources

        config = OmegaConf.create(self.profile, flags={"allow_objects": True})
        profile: Any = OmegaConf.to_container(config, resolve=True)
        resources = SlurmResources.of(profile)
        return slurm_launcher.submit_cells(cells, resources, words=CellSweeper.words)


class CellSweeper(Sweeper):
    """A sweeper that expands a multirun into cells and passes all of them to the launcher at once.

    `words` are all overrides of the command line; Hydra got only those that are not held back
    (`is_held`).
    """

    words: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **spec: Any) -> None:
        """Ignore `spec`: the swept keys are read from the config again for each experiment."""

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
        words = [w for w in self.words if w in arguments or is_held(w)]
        words += [w for w in arguments if w not in self.words]
        composer = Composer(self.hydra_context.config_loader, self.config)
        cells = multirun(composer, SweepSpec.of(self.config), words)
        refuse_untaken(cells)
        if isinstance(self.launcher, CellLauncher):
            return self.launcher.launch_cells(cells)
        assert self.launcher is not None
        jobs = [list(cell.overrides) for cell in cells]
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        for job in returns:
            _ = job.return_value  # raises the exception of a failed job
        return returns
