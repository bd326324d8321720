"""`RunFolder`: the files of a cell and seed, and the check of every record in them (without torch).

`<root>/runs/<cell signature>/<seed>/` holds what a cell and seed has produced, as plain text:

    config.yaml    what was chosen, and the resolved config
    records.jsonl  a `Record` per line, in the order of the levels
    DONE           written last: the checksum of a records.jsonl that is complete
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.quantities import ACCURACY, kind_of, named
from lt_sweeps.config.yaml_types import fits
from lt_sweeps.storage.atomic_write import append_whole, json_lines, write_whole
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    check_format,
    parse_json,
    read_file,
    read_yaml,
    shortened,
)
from lt_sweeps.storage.record import COLUMNS, FORMAT, METRIC_COLUMNS, Record

_CURE = "the command that computed the cell writes it again"
_TYPES = typing.get_type_hints(Record)
_ADDED = {
    "notes": None,
    "precision": "float32",
    "task": "classification",
    **dict.fromkeys(("metric", "lower_is_better", "metrics", "lower_metrics")),
    **dict.fromkeys(("granularity", "resolution")),
}
"""Columns that rows of earlier versions do not have, and what they would hold there."""
# By column, the types and the values that fit: a report of 5,000 runs reads 65,000 records of 58
# fields, and few of these need a closer look. A whole number may be too large for a float.
_PLAIN = {str: "", float: 0.5, int: 1, bool: True, type(None): None, dict: {}}
_TEXTS = {name for name, hint in _TYPES.items() if fits(["x"], hint)}  # lists of texts
_LARGEST = 2**63 - 1
_FRACTIONS = {name for name in _TYPES if "accuracy" in name or "sparsity" in name}
_FITTING = {
    name: {kind for kind, value in _PLAIN.items() if fits(value, hint)}
    - ({int} if fits(0.5, hint) else set())
    for name, hint in _TYPES.items()
}


@dataclass(frozen=True)
class CellRecords:
    """What the folder of a cell and seed holds: its records so far, and whether they are all.

    `faults` are what is wrong with them, as *path:line: why*: a line that cannot be read, or
    records that `DONE` was not written for. `half_written` names a last line that was cut short
    while the cell is not done: its writer will write it again.
    """

    records: tuple[Record, ...]
    done: bool
    faults: tuple[str, ...] = ()
    half_written: str = ""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a cell and seed: `<root>/runs/<cell signature>/<seed>`."""

    path: Path

    @classmethod
    def of(cls, root: Path, signature: str, seed: object) -> RunFolder:
        return cls(root / "runs" / signature / str(seed))

    @property
    def name(self) -> str:
        """`<signature>/<seed>`, as `FrozenCell.name`."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def done(self) -> Path:
        return self.path / "DONE"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    def write_config(self, choices: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write what was chosen and the resolved config, unless they are there already."""
        about = {"signature": self.path.parent.name, "seed": self.path.name}
        content = {**about, "choices": dict(choices), "config": dict(config)}
        text = yaml.safe_dump(content, sort_keys=False).encode()
        _write_unless_there(self.config, text)

    def read_config(self) -> dict[str, Any]:
        """What was chosen (`choices`) and the resolved config (`config`), as `write_config` wrote.

        Raises: FileNotFoundError, DamagedFile: there is none of this cell and seed.
        """
        file = self.config
        content = read_yaml(file)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(name), dict) for name in ("choices", "config")
        ):
            raise DamagedFile(file, "not a cell's config; it holds `choices` and `config`")
        mine = (self.path.parent.name, self.path.name)
        if (content.get("signature"), content.get("seed")) != mine:
            about = f"cell {content.get('signature')} seed {content.get('seed')}"
            raise DamagedFile(file, f"the config of {about}; its folder says otherwise")
        return content

    def write(self, records: Sequence[Record], *, complete: bool) -> None:
        """Write the records, and then `DONE` if they are all that the cell will have."""
        content = json_lines(record.as_written for record in records)
        _write_unless_there(self.records, content)
        if complete:
            write_whole(self.done, _checksum(content))

    def append(self, records: Sequence[Record]) -> None:
        """Add records behind those that are there; the caller holds the lock of the cell."""
        append_whole(self.records, json_lines(record.as_written for record in records))

    def read(
        self, *, needed: Collection[str] = (), stages: Sequence[str] | None = None
    ) -> CellRecords:
        """Read the records.

        Args:
            needed: metrics that every finite replicate must have.
            stages: keys of the stages that the cell has a record of when it is done.

        Raises: NewerFormat: a later version wrote them.
        """
        checksum, faults = self._checksum()  # read first: the records that it stands for are there
        done = bool(checksum or faults)
        try:
            content = read_file(self.records)
        except FileNotFoundError:
            missing = f"{self.records}: missing, though the cell is DONE"
            return CellRecords((), done, (*faults, *([missing] if done else [])))
        except DamagedFile as error:
            return CellRecords((), done, (*faults, str(error)))
        records: list[Record] = []
        half_written = ""
        *lines, rest = content.split(b"\n")
        for number, line in enumerate([*lines, *filter(None, [rest])], start=1):
            place, parsed = f"{self.records}:{number}", _parsed(line, self, needed)
            if isinstance(parsed, Record):
                records.append(parsed)
            elif number > len(lines) and not done and parsed.startswith("not valid JSON"):
                half_written = f"{place}: half-written line of an unfinished cell, left out"
            else:
                faults.append(f"{place}: {parsed}")
        if not faults and checksum and checksum != _checksum(content):
            fault = "not the records that DONE was written for"
            faults.append(f"{self.records}: {fault}; {_CURE}")
        if not faults and (fault := _miscounted(records, stages, done)):
            faults.append(f"{self.records}: {fault}; {_CURE}")
        return CellRecords(tuple(records), done, tuple(faults), half_written)

    def _checksum(self) -> tuple[bytes, list[str]]:
        """The checksum that `DONE` holds, or what is wrong with it; neither where it is absent."""
        try:
            content = read_file(self.done)
        except FileNotFoundError:
            return b"", []
        except DamagedFile as error:
            return b"", [str(error)]
        whole = re.fullmatch(rb"[0-9a-f]{64}\n", content)
        return (content, []) if whole else (b"", [f"{self.done}: not a checksum; {_CURE}"])


