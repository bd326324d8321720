"""Runs: a sweep's cells and seeds as an experiment tracker shows them, from files alone (no torch).

A run's rows only ever grow at their end, and a row never changes: a tracker that has the first n of
them needs the rest and nothing else. So whoever mirrors a sweep may die at any moment and begin
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.storage.record import Record, RunFolder
from lt_sweeps.storage.ticket_file import CorruptTicket, read_metadata, ticket_path

Row = Mapping[str, Any]
"""One line of a tracker: numbers by the names that a tracker shows."""

RESULTS = (
    *("test_accuracy", "test_loss", "val_accuracy", "val_loss", "end_test_accuracy"),
    *("hard_val_accuracy", "hard_test_accuracy"),
    *("best_step", "weights_remaining", "finite", "collapsed", "seconds"),
)


@dataclass(frozen=True)
class Run:
    """One line of a tracker: a cell and seed, or a cell over its seeds.

    `key` names it for ever, so that whoever continues it continues the same one. `rows` are the
    evaluations of every level, each level's closed by its result. `tickets` are the files of the
    levels that are trained.
    """

    key: str
    name: str
    group: str
    kind: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    rows: tuple[Row, ...]
    summary: Mapping[str, Any]
    done: bool
    tickets: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Level:
    """A level of one cell and seed: its evaluations so far, and its record once it is trained.

    `offset` is where its steps begin on an axis that goes on from level to level, as if each took
    the whole recipe. A search for a result is a level too, whose numbers are the search's.
    """

    number: int
    offset: int
    history: tuple[Row, ...]
    record: Record | None

    @property
    def is_result(self) -> bool:
        return self.record is not None and self.record.is_result

    @property
    def curve(self) -> list[Row]:
        return [
            self.place(at["step"])
            | {name.replace("_", "/", 1): value for name, value in at.items() if name != "step"}
            for at in self.history
        ]

    @property
    def result(self) -> Row:
        record = self.record
        assert record is not None
        what = "ticket" if self.is_result else "search"
        row = self.place(record.step)
        row |= {f"{what}/{name}": getattr(record, name) for name in RESULTS}
        if self.history and self.history[0]["step"] < record.step:
            # Before its first step a ticket is a supermask: what it knows is in its mask.
            row[f"{what}/untrained_val_accuracy"] = self.history[0].get("val_accuracy")
        if self.is_result:
            left, total = record.layers_remaining, record.layers_total
            row |= {f"layers/{name}": 1 - left[name] / total[name] for name in total}
            row["sparsity"] = record.sparsity
            row["percent_remaining"] = record.percent_remaining
        return {name: value for name, value in row.items() if value is not None}

    def place(self, step: int) -> dict[str, Any]:
        """The axes that every row has."""
        return {"step": self.offset + step, "level": self.number, "level_step": step}


@dataclass(frozen=True)
class Source:
    """One cell and seed of a sweep on disk, as far as it has come."""

    signature: str
    seed: str
    labels: Mapping[str, str | None]
    config: Mapping[str, Any]
    levels: tuple[Level, ...]
    done: bool
    tickets: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What a person would call the cell: `movement-fc-mnist-1f3a5c`."""
        what = self.labels.get("mask_criterion") or self.labels.get("method")
        words = (what, self.labels.get("model"), self.labels.get("dataset"), self.signature[:6])
        return "-".join(filter(None, words))

    @property
    def tags(self) -> tuple[str, ...]:
        named = (self.labels.get(n) for n in ("mask_criterion", "method", "model", "dataset"))
        return tuple(dict.fromkeys(filter(None, named)))

    @property
    def results(self) -> list[Row]:
        """The results of the levels that are trained."""
        return [level.result for level in self.levels if level.is_result]

    @property
    def run(self) -> Run:
        rows: list[Row] = []
        for level in self.levels:
            rows += [*level.curve, *([level.result] if level.record is not None else [])]
        return Run(
            key=f"{self.signature}-{self.seed}",
            name=f"{self.name}-s{self.seed}",
            group=self.labels.get("experiment") or "default",
            kind=self.labels.get("method") or "cell",
            tags=self.tags,
            config={
                **self.config,
                "cell": self.signature,
                "criterion": self.labels.get("mask_criterion"),
                "choices": dict(self.labels),
            },
            rows=tuple(rows),
            summary=_summary(self.results),
            done=self.done,
            tickets=self.tickets,
        )


