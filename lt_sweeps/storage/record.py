"""`Record`: one row of results, and `records.jsonl`, the file of a cell's rows (without torch).

`<root>/runs/<cell signature>/<seed>/` holds what a cell and seed has produced, as plain text:

    config.yaml    what was chosen, and the resolved config
    records.jsonl  a `Record` per line, in the order of the levels
    DONE           written last: the checksum of a records.jsonl that is complete

Everything that shows results (report, status, tracker, export) reads records and nothing else. They
are written and read here alone, so a field is named and described once: in `Record`.
"""

from __future__ import annotations

import hashlib
import json
import math
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lt_sweeps.config.call import fits
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.report_config import METRICS
from lt_sweeps.storage.atomic_write import write_whole

FORMAT = "lt_sweeps.record/1"
MEASURED = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""What one evaluation measures."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluated ticket: what was asked for, what was kept, what was measured, what it took.

    None is written where a fact does not exist (a cell without a criterion) or is not known (an
    imported result). Accuracies and sparsities are fractions in [0, 1], losses are means over
    examples, steps are optimizer steps, epochs are passes over the training set.

    Which ticket:
        experiment: the preset, or `none`, or `imported`.
        cell, seed: the cell's signature and its replicate; together they name the folder.
        model ... recipe: the option of each group; `criterion` is that of `mask_criterion`.
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
        finite: False if the training diverged. collapsed: it predicts one class, or a layer is
        empty.

    What it took:
        train_steps, epochs: the training itself. search_epochs: all trainings before it, each once;
        after: the keys of those that it starts from.
        dense_resources: whether a training on the way held more weights than the ticket keeps.
        seconds: the ticket's share of the wall time of its stack. device, stack_size,
            code_version: of the job that computed it.
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
    mask_chance: Sequence[float] | None = None
    train_steps: int
    epochs: float | None = None
    search_epochs: float | None = None
    after: Sequence[str] | None = None
    dense_resources: bool | None = None
    finite: bool
    collapsed: bool
    seconds: float | None = None
    device: str | None = None
    stack_size: int | None = None
    code_version: str | None = None

    @property
    def is_result(self) -> bool:
        """Whether it is a result of its cell, and not a training that only led to one."""
        return self.kind != "search"

    @property
    def percent_remaining(self) -> float:
        """Percent of prunable weights remaining, from the measured counts."""
        return 100 * self.weights_remaining / self.weights_total

    def value(self, metric: str) -> float:
        """A metric as statistics count it: NaN if the training diverged, or it is not known."""
        number = getattr(self, metric)
        return float(number) if self.finite and number is not None else math.nan

    @property
    def options(self) -> dict[str, str | None]:
        """The option of each group; None for a group that the method does not take."""
        return {g: getattr(self, "criterion" if g == "mask_criterion" else g) for g in GROUPS}

    @staticmethod
    def option_columns(choices: Mapping[str, str | None]) -> dict[str, Any]:
        """The option of each group under the name of its column."""
        options = {group: choices.get(group) for group in GROUPS}
        return {"criterion" if g == "mask_criterion" else g: name for g, name in options.items()}

    @staticmethod
    def weight_columns(left: Mapping[str, int], total: Mapping[str, int]) -> dict[str, Any]:
        """The columns that count weights, from the counts of each layer."""
        remaining, weights = sum(left.values()), sum(total.values())
        layers = {"layers_remaining": left, "layers_total": total}
        return {"weights_remaining": remaining, "weights_total": weights, **layers}


_TYPES = typing.get_type_hints(Record)
COLUMNS = tuple(_TYPES)
ALL_DIVERGED = "every replicate diverged: no accuracy of a pruned network is a number"


def all_diverged(cells: Iterable[Sequence[Record]]) -> bool:
    """Whether cells have results and none is finite: of pruned networks, where there are some."""
    results = [[row for row in rows if row.is_result] for rows in cells]
    started = [rows for rows in results if rows]
    tickets = [row for rows in started for row in [r for r in rows if r.level] or rows]
    return bool(started) and not any(row.finite for row in tickets)


