"""The identity of functions, classes and JSON values in stage keys, which must outlive their files.

A function of this package is identified by a public name, a user-defined one by its source.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lt_sweeps.config.user_code import code_behind

ANY = object()
"""In `omitted_at`: leave the argument out at every value but null."""


def digest(value: Any) -> str:
    """Return a short hash of a JSON value, which does not depend on the order of keys.

    Raises:
        ValueError: the value contains something that is not JSON, such as a function.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"a stage key is made of numbers, texts and lists: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def public_name(function: Callable[..., Any]) -> str | None:
    """Return the name of a function or class of this package in stage keys: `criteria.large_final`.

    Its module, or a package around it, defines the first part: `FAMILY = "criteria"`. A family and
    its functions must keep their names forever, whatever file they move to. An import path in a
    stage key would make every stored result missing as soon as somebody moves a function.

    Returns None for a function from outside this package, including a wrapper that only copies the
    name of the function that it wraps.

    Raises:
        ValueError: a function of this package belongs to no family, so no result can name it.
    """
    path = getattr(function, "__module__", None) or ""
    if not _is_ours(path):
        return None
    if getattr(importlib.import_module(path), function.__qualname__, None) is not function:
        return None
    while path:
        if family := vars(importlib.import_module(path)).get("FAMILY"):
            return f"{family}.{function.__qualname__}"
        path = path.rpartition(".")[0]
    raise ValueError(
        f"`{function.__module__}.{function.__qualname__}` has no name in stage keys; its module, "
        'or a package around it, needs a line such as `FAMILY = "criteria"`'
    )


def identity_of(kind: type) -> dict[str, Any]:
    """Return what a user-defined subclass adds to the identity of its values; empty for our own.

    Values of different classes compute different things even if their fields are equal.
    """
    if _is_ours(kind.__module__):
        return {}
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": {"target": name, **source_behind(name, kind.__module__)}}


def omitted_at(**values: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave these arguments out of the stage key at these values, or at `ANY`.

    This is for an argument that was added after results existed, at the value that changes nothing;
    and for an argument that says where something is stored, not what it contains.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.omitted_at = values  # type: ignore[attr-defined]
        return function

    return mark


@functools.cache
def source_behind(target: str, *modules: str) -> dict[str, str]:
    """Hash the source of a user-defined function: its module, the one that exports it, others."""
    offered = target.rpartition(".")[0]
    while offered and offered not in sys.modules:  # a nested class
        offered = offered.rpartition(".")[0]
    hashes = code_behind(*dict.fromkeys(name for name in (offered, *modules) if name))
    return {"source": digest(hashes)} if hashes else {}


def in_order(value: Any) -> Any:
    """Return a value whose hash depends on the order of mappings that are not sorted by name.

    A network may be built from `{b: 8, a: 16}` in this order. The order of the arguments next to a
    `_target_` does not matter.
    """
    if isinstance(value, list | tuple):
        return [in_order(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    pairs = {key: in_order(inner) for key, inner in value.items()}
    by_name = sorted(pairs, key=lambda key: (type(key).__name__, key))
    if "_target_" in pairs or [*pairs] == by_name:
        return pairs
    return {"in order": [[key, inner] for key, inner in pairs.items()]}


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]