def sources(sweep: Path) -> list[Source]:
    """The cells and seeds of a sweep's folder, in the order of its manifest.

    Raises: ValueError: a manifest or a record that cannot be read.
    """
    root = sweep.resolve().parent.parent
    return [_source(root, cell) for cell in frozen(sweep)]


def frozen(sweep: Path) -> list[Mapping[str, Any]]:
    """The cells in a sweep's manifest, at least one."""
    path = sweep / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        cells, stages = manifest["cells"], manifest["stages"]
        if cells and all({"stages", "levels", "labels", "config"} <= set(c) for c in cells):
            return [{**cell, "stages": _levels(cell, stages)} for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a sweep's manifest: {error}") from None
    raise ValueError(f"{path}: written before sweeps were mirrored; hint: the same words again")


def _levels(cell: Mapping[str, Any], stages: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The cell's trainings with their levels; one that was a search has its stage's own."""
    return [(k, cell["levels"].get(k, stages.get(k, {}).get("level", 0))) for k in cell["stages"]]


def _source(root: Path, cell: Mapping[str, Any]) -> Source:
    signature, seed = cell["signature"], str(cell["seed"])
    stored = RunFolder.of(root, signature, seed).read()
    if stored.faults:
        raise ValueError("\n".join(stored.faults))
    records = {record.stage: record for record in stored.records}
    levels: list[Level] = []
    tickets: list[Path] = []
    offset = 0
    for stage, number in cell["stages"]:
        record, seen = records.get(stage), history(root / "tickets" / stage, seed)
        if record is None and not seen:
            break
        levels.append(Level(number, offset, seen, record))
        if record is None:
            break
        tickets.append(ticket_path(root, stage, seed))
        offset += record.step if record.train_steps else 0
    return Source(
        signature, seed, cell["labels"], cell["config"], tuple(levels), stored.done, tuple(tickets)
    )


def history(folder: Path, seed: str) -> tuple[Row, ...]:
    """The evaluations of a training: of its ticket, or of its last checkpoint while it runs."""
    partial = folder.glob(f"{seed}.partial-*.safetensors")
    latest = sorted(partial, key=lambda path: int(path.stem.rpartition("-")[2]), reverse=True)
    for path in (folder / f"{seed}.safetensors", *latest):
        try:
            return tuple(json.loads(read_metadata(path)["history"]))
        except (OSError, CorruptTicket, KeyError):
            continue  # not there yet, or gone since; the sweep itself reports what is corrupt
    return ()


def _summary(results: list[Row]) -> dict[str, Any]:
    """A run in one line: its last level, its best, and how many replicates went wrong."""
    if not results:
        return {}
    last = results[-1]
    accurate = [row for row in results if row.get("ticket/test_accuracy") is not None]
    summary = {
        "levels": len(results),
        "sparsity": last["sparsity"],
        "percent_remaining": last["percent_remaining"],
        "diverged_levels": sum(not row["ticket/finite"] for row in results),
        "collapsed_levels": sum(bool(row["ticket/collapsed"]) for row in results),
    }
    if accurate:
        best = max(accurate, key=lambda row: row["ticket/test_accuracy"])
        summary |= {
            "dense_test_accuracy": results[0].get("ticket/test_accuracy"),
            "last_test_accuracy": last.get("ticket/test_accuracy"),
            "best_test_accuracy": best["ticket/test_accuracy"],
            "best_level": best["level"],
        }
    return {name: value for name, value in summary.items() if value is not None}
