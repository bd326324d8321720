"""What a function, a class or a JSON value counts by in stage keys, which outlive its file.

A function of this package has a public name; one of a user's counts by its source.
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
"""In `omitted_at`: whatever value the argument has."""


def digest(value: Any) -> str:
    """A short name for a JSON value: equal for equal content, whatever the order of its keys.

    Raises:
        ValueError: something in it is not a JSON value, such as a function.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"a stage key is made of numbers, texts and lists: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def public_name(function: Callable[..., Any]) -> str | None:
    """The name of a function or class of this package in stage keys: `criteria.large_final`.

    Its module, or a package around it, gives the first part: `FAMILY = "criteria"`. A family and
    its functions keep their names for ever, whatever file they move to: a stage key with an import
    path in it would turn every stored result into a missing one when somebody tidies up.

    Returns None for a function from outside this package, such as a wrapper that only calls itself
    by the name of what it wraps.

    Raises:
        ValueError: a function of this package in no family, which no result can name.
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
    """What a subclass of a user's adds to the identity of its values; nothing for classes of ours.

    Two values with equal fields compute different things if their classes differ.
    """
    if _is_ours(kind.__module__):
        return {}
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": {"target": name, **source_behind(name, kind.__module__)}}


def omitted_at(**values: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave these arguments out of the stage key at these values, or at `ANY`.

    For an argument that was added after results existed, at the value that changes nothing; and
    for one that says where something lies and not what it is.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.omitted_at = values  # type: ignore[attr-defined]
        return function

    return mark


@functools.cache
def source_behind(target: str, *modules: str) -> dict[str, str]:
    """The source behind a user's function: its own module, the one that offers it, and others."""
    offered = target.rpartition(".")[0]
    while offered and offered not in sys.modules:  # a class within a class
        offered = offered.rpartition(".")[0]
    hashes = code_behind(*dict.fromkeys(name for name in (offered, *modules) if name))
    return {"source": digest(hashes)} if hashes else {}


def in_order(value: Any) -> Any:
    """A value of which a stage key tells the order of mappings too, where they are not sorted.

    A network may be built of `{b: 8, a: 16}` in this order. The order of arguments that go with a
    `_target_` is nothing.
    """
    if isinstance(value, list | tuple):
        return [in_order(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    pairs = {key: in_order(each) for key, each in value.items()}
    by_name = sorted(pairs, key=lambda key: (type(key).__name__, key))
    if "_target_" in pairs or [*pairs] == by_name:
        return pairs
    return {"in order": [[key, each] for key, each in pairs.items()]}


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]
