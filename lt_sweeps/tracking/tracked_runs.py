"""A sweep's cells and seeds as the runs of an experiment tracker (no torch).

Rows are only appended to a run, and a row never changes. So a tracker that has the first n rows
needs only the later ones, and a mirror can be killed at any moment and started again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.curve import WHOLE
from lt_sweeps.analysis.endpoint import best_ticket
from lt_sweeps.config.quantities import TEST_ACCURACY, Quantity
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.storage.record import Record

Row = Mapping[str, Any]
"""One step in a tracker: numbers by the names that the tracker shows."""

RESULTS = (
    *("test_accuracy", "test_loss", "val_accuracy", "val_loss", "end_test_accuracy"),
    *("hard_val_accuracy", "hard_test_accuracy", "best_step"),
)
FACTS = ("weights_remaining", "finite", "collapsed", "seconds")
"""The columns of a record that a result row has even if the training diverged."""


@dataclass(frozen=True)
class Run:
    """One run of a tracker: a cell and seed, or a cell's statistics over its seeds.

    `key` is the run's permanent name, by which a later mirror continues the same run. `rows` has,
    level by level, the evaluations and then the result. `tickets` has the levels whose ticket is
    stored. If `dropped`, rows lack the evaluations of levels whose ticket was dropped.

    `config` is the resolved config. `settings` is the part of it that affects the result, with
    dotted keys. `about` says where the run belongs (sweep, panel, line) and what computed it. It
    may change later: if two sweeps share a cell, it names the sweep that was mirrored last.
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
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    tickets: tuple[Level, ...] = ()
    dropped: bool = False

    @property
    def label(self) -> str:
        """The run's sweep, panel and line; a tracker keeps them, so that a change is noticed."""
        return label(self.about)


def label(about: Mapping[str, Any]) -> str:
    """The sweep, panel and line of a run, from its `about` or a tracker's copy of it."""
    return " / ".join(str(about.get(name, "")) for name in ("sweep", "panel", "line"))


AXES = ("step", "level", "level_step")
"""The axes of every row: the step over all levels, the level, and the step within the level."""


def axis(row: Row) -> int:
    """The step of a row for trackers with a single axis: the level if the row is a result."""
    return row["level"] if "sparsity" in row else row["step"]


def numbers(row: Row) -> dict[str, float]:
    """The values of a row that can be drawn, without the axes; a bool becomes 0 or 1."""
    shown = {name: value for name, value in row.items() if name not in AXES}
    return {name: float(v) for name, v in shown.items() if isinstance(v, int | float)}


@dataclass(frozen=True)
class Level:
    """A level of one cell and seed: its evaluations so far, and its record once it is trained.

    `offset` is the step at which the level begins on an axis over all levels. A search for a ticket
    is also a level, with numbers named `search/...`. `ticket` is the file of the trained network;
    None if it is not stored. `dropped` says that the evaluations are gone with their ticket.
    """

    number: int
    offset: int
    history: tuple[Row, ...]
    record: Record | None
    ticket: Path | None = None
    dropped: bool = False

    @property
    def is_result(self) -> bool:
        return self.record is not None and self.record.is_result

    @property
    def curve(self) -> list[Row]:
        return [self.place(at["step"]) | _measured(at) for at in self.history]

    @property
    def rows(self) -> list[Row]:
        return self.curve if self.record is None else [*self.curve, self.result]

    @property
    def result(self) -> Row:
        """Its record; without metrics if it diverged, as the report has no value for it either."""
        record = self.record
        assert record is not None
        prefix = "ticket" if self.is_result else "search"
        row = self.place(record.step)
        row |= {f"{prefix}/{name}": getattr(record, name) for name in FACTS}
        if record.finite:
            row |= {f"{prefix}/{name}": getattr(record, name) for name in RESULTS}
            row |= {f"{prefix}/{name}": value for name, value in (record.metrics or {}).items()}
            if self.history and self.history[0]["step"] < record.step:
                # Before its first step a ticket is a supermask: its accuracy is due to the mask.
                name = f"val_{record.judged_by}"
                row[f"{prefix}/untrained_{name}"] = self.history[0].get(name)
        if self.is_result:
            left, total = record.layers_remaining, record.layers_total
            row |= {f"layers/{name}": 1 - left[name] / total[name] for name in total}
            row["sparsity"] = record.sparsity
            row["percent_remaining"] = record.percent_remaining
        return {name: value for name, value in row.items() if value is not None}

    def place(self, step: int) -> dict[str, Any]:
        """The values of `AXES` at a step within the level."""
        return {"step": self.offset + step, "level": self.number, "level_step": step}


