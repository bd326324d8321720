"""The settings of a cell: its config with dotted keys, by which lines are told apart.

A cell from an earlier version of this package gets the settings that were added since then, so that
it shares a line with cells of today that have the same key.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import yaml

from lt_sweeps.config.errors import CONF
from lt_sweeps.config.keys import MACHINE_KEYS

# Keys and groups of a config that change no result: cells that differ in them make one curve.
ASIDE = {*MACHINE_KEYS, "experiment", "hydra"}
_LATER = {
    "precision": "float32",
    "mask_criterion": {"granularity": "weight"},
    "model": {"weights": None, "redraw": []},
    "recipe": {"clip": None},
}
"""Keys that cells of earlier versions lack, with the values that those versions used."""


def taken_settings(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The settings of a config, without those of groups that the method does not accept."""
    untaken = tuple(f"{name}." for name, option in choices.items() if option is None)
    return {k: v for k, v in _settings(config).items() if not k.startswith(untaken)}


def as_today(chosen: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choices, with an option added for each group that an earlier version did not have.

    So a cell of an earlier version and one of today with the same key share a line.
    """
    earlier = _is_planned(config) and "task" not in chosen
    return {**chosen, "task": "classification"} if earlier else chosen


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config, with defaults added for settings that an earlier version lacked."""
    settings = _flat(config)
    if not _is_planned(config):
        return settings
    later = _flat(_LATER) | ({} if "task" in config else _default_task())
    absent = {k: v for k, v in later.items() if not any(name.startswith(k) for name in settings)}
    return absent | settings


def _is_planned(config: Mapping[str, Any]) -> bool:
    """Whether this package computed a cell: configs of imported cells have no `report_at`."""
    return "report_at" in config


@functools.cache
def _default_task() -> dict[str, Any]:
    """The settings of `task=classification`, the only task of earlier versions."""
    path = CONF / "task" / "classification.yaml"
    return _flat({"task": yaml.safe_load(path.read_text("utf-8"))}) if path.exists() else {}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key in ASIDE:
            continue
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
