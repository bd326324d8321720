"""`Record`: one row of results, and `records.jsonl`, the file of a cell's rows (without torch).

`<root>/runs/<cell signature>/<seed>/` holds what a cell and seed has produced, as plain text:

    config.yaml    what was chosen, and the resolved config
    records.jsonl  a `Record` per line, in the order of the levels
    DONE           written last: the checksum of a records.jsonl that is complete

Everything that shows results (report, status, tracker, export) reads records and nothing else. They
are written and read here alone, so a field is named and described once: in `Record`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import sys
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lt_sweeps.config.call import fits
from lt_sweeps.config.keys import GROUPS, Precision
from lt_sweeps.config.quantities import (
    ACCURACY,
    METRICS,
    OWN,
    Quantity,
    kind_of,
    named,
    names_measured,
)
from lt_sweeps.storage.atomic_write import append_whole, json_lines, write_whole
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    check_format,
    parse_json,
    read_file,
    read_yaml,
    shortened,
)

FORMAT = "lt_sweeps.record/1"
_CURE = "the command that computed the cell writes it again"
MEASURED = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""What one evaluation measures."""


# With slots, because a report holds 65,000 of them: each would have a dict of 60 names of its own.
@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One evaluated ticket: what was asked for, what was kept, what was measured, what it took.

    None is written where a fact does not exist (a cell without a criterion) or is not known (an
    imported result). Accuracies and sparsities are fractions in [0, 1], losses are means over
    examples, steps are optimizer steps, epochs are passes over the training set.

    Which ticket:
        experiment: the preset, or `none`, or `imported`.
        cell, seed: the cell's signature and its replicate; together they name the folder.
        model ... task: the option of each group; `criterion` is that of `mask_criterion`.
        level: how often the network has been pruned. stage: the key of the training, by which its
            ticket is stored. init: the key of the network's first initialisation.
        kind: `train` for a result that was trained, `score` for one that was only evaluated,
            `search` for a training that led to a result, `mask` for an imported mask without
            measurements.

    What was kept:
        target_sparsity: the sparsity asked for; sparsity: the one measured, both of the prunable
            weights. sparsity_total: pruned weights as a part of all parameters.
        weights_*, layers_*: counts of prunable weights, of the network and by layer.
        mask_chance: (slope, shift) by which a learned mask's logits give the chance that a weight
            is kept: sigmoid(slope * logit + shift).

    What was measured:
        step: where the training ended. report_at: `best` (lowest validation loss) or `end`; the
        plain metrics are those of that evaluation, made at `reported_step`. `end_*` and `best_*`
        are always there. `hard_*`: the reported network with its soft mask made hard.
        metric: by what its task is judged, and which way is better; null of a classification,
        which is judged by its accuracy. Other tasks have no accuracies. metrics: what the task
        measures beside loss and accuracy, by names such as `test_r2` and `best_val_r2`.
        lower_metrics: the kinds among these whose lowest value is the best.
        finite: False if the training diverged, or one that its mask or weights are made from.
        collapsed: it predicts one class, or a layer is empty.

    What it took:
        train_steps, epochs: the training itself. search_epochs: all trainings before it, each once;
        after: the keys of those that it starts from.
        dense_resources: whether a training on the way held more weights than the ticket keeps.
        precision: what it was trained and evaluated in. Rows of earlier versions, which had one
            only, are read as float32.
        seconds: the ticket's share of the wall time of its stack. device, stack_size, backend,
            code_version: of the job that computed it.

    notes: sentences about how its mask was made that a reader must know; null in most rows.
    granularity: what was pruned whole (`filter`, `2:4`); null for single weights.
    resolution: by how many weights rounding to whole groups may miss the target sparsity.
    """

    format: str = FORMAT
    experiment: str | None
    cell: str
    seed: str
    model: str | None = None
    dataset: str | None = None
    method: str | None = None
    criterion: str | None = None
    reset: str | None = None
    freeze: str | None = None
    schedule: str | None = None
    recipe: str | None = None
    task: str | None = None
    level: int
    stage: str
    init: str | None = None
    kind: Literal["train", "score", "search", "mask"]
    step: int
    target_sparsity: float | None = None
    sparsity: float
    sparsity_total: float | None = None
    weights_remaining: int
    weights_total: int
    layers_remaining: Mapping[str, int]
    layers_total: Mapping[str, int]
    report_at: str
    reported_step: int | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    end_val_loss: float | None = None
    end_val_accuracy: float | None = None
    end_test_loss: float | None = None
    end_test_accuracy: float | None = None
    best_step: int | None = None
    best_val_loss: float | None = None
    best_val_accuracy: float | None = None
    best_test_loss: float | None = None
    best_test_accuracy: float | None = None
    hard_val_accuracy: float | None = None
    hard_test_accuracy: float | None = None
    metric: str | None = None
    lower_is_better: bool | None = None
    metrics: Mapping[str, float | None] | None = None
    lower_metrics: Sequence[str] | None = None
    mask_chance: Sequence[float] | None = None
    train_steps: int
    epochs: float | None = None
    search_epochs: float | None = None
    after: Sequence[str] | None = None
    dense_resources: bool | None = None
    finite: bool
    collapsed: bool
    precision: Precision | None = None
    seconds: float | None = None
    device: str | None = None
    stack_size: int | None = None
    backend: str | None = None
    code_version: str | None = None
    notes: Sequence[str] | None = None
    granularity: str | None = None
    resolution: int | None = None

    @property
    def as_written(self) -> dict[str, Any]:
        """Its fields as JSON, which knows no NaN and no infinity: a diverged loss is null."""
        row = _finite({name: getattr(self, name) for name in COLUMNS})
        if self.metrics is not None:
            row["metrics"] = dict.fromkeys(self.metrics) | _finite(self.metrics)
        return dict.fromkeys(COLUMNS) | row

    @property
    def is_result(self) -> bool:
        """Whether it is a result of its cell, and not a training that only led to one."""
        return self.kind != "search"

    @property
    def misses_target(self) -> bool:
        """Whether its sparsity is not the one that was asked for."""
        size = {"layers": len(self.layers_total), "weights": self.weights_total}
        groups = self.resolution or 0
        return misses_target(self.sparsity, self.target_sparsity, groups=groups, **size)

    @property
    def percent_remaining(self) -> float:
        """Percent of prunable weights remaining, from the measured counts."""
        return 100 * self.weights_remaining / self.weights_total

    def value(self, metric: str) -> float:
        """A metric as statistics count it: NaN if the training diverged, or it is not known."""
        number = self.measured(metric)
        return float(number) if self.finite and number is not None else math.nan

    def measured(self, metric: str) -> float | None:
        """A metric as it was measured: a column, or one of its task's own."""
        name = named(metric, self.judged_by)
        own = self.metrics or {}
        return getattr(self, name) if name in _MEASURES and name not in own else own.get(name)

    @property
    def judged_by(self) -> str:
        """The kind of metric that its task is judged by: `accuracy`, `r2`."""
        return self.metric or ACCURACY

    def metric_of(self, name: str) -> Quantity:
        """What a name of a metric means for this record, and which way is better."""
        found = Quantity.of(named(name, self.judged_by))
        if self.lower_is_better is not None and found.kind == self.judged_by:
            return Quantity(found.name, self.lower_is_better)
        if self.lower_metrics is not None and found.name in (self.metrics or {}):
            return Quantity(found.name, found.kind in self.lower_metrics)
        return found

    def measures(self, name: str) -> bool:
        """Whether its task has a metric of this name, however this training ended."""
        name = named(name, self.judged_by)
        # A task that is judged by another metric may measure an accuracy beside it.
        accuracy = self.metric is None or self.val_accuracy is not None
        in_columns = name in _MEASURES and (kind_of(name) != ACCURACY or accuracy)
        return in_columns or name in (self.metrics or {})

    @property
    def is_hardened(self) -> bool:
        """Whether its mask was learned: the network was measured with it made hard as well."""
        return self.measured(f"hard_test_{OWN}") is not None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of its task by every name that a report may give them."""
        return names_measured([self.judged_by, *map(kind_of, self.metrics or ())])

    @property
    def options(self) -> dict[str, str | None]:
        """The option of each group; None for a group that the method does not take."""
        return {group: getattr(self, column) for group, column in _OPTIONS.items()}

    @staticmethod
    def options_by_group() -> Mapping[str, str]:
        """The column of each group's option."""
        return _OPTIONS

    @staticmethod
    def option_columns(choices: Mapping[str, str | None]) -> dict[str, Any]:
        """The option of each group under the name of its column."""
        return {column: choices.get(group) for group, column in _OPTIONS.items()}

    @staticmethod
    def metric_columns(results: Mapping[str, Any], at: str) -> dict[str, Any]:
        """The columns of what a task measures, from the results in a ticket's header.

        The metrics at `best` or `end` stand there without these words too. NaN and infinity, of a
        training that diverged, are null.
        """
        all_of_it: Mapping[str, float | None] = results.get("metrics") or {}
        measured = _of_reported(all_of_it, at)
        plain = {n.removeprefix(f"{at}_"): measured[n] for n in measured if n.startswith(f"{at}_")}
        both = {**plain, **measured}
        metrics = {n: v if v is not None and math.isfinite(v) else None for n, v in both.items()}
        facts = {n: results.get(n) for n in ("metric", "lower_is_better", "lower_metrics")}
        return {**facts, "metrics": metrics or None}

    @staticmethod
    def hard_columns(results: Mapping[str, Any], at: str) -> dict[str, Any]:
        """The accuracies under the hard mask, of a network whose mask was learned."""
        reported = _of_reported(results, at)
        return {name: reported.get(name) for name in ("hard_val_accuracy", "hard_test_accuracy")}

    @staticmethod
    def weight_columns(left: Mapping[str, int], total: Mapping[str, int]) -> dict[str, Any]:
        """The columns that count weights, from the counts of each layer."""
        remaining, weights = sum(left.values()), sum(total.values())
        layers = {"layers_remaining": left, "layers_total": total}
        return {"weights_remaining": remaining, "weights_total": weights, **layers}


