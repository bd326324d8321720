"""Refuse keys of Hydra that have no effect with our launchers, and say what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

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
"""Keys of Hydra without effect: the value of each in config.yaml, and what to do instead."""


def refuse_unused(hydra: DictConfig) -> None:
    """Raises: ValueError: a key of Hydra is set that has no effect with our launchers."""
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