def _measured(at: Row) -> dict[str, Any]:
    """The metrics of an evaluation; only its losses if the validation loss is NaN or infinite."""
    finite = math.isfinite(at.get("val_loss", 0))  # some imported evaluations lack it
    return {
        name.replace("_", "/", 1): value
        for name, value in at.items()
        if name != "step" and (finite or name.endswith("_loss"))
    }


@dataclass(frozen=True)
class TrackedCell:
    """One cell and seed of a sweep, with the levels that are on disk so far.

    `place` names the sweep, and the panel and the line that show the cell in the sweep's report.
    """

    signature: str
    seed: str
    labels: Mapping[str, str | None]
    config: Mapping[str, Any]
    levels: tuple[Level, ...]
    done: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A readable name, such as `movement-fc-mnist-1f3a5c`."""
        science = self.labels.get("mask_criterion") or self.labels.get("method")
        words = (science, self.labels.get("model"), self.labels.get("dataset"), self.signature[:6])
        return "-".join(filter(None, words))

    @property
    def tags(self) -> tuple[str, ...]:
        named = (self.labels.get(n) for n in ("mask_criterion", "method", "model", "dataset"))
        return tuple(dict.fromkeys(filter(None, named)))

    @property
    def records(self) -> list[Record]:
        """The records of the trained levels, and of the searches before them."""
        return [level.record for level in self.levels if level.record is not None]

    @property
    def _dense(self) -> Row:
        """The result row of the trained network before any pruning; empty if there is none."""
        rows = (
            level.result
            for level in self.levels
            if (record := level.record) is not None
            and (level.is_result, record.kind) == (True, "train")
            and record.percent_remaining >= WHOLE
        )
        return next(rows, {})

    @property
    def metric(self) -> Quantity:
        """The test metric by which its task is judged."""
        record = next(iter(self.records), None)
        return TEST_ACCURACY if record is None else record.metric_of("test_metric")

    @property
    def group(self) -> str:
        """The experiment; the sweep if the cell belongs to no experiment."""
        experiment = self.labels.get("experiment")
        return self.place.get("sweep", "") if experiment in (None, "default") else experiment

    @property
    def about(self) -> dict[str, Any]:
        """The place of the run, and what computed it; a list if records differ in a value."""
        about: dict[str, Any] = {**self.place, "cell": self.signature}
        for name in ("code_version", "device", "stack_size") if self.records else ():
            values = list(dict.fromkeys(getattr(record, name) for record in self.records))
            about[name] = values[0] if len(values) == 1 else values
        return about

    @property
    def run(self) -> Run:
        return Run(
            key=f"{self.signature}-{self.seed}",
            name=f"{self.name}-s{self.seed}",
            group=self.group,
            kind=self.labels.get("method") or "cell",
            tags=self.tags,
            config={
                **self.config,
                "criterion": self.labels.get("mask_criterion"),
                "choices": dict(self.labels),
            },
            settings={**self.settings, "seed": self.seed},
            about=self.about,
            rows=tuple(row for level in self.levels for row in level.rows),
            summary=_summary(self.levels, self._dense, self.metric),
            done=self.done,
            tickets=tuple(level for level in self.levels if level.ticket is not None),
            dropped=any(level.dropped for level in self.levels),
        )


def _summary(levels: Iterable[Level], dense: Row, metric: Quantity) -> dict[str, Any]:
    """A run's summary: its last and best level, and counts of diverged and collapsed levels.

    The best level is that of the report: the pruned ticket with the best validation metric.
    """
    records = [level.record for level in levels if level.record is not None and level.is_result]
    if not records:
        return {}
    last, name = records[-1], metric.name
    best = best_ticket(records, metric, ReportConfig().chooser(name))
    summary = {
        "levels": len(records),
        "sparsity": last.sparsity,
        "percent_remaining": last.percent_remaining,
        "diverged_levels": sum(not record.finite for record in records),
        "collapsed_levels": sum(bool(record.collapsed) for record in records),
        f"dense_{name}": dense.get(f"ticket/{name}"),
        f"last_{name}": last.measured(name) if last.finite else None,
    }
    if best is not None:
        summary |= {f"best_{name}": best.value(name), "best_level": best.level}
    return {name: value for name, value in summary.items() if value is not None}
