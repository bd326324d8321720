"""Check yaml values against the types of parameters, and describe these types to a user."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from lt_sweeps.config.spelling import listed, nearest

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
    Any: "any value",
}


def check_keys(config: Any, keys: Mapping[str, Any], *, where: str) -> None:
    """Check a part of a yaml that is not passed to a function; `keys` has the type of each value.

    Raises: ValueError: it is not a mapping, or has an unknown key or a value of the wrong type.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: got {config!r}; give {', '.join(keys)}")
    for key, value in config.items():
        if key not in keys:
            raise ValueError(
                f"{where}: no key `{key}`; it has {listed(keys)}{nearest(str(key), keys)}"
            )
        if not fits(value, keys[key]):
            raise ValueError(f"{where}.{key}: got {value!r}; give {_readable(keys[key])}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a yaml or JSON value has the type `hint`; an unknown `hint` accepts any value."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is type(None):
        return value is None
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint in (int, str):
        return isinstance(value, hint)
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = value.items() if isinstance(value, dict) and inner else ()
        named = all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
        return isinstance(value, dict) and named
    if origin is not None and isinstance(origin, type) and issubclass(origin, Collection):
        item = inner[0] if inner else Any
        return isinstance(value, list) and all(fits(v, item) for v in value)
    return True


def wanted_instead(value: Any, hint: Any) -> str:
    """Say what to give instead of a value that does not fit: its type, and what may be meant."""
    return f"{_readable(hint)}{_meant(value, hint)}"


def _meant(value: Any, hint: Any) -> str:
    """Suggest a value that fits: the fraction for a percentage (`90%`), or a list of one value."""
    if isinstance(value, str) and (percent := re.fullmatch(r"(\d+\.?\d*) ?%", value)):
        return f"; did you mean {float(percent[1]) / 100:g}?" if fits(0.5, hint) else ""
    if isinstance(value, list) and value and all(fits(item, hint) for item in value):
        return f"; to try each, write {','.join(map(str, value))} without brackets"
    alone = fits([value], hint) and not fits([object()], hint)  # no hint if any list fits
    return f"; did you mean [{value}]?" if alone else ""


def _readable(hint: Any) -> str:
    """Describe the values that a user may write for a parameter annotated `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return inner[1]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_readable, inner))
    if isinstance(origin, type) and issubclass(origin, Collection):
        return "a mapping" if issubclass(origin, Mapping) else f"a list of: {_readable(inner[0])}"
    return _WORDS.get(hint, str(hint))
