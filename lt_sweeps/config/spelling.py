"""Text for a misspelled name: the name that may be meant, and the names that are allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def nearest(word: str, allowed: Collection[str]) -> str:
    """Return `; did you mean `x`?` if an allowed name is similar to `word`, otherwise nothing.

    Case is ignored, and so is a folder that both names are in: `deconstructing/criteria`.
    """
    folder = word[: word.rfind("/") + 1]
    inside = [name for name in allowed if name.startswith(folder)]
    if not inside:
        folder, inside = "", list(allowed)
    names = {name.removeprefix(folder).lower(): name for name in inside}
    close = difflib.get_close_matches(word.removeprefix(folder).lower(), names, n=1)
    return f"; did you mean `{names[close[0]]}`?" if close else ""


def listed(values: Iterable[object]) -> str:
    """Join names or numbers for a sentence, without Python's brackets: `a, b`, or `none`.

    A name that contains a comma, as the name of a line may, is put in backquotes.
    """
    return ", ".join(f"`{text}`" if "," in text else text for text in map(str, values)) or "none"


def paired(values: Mapping[Any, Any]) -> str:
    """Format names with their values as in a yaml: `a: 1, b: 2`."""
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def unknown(where: str, given: str, allowed: Iterable[str], *, what: str) -> str:
    """Return the message for an unknown name.

    For example `mask_criterion: magnitud; did you mean `magnitude_increase`? options: ...`.
    """
    names = sorted(allowed)
    # An option in a folder, or a key with the name of its group before it (`tracker.mode`).
    within = [name for name in names if name.endswith(f"/{given}") or given.endswith(f".{name}")]
    near = f"; did you mean `{within[0]}`?" if within else nearest(given, names) or ";"
    if folder := [name for name in names if name.startswith(f"{given}/")]:
        near, names = ";", folder
    return f"{where}: {given}{near} {what}: {', '.join(names) or 'none'}"
