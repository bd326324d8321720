"""`SearchSweep`: the one sweep that the trials of a multirun join, where a plugin is not ours."""

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
from omegaconf import DictConfig, OmegaConf, flag_override, read_write

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.execution.hydra_plugins import CellLauncher, CellSweeper, PlanLauncher, searches

_log = logging.getLogger("lt_sweeps")


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
        ours = issubclass(get_class(hydra.launcher["_target_"]), CellLauncher)
        if ours and issubclass(get_class(hydra.sweeper["_target_"]), CellSweeper):
            return
        if config.dry_run and not ours:
            option = hydra.runtime.choices.get("hydra/launcher")
            print(f"hydra/launcher={option} would run each combination as a job of its own")
            with flag_override(config, ["readonly", "struct"], False):
                hydra.launcher = {"_target_": f"{PlanLauncher.__module__}.{PlanLauncher.__name__}"}
        _check_objective(config)
        words = hydra.overrides.task  # which Hydra 1.4 makes read-only by itself
        with flag_override(config, ["readonly", "struct"], False), read_write(words):
            config.search = _search_name(hydra)
            words.append(f"search={config.search}")
        SearchSweep.begun = config


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


def _check_objective(config: DictConfig) -> None:
    """Raises: ValueError: there is no such objective, or the search goes the other way."""
    from lt_sweeps.analysis.objective import Objective

    objective, sweeper = Objective.of(config.objective), config.hydra.sweeper
    if not searches(config.hydra):
        return
    said = sweeper.get("direction")  # Optuna's: a text, or one of its own kind
    task: Any = OmegaConf.to_container(config.task) if config.get("task") else None
    objective.check_direction(str(getattr(said, "name", said)), task)
    if objective.looks_at_test:
        _log.warning(
            "objective: %s: what is tuned on the test set is reported too well on it; "
            "val_accuracy leaves the test set for the result",
            config.objective,
        )


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
