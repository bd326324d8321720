"""Whose functions may run: those of the package's options, and of modules that a person names."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lt_sweeps.config.call import Call, public_name
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.keys import MACHINE_KEYS


def check_targets(config: Mapping[str, Any], trust: Collection[str] = ()) -> None:
    """Refuse a stored config that names a function which is neither ours nor of a trusted module.

    A config that somebody else wrote may name any function there is, `os.system` too.

    Raises: ValueError: it does; nothing of it has been imported or called.
    """
    for target in _targets({k: v for k, v in config.items() if k not in MACHINE_KEYS}):
        if any(target == name or target.startswith(f"{name}.") for name in trust):
            continue
        if not (target.startswith("lt_sweeps.") and _is_option(target)):
            module = target.partition(".")[0]
            raise ValueError(f"`{target}` is no function of ours; trust={module} lets it run")


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from _targets(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _targets(inner)


def _is_option(target: str) -> bool:
    """Whether it is an option, or of a family of them: all else of ours may write or start."""
    if target in _options():
        return True
    try:
        return public_name(Call(target).function) is not None
    except ValueError:
        return False


@functools.cache
def _options() -> set[str]:
    """The functions that our own yaml files name."""
    texts = (path.read_text() for path in CONF.rglob("*.yaml"))
    return {name for text in texts for name in re.findall(r"_target_: (lt_sweeps\.[\w.]+)", text)}