@dataclass(frozen=True)
class CellRecords:
    """What the folder of a cell and seed holds: its records so far, and whether they are all.

    `faults` are the lines that cannot be read, as *path:line: why*. `half_written` names a last
    line that was cut short while the cell is not done: its writer will write it again.
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
    def is_intact(self) -> bool:
        """Whether the records are those that `DONE` was written for."""
        return self.done.read_bytes() == _checksum(self.records.read_bytes())

    def write_config(self, choices: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write what was chosen and the resolved config, unless they are there already."""
        about = {"signature": self.path.parent.name, "seed": self.path.name}
        content = {**about, "choices": dict(choices), "config": dict(config)}
        text = yaml.safe_dump(content, sort_keys=False).encode()
        file = self.path / "config.yaml"
        if not file.exists() or file.read_bytes() != text:
            write_whole(file, text)

    def write(self, records: Sequence[Record], *, complete: bool) -> None:
        """Write the records, and then `DONE` if they are all that the cell will have."""
        content = "".join(map(_line, records)).encode()
        write_whole(self.records, content)
        if complete:
            write_whole(self.done, _checksum(content))

    def read(self, *, needed: Collection[str] = ()) -> CellRecords:
        """Read the records; `needed` are metrics that every finite replicate must have."""
        done = self.done.exists()  # looked up first: the records that it stands for are there
        if not self.records.exists():
            missing = f"{self.records}: missing, though the cell is DONE"
            return CellRecords((), done, (missing,) if done else ())
        records: list[Record] = []
        faults: list[str] = []
        half_written = ""
        *lines, rest = self.records.read_bytes().decode(errors="replace").split("\n")
        for number, line in enumerate([*lines, *filter(None, [rest])], start=1):
            place, parsed = f"{self.records}:{number}", _parsed(line, self.path, needed)
            if isinstance(parsed, Record):
                records.append(parsed)
            elif number > len(lines) and not done and parsed.startswith("not valid JSON"):
                half_written = f"{place}: half-written line of an unfinished cell, left out"
            else:
                faults.append(f"{place}: {parsed}")
        return CellRecords(tuple(records), done, tuple(faults), half_written)


def _line(record: Record) -> str:
    """A record as JSON, which knows no NaN and no infinity: a diverged loss is null."""
    row = vars(record).items()
    finite = {k: v for k, v in row if not isinstance(v, float) or math.isfinite(v)}
    return json.dumps(dict.fromkeys(COLUMNS) | finite) + "\n"


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _parsed(line: str, folder: Path, needed: Collection[str]) -> Record | str:
    """The record in a line of a cell's file, or the reason why it is not one."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not valid JSON ({error})"
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; a record is an object"
    return next(_faults(row, folder, needed), None) or Record(**row)


def _faults(row: Mapping[str, Any], folder: Path, needed: Collection[str]) -> Iterator[str]:
    """What keeps a JSON object from being a record of this folder; only the first is asked for."""
    if row.get("format") != FORMAT:
        yield f"its format is {row.get('format')!r}; this version reads {FORMAT!r}"
    if missing := [name for name in COLUMNS if name not in row]:
        yield f"no {missing}; a record has them all"
    if unknown := sorted(row.keys() - set(COLUMNS)):
        yield f"unknown {unknown}; a record has only {[*COLUMNS]}"
    for name in COLUMNS:
        if not fits(row[name], _TYPES[name]):
            yield f"`{name}` is {row[name]!r}"
    if not (0 <= row["weights_remaining"] <= row["weights_total"] and row["weights_total"]):
        yield f"`weights_remaining` is {row['weights_remaining']} of {row['weights_total']}"
    for metric in METRICS if row["finite"] else ():
        value = row[metric]
        if value is None and metric in needed and row["kind"] != "mask":
            yield f"`{metric}` is null though `finite` is true"
        if value is not None and metric.endswith("accuracy") and not 0 <= value <= 1:
            yield f"`{metric}` is {value}; an accuracy lies in [0, 1]"
    if (row["cell"], row["seed"]) != (folder.parent.name, folder.name):
        yield f"a record of cell {row['cell']} seed {row['seed']}; its folder says otherwise"
