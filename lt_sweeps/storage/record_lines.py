"""Parse a line of records.jsonl: return a `Record`, or the reason why it is not one (no torch)."""

from __future__ import annotations

import functools
import math
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lt_sweeps.config.spelling import listed
from lt_sweeps.config.yaml_types import fits
from lt_sweeps.storage.checked_read import DamagedFile, check_format, parse_json, shortened
from lt_sweeps.storage.record import COLUMNS, FORMAT, Record

_TYPES = typing.get_type_hints(Record)
_ADDED = {
    "notes": None,
    "precision": "float32",
    "task": "classification",
    **dict.fromkeys(("metric", "lower_is_better", "metrics", "lower_metrics")),
    **dict.fromkeys(("granularity", "resolution")),
}
"""Columns that rows of earlier versions lack, with the values that they would have there."""
_TEXT_LISTS = {name for name, hint in _TYPES.items() if fits(["x"], hint)}
_FRACTIONS = {name for name in _TYPES if "accuracy" in name or "sparsity" in name}
_LARGEST = 2**63 - 1  # the largest whole number

# A report of 5,000 runs checks 65,000 records of 58 columns. So the types are collected here of
# which a column accepts every value, and only other values are compared with the annotation.
_EXAMPLES = {str: "", float: 0.5, int: 1, bool: True, type(None): None, dict: {}}
_PLAIN_TYPES = {
    name: {kind for kind, value in _EXAMPLES.items() if fits(value, hint)}
    - ({int} if fits(0.5, hint) else set())  # a whole number may be too large for a float
    for name, hint in _TYPES.items()
}


def parse_record(line: bytes, file: Path, needed: Collection[str]) -> Record | str:
    """Return the record in a line of a file, or the reason why it is not one of that file's cell.

    `needed` are the metrics that every finite replicate must have.

    Raises: NewerFormat: a later version wrote the line.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        return f"not valid JSON ({str(error).removeprefix('not valid JSON (').removesuffix(')')})"
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; a record is an object"
    if fault := next(_faults(row, file), None):
        return fault
    record = Record(**{**_ADDED, **_shared(row)})
    lacking = next(record.lacking(needed), None)
    if lacking is None:
        return record
    noted = (note for note in record.notes or () if lacking in note)
    return next(noted, f"`{lacking}` is null though `finite` is true")


def _faults(row: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Yield what is wrong with a row. Each check assumes that earlier checks found nothing."""
    try:
        check_format(file, row.get("format"), FORMAT, by=str(row.get("code_version")))
    except DamagedFile as error:
        yield error.reason
    if missing := [name for name in COLUMNS if name not in row and name not in _ADDED]:
        yield f"no {listed(missing)}; a record has them all"
    if unknown := sorted(row.keys() - set(COLUMNS)):
        yield f"unknown {listed(unknown)}; a record has only {listed(COLUMNS)}"
    yield from _wrong_values(row)
    yield from _wrong_counts(row)
    if (row["cell"], row["seed"]) != (file.parent.parent.name, file.parent.name):
        yield f"a record of cell {row['cell']} seed {row['seed']}; its folder says otherwise"


def _wrong_values(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values whose type or size does not fit their columns."""
    for name in COLUMNS:
        if name not in row:
            continue
        value = row[name]
        kind = type(value)
        if kind not in _PLAIN_TYPES[name] and not _fits(name, value):
            yield f"`{name}` is {shortened(value)}"
        if kind is int or (kind is float and name in _FRACTIONS):
            most = 1 if name in _FRACTIONS else _LARGEST
            if not 0 <= value <= most:
                yield f"`{name}` is {shortened(value)}; it lies in [0, {most}]"
    if not all(type(v) in (float, int, type(None)) for v in (row.get("metrics") or {}).values()):
        yield f"`metrics` is {shortened(row['metrics'])}"


def _fits(name: str, value: Any) -> bool:
    """Whether a value of an unusual type fits a column."""
    if type(value) is list and name in _TEXT_LISTS:
        return all(type(text) is str for text in value)
    return _fits_choice(name, value) if type(value) is str else fits(value, _TYPES[name])


@functools.cache  # for columns with few distinct values, such as `kind`
def _fits_choice(name: str, text: str) -> bool:
    return fits(text, _TYPES[name])


def _wrong_counts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the counts of weights that contradict each other, or the sparsity."""
    left, total = row["weights_remaining"], row["weights_total"]
    if not (0 <= left <= total and total):
        yield f"`weights_remaining` is {left} of {total}"
    for name in ("remaining", "total"):
        layers = row[f"layers_{name}"]
        if not all(type(count) is int and count >= 0 for count in layers.values()):
            yield f"`layers_{name}` is {shortened(layers)}"
        count, summed = row[f"weights_{name}"], sum(layers.values())
        if summed != count:
            yield f"`weights_{name}` is {count}, and its layers have {summed}"
    if not math.isclose(row["sparsity"], 1 - left / total, abs_tol=1e-9):
        yield f"`sparsity` is {row['sparsity']} where {left} of {total} weights remain"


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row that shares its values with other rows, because most values recur in many rows.

    Texts and counts of layers are the same in other seeds and levels. The reported numbers are
    those of the best evaluation or of the end, so they occur twice in their row.
    """
    numbers: dict[float, float] = {}
    shared: dict[str, Any] = {}
    for name, value in row.items():
        kind = type(value)
        if kind is str:
            value = sys.intern(value)
        elif kind is float and value:  # 0.0 is equal to -0.0
            value = numbers.setdefault(value, value)
        elif kind is dict and name != "metrics":
            value = _same_counts(*value.items())
        elif kind is list and name in _TEXT_LISTS:
            value = _same_texts(*value)
        shared[name] = value
    return shared


@functools.lru_cache(maxsize=4096)  # enough for the levels of some lines; seeds share them
def _same_counts(*counts: tuple[str, int]) -> Mapping[str, int]:
    return dict(counts)


@functools.lru_cache(maxsize=4096)
def _same_texts(*texts: str) -> Sequence[str]:
    return [sys.intern(text) for text in texts]
