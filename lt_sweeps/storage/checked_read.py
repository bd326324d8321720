"""Read files that may have been cut, changed or replaced: return a value or raise a typed error.

This package reads all its files through this module. A pipe, a folder or a loop of links in place
of a file counts as damage too, and is detected without blocking.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import math
import os
import re
import stat
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lt_sweeps.config.call import Config
from lt_sweeps.config.spelling import listed
from lt_sweeps.config.yaml_types import fits

_NO_FILE = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG}
# The errors of PyYAML for invalid yaml: a KeyError for `!!bool x`, others for other tags.
_NOT_YAML = (
    *(yaml.YAMLError, ValueError, OverflowError, RecursionError),
    *(LookupError, AttributeError, TypeError),
)
_MOST = 1_000_000  # the most values in a yaml; a few lines of aliases can make billions
T = TypeVar("T")
_log = logging.getLogger("lt_sweeps")


class DamagedFile(ValueError):
    """A file that does not hold what was written; `reason` says why, without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class NewerFormat(ValueError):
    """A file that a later version of this package wrote: it is valid, and must be left alone."""


def read_file(path: Path, most: int = -1) -> bytes:
    """Return the content of a file, or its first `most` bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFile: the path is a folder or something else that is not a regular file.
        OSError: the file system failed; the file may be valid.
    """
    try:
        # O_NONBLOCK: otherwise `open` would wait forever on a pipe without a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise DamagedFile(path, f"no file ({error.strerror})") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedFile(path, "not a file, but a folder, a pipe or a device")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def read_json(path: Path, hint: Callable[..., T]) -> T:
    """Read the JSON in a file as a value of type `hint`.

    Raises: FileNotFoundError, DamagedFile, OSError: as `read_file`.
    """
    content = read_file(path)
    try:
        return typed(hint, parse_json(content))
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None


def read_lines(path: Path, hint: Callable[..., T]) -> list[T]:
    """Read the JSON lines of a file that grows, as values of type `hint`; a missing file has none.

    A line that is damaged, or was cut short, is left out.

    Raises: OSError: as `read_file`.
    """
    try:
        lines = read_file(path).splitlines()
    except (FileNotFoundError, DamagedFile):
        return []
    values: list[T] = []
    for line in lines:
        with suppress(ValueError):
            values.append(typed(hint, parse_json(line)))
    return values


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN or infinity, no lone surrogates.

    Raises: ValueError: the text is not valid JSON.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    if re.search(r"\\u[dD][89a-fA-F]", text):  # a surrogate; alone, it cannot be encoded
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return content


def _no_number(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def read_yaml(path: Path) -> Any:
    """Read the yaml in a file: mappings by name, lists and plain values, but no objects.

    Raises: FileNotFoundError, DamagedFile, OSError: as `read_file`.
    """
    content = read_file(path)
    try:
        value = _loaded_yaml(content.decode())
    except _NOT_YAML as error:
        raise DamagedFile(path, f"not valid yaml ({' '.join(str(error).split())})") from None
    if not _plain(value):
        raise DamagedFile(path, "not plain values by name")
    return value


def _loaded_yaml(text: str) -> Any:
    """Parse yaml with libyaml, ten times as fast as PyYAML, whose errors are clearer."""
    with suppress(*_NOT_YAML):
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return yaml.safe_load(text)


def _plain(value: Any) -> bool:
    """Whether a yaml has only JSON values, and not too many; an alias may contain itself."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        (inner, depth), seen = waiting.pop(), seen + 1
        if seen > _MOST or depth > 100:
            return False
        if isinstance(inner, dict):
            if not all(isinstance(name, str) for name in inner):
                return False
            waiting += [(member, depth + 1) for member in inner.values()]
        elif isinstance(inner, list):
            waiting += [(member, depth + 1) for member in inner]
        elif not isinstance(inner, str | int | float | None):
            return False
    return True


def typed(hint: Any, value: Any) -> Any:
    """Convert a JSON value to the type `hint`: dataclass, mapping, sequence, tuple or plain value.

    Raises: ValueError: the value has another type; the message names the field.
    """
    if is_dataclass(hint):
        return _as_dataclass(hint, value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Config and isinstance(value, dict):
        return Config(value)
    if origin is tuple and isinstance(value, list) and len(value) == len(inner):
        return tuple(map(typed, inner, value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return value if inner[1] is Any else {k: typed(inner[1], v) for k, v in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence) and isinstance(value, list):
        return [typed(inner[0], member) for member in value]
    if origin is tuple or hint is Config or not fits(value, hint):
        raise ValueError(f"got {shortened(value)}, which has the wrong type")
    return value


def _as_dataclass(kind: Any, value: Any) -> Any:
    hints, needed = _fields(kind)
    if not isinstance(value, dict):
        raise ValueError(f"got {shortened(value)}; it is an object with {listed(sorted(hints))}")
    if wrong := sorted((needed - value.keys()) | (value.keys() - hints)):
        raise ValueError(f"missing or unknown {listed(wrong)}; it has {listed(sorted(hints))}")
    typed_values = {}
    for name, inner in value.items():
        try:
            typed_values[name] = typed(hints[name], inner)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return kind(**typed_values)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    needed = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return typing.get_type_hints(kind), needed


def shortened(value: Any) -> str:
    """Format a value for a message of one line, cut if it is long."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."


def check_format(path: Path, stated: Any, ours: str, *, by: str = "") -> None:
    """Check the format that a file states.

    Args:
        by: the version that wrote the file, if that is known.

    Raises:
        NewerFormat: a later version wrote the file.
        DamagedFile: the format is of another kind or an earlier version.
    """
    if stated == ours:
        return
    kind, _, number = ours.rpartition("/")
    match = re.fullmatch(rf"{re.escape(kind)}/(\d{{1,9}})", str(stated))
    if match and int(match[1]) > int(number):
        raise NewerFormat(
            f"{path}: a newer version of lt_sweeps{by and f' ({by})'} wrote it, in the format "
            f"{stated}; this version reads {ours}; update lt_sweeps, or use another root"
        )
    raise DamagedFile(path, f"its format is {shortened(stated)}; this version reads {ours}")


@functools.cache
def say_unused(fault: str) -> None:
    """Warn that a file exists but is not used; once, however often the file is read."""
    _log.warning("%s; it is not used", fault)