def _write_unless_there(path: Path, content: bytes) -> None:
    with suppress(FileNotFoundError, DamagedFile):
        if read_file(path) == content:
            return
    write_whole(path, content)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _miscounted(records: Sequence[Record], stages: Sequence[str] | None, done: bool) -> str:
    """Whether records are there twice, are missing, or are of another cell's stages."""
    written = [record.stage for record in records]
    if twice := sorted({stage for stage in written if written.count(stage) > 1}):
        return f"stage {twice[0]} is there twice"
    if stages is None:
        return ""
    if unknown := sorted(set(written) - set(stages)):
        return f"stage {unknown[0]} is none of its cell's"
    missing = len(set(stages) - set(written))
    return f"DONE, and {missing} of {len(stages)} records are missing" if done and missing else ""


def _parsed(line: bytes, folder: RunFolder, needed: Collection[str]) -> Record | str:
    """The record in a line of a cell's file, or the reason why it is not one."""
    try:
        row = parse_json(line)
    except ValueError as error:
        return f"not valid JSON ({str(error).removeprefix('not valid JSON (').removesuffix(')')})"
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; a record is an object"
    return next(_faults(row, folder, needed), None) or Record(**{**_ADDED, **_shared(row)})


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values are one object for all rows that have them, as most are in many rows.

    Texts and counts of layers are the same in other seeds and levels. The reported numbers are
    those of the best evaluation or of the end, and stand twice in their row.
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
        elif kind is list and name in _TEXTS:
            value = _same_texts(*value)
        shared[name] = value
    return shared


@functools.lru_cache(maxsize=4096)  # of the levels of some lines: all seeds have those of one
def _same_counts(*counts: tuple[str, int]) -> Mapping[str, int]:
    return dict(counts)


@functools.lru_cache(maxsize=4096)
def _same_texts(*texts: str) -> Sequence[str]:
    return [sys.intern(text) for text in texts]


def _faults(row: Mapping[str, Any], folder: RunFolder, needed: Collection[str]) -> Iterator[str]:
    """What keeps a JSON object from being a record of this folder; only the first is asked for."""
    try:
        check_format(folder.records, row.get("format"), FORMAT, by=str(row.get("code_version")))
    except DamagedFile as error:
        yield error.reason
    if missing := [name for name in COLUMNS if name not in row and name not in _ADDED]:
        yield f"no {missing}; a record has them all"
    if unknown := sorted(row.keys() - set(COLUMNS)):
        yield f"unknown {unknown}; a record has only {[*COLUMNS]}"
    for name in COLUMNS:
        if name not in row:
            continue
        value = row[name]
        kind = type(value)
        if kind not in _FITTING[name] and not _fits(name, value):
            yield f"`{name}` is {shortened(value)}"
        if kind is int or (kind is float and name in _FRACTIONS):
            most = 1 if name in _FRACTIONS else _LARGEST
            if not 0 <= value <= most:
                yield f"`{name}` is {shortened(value)}; it lies in [0, {most}]"
    if not all(type(v) in (float, int, type(None)) for v in (row.get("metrics") or {}).values()):
        yield f"`metrics` is {shortened(row['metrics'])}"
    yield from _miscounted_weights(row)
    if row["finite"] and row["kind"] != "mask":
        yield from (f"`{name}` is null though `finite` is true" for name in _lacking(row, needed))
    if (row["cell"], row["seed"]) != (folder.path.parent.name, folder.path.name):
        yield f"a record of cell {row['cell']} seed {row['seed']}; its folder says otherwise"


def _fits(name: str, value: Any) -> bool:
    """Whether a value of an unusual type may stand in a column."""
    if type(value) is list and name in _TEXTS:
        return all(type(text) is str for text in value)
    return _fits_choice(name, value) if type(value) is str else fits(value, _TYPES[name])


@functools.cache  # a column with few values, such as `kind`
def _fits_choice(name: str, text: str) -> bool:
    return fits(text, _TYPES[name])


def _lacking(row: Mapping[str, Any], needed: Collection[str]) -> Iterator[str]:
    """The needed metrics that a row's task measures and the row lacks."""
    own, metrics = row.get("metric"), row.get("metrics") or {}
    for name in (named(name, own or ACCURACY) for name in needed):
        # Another task may call a metric of its own `accuracy`, or have none.
        in_columns = name in METRIC_COLUMNS and not (own and kind_of(name) == ACCURACY)
        expected = in_columns or name in metrics or kind_of(name) == own
        if expected and (row if in_columns else metrics).get(name) is None:
            yield name


def _miscounted_weights(row: Mapping[str, Any]) -> Iterator[str]:
    """How the counts of a record do not agree with each other."""
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
