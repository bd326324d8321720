"""`SearchSweep`: make all trials of a multirun join one sweep if a Hydra plugin is not ours."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, read_write

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.config.quantities import looks_at_test
from lt_sweeps.execution.hydra_plugins import CellLauncher, CellSweeper, PlanLauncher, searches

_log = logging.getLogger("lt_sweeps")


class _Refused(BaseException):
    """An error of our callback: Hydra turns any `Exception` of a callback into a warning."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class SearchSweep(Callback):
    """A Hydra callback that makes all trials of a multirun join one sweep.

    It acts if the sweeper or the launcher is not ours. Then each job is a separate command, in this
    process or in another. All jobs get the override `search=NAME`, which names the sweep that they
    join. The sweep is reported when all jobs have ended.
    """

    begun: ClassVar[DictConfig | None] = None  # the config of the multirun

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            self._join(config)
        except Exception as error:
            raise _Refused(error) from None

    def _join(self, config: DictConfig) -> None:
        hydra = config.hydra
        if not all("_target_" in plugin for plugin in (hydra.sweeper, hydra.launcher)):
            return  # Hydra refuses it itself
        for kind in ("sweeper", "launcher"):
            _register_own(kind, hydra[kind])
        ours = issubclass(get_class(hydra.launcher["_target_"]), CellLauncher)
        if ours and issubclass(get_class(hydra.sweeper["_target_"]), CellSweeper):
            return
        if config.dry_run and not ours:
            option = hydra.runtime.choices.get("hydra/launcher")
            print(f"hydra/launcher={option} would run each combination as a job of its own")
            with flag_override(config, ["readonly", "struct"], False):
                hydra.launcher = {"_target_": f"{PlanLauncher.__module__}.{PlanLauncher.__name__}"}
        _check_objective(config)
        words = hydra.overrides.task  # Hydra 1.4 makes this list read-only
        with flag_override(config, ["readonly", "struct"], False), read_write(words):
            config.search = _search_name(hydra)
            words.append(f"search={config.search}")
        SearchSweep.begun = config


@contextmanager
def search_reported() -> Iterator[None]:
    """Report the sweep of a search when the block ends, even if a trial failed.

    Raises: ValueError: the search was refused (see `SearchSweep`).
    """
    SearchSweep.begun = None
    try:
        yield
    except _Refused as refused:
        raise refused.error from None
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


def _check_objective(config: DictConfig) -> None:
    """Check the objective; warn if it looks at the test set.

    Raises: ValueError: the objective is unknown, or the sweeper's direction does not fit it.
    """
    from lt_sweeps.analysis.objective import Objective

    objective, sweeper = Objective.of(config.objective), config.hydra.sweeper
    if not searches(config.hydra):
        return
    said = sweeper.get("direction")  # Optuna's key: a str or an enum, or a list of them
    directions = list(said) if isinstance(said, ListConfig) else [said]
    if len(directions) != 1:
        raise ValueError(
            f"hydra.sweeper.direction: got {len(directions)} directions; an objective is one number"
        )
    task: Any = OmegaConf.to_container(config.task) if config.get("task") else None
    objective.check_direction(str(getattr(directions[0], "name", directions[0])), task)
    if looks_at_test(objective.name):
        _log.warning(
            "objective: %s: a search that is tuned on the test set reports too good a test "
            "result; val_accuracy keeps the test set for the result",
            config.objective,
        )


def _register_own(kind: str, config: DictConfig) -> None:
    """Register a user-defined sweeper or launcher, which is not in a `hydra_plugins` package.

    Raises: ValueError: its `_target_` cannot be imported, or is not a class of that kind.
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
    """Name a search by its overrides, so that starting it again continues in the same sweep."""
    aside = ("report", "data_dir", *SHARED_KEYS)
    task = [w for w in hydra.overrides.task if re.split(r"[.=]", w.lstrip("+~"))[0] not in aside]
    sweeper = OmegaConf.to_container(hydra.sweeper)
    params = sweeper.get("params") if isinstance(sweeper, dict) else None
    choices = [hydra.runtime.choices.get(group) for group in ("experiment", "hydra/sweeper")]
    names = [choices[0] or "default", choices[1] or "search", digest([task, params])[:8]]
    return "-".join(names).replace("/", "-")