# The column of each group's option. Groups that came later stand behind those that came before.
_OPTIONS = {group: group for group in (*GROUPS, "task")} | {"mask_criterion": "criterion"}
_TYPES = typing.get_type_hints(Record)
COLUMNS = tuple(_TYPES)
_ADDED = {
    "notes": None,
    "precision": "float32",
    "task": "classification",
    **dict.fromkeys(("metric", "lower_is_better", "metrics", "lower_metrics")),
    **dict.fromkeys(("granularity", "resolution")),
}
"""Columns that rows of earlier versions do not have, and what they would hold there."""
_MEASURES = {*METRICS, "hard_val_accuracy", "hard_test_accuracy"}
"""The metrics that have a column; a task's own are in `metrics`."""
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
ALL_DIVERGED = "every replicate diverged: no result of a pruned network is a number"


# Schedules of the papers floor what each level prunes of each layer. What is lost adds up over the
# levels, to less than one weight divided by the rate: ten at the smallest rate of a paper, 0.1.
_ROUNDING = 10  # weights of each layer


def _of_reported(scores: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Scores in which those under the hard mask are those of the reported evaluation.

    A ticket has them at its end, and also at its best evaluation where that is another.
    """
    first = "best_hard_"
    rest = {name: value for name, value in scores.items() if not name.startswith(first)}
    best = {n.removeprefix("best_"): v for n, v in scores.items() if n.startswith(first)}
    return {**rest, **(best if at == "best" else {})}


def misses_target(
    sparsity: float, target: float | None, *, layers: int, weights: int, groups: int = 0
) -> bool:
    """Whether a sparsity is not the one that was asked for, if one was, up to rounding.

    `groups` is by how many weights rounding to whole groups may miss it.
    """
    rounding = (_ROUNDING * layers + groups) / weights
    return target is not None and abs(sparsity - target) > rounding + 1e-9


def all_diverged(cells: Iterable[Sequence[Record]]) -> bool:
    """Whether cells have results and none is finite: of pruned networks, where there are some."""
    results = [[row for row in rows if row.is_result] for rows in cells]
    started = [rows for rows in results if rows]
    tickets = [row for rows in started for row in [r for r in rows if r.level] or rows]
    return bool(started) and not any(row.finite for row in tickets)


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


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the numbers that JSON does not know."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}


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
        in_columns = name in _MEASURES and not (own and kind_of(name) == ACCURACY)
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
