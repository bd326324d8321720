"""`Record`: one row of results (without torch).

Everything that shows results (report, status, tracker, export) reads only records. Each field is
named and described in one place: here. `run_folder` writes and reads records, and `record_lines`
checks each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

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

FORMAT = "lt_sweeps.record/1"
MEASURED = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""The metrics of one evaluation."""


# With slots, because a report holds 65,000 records: each would have its own dict of 60 names.
@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One evaluated ticket: what was requested, what was kept, what was measured, what it cost.

    A field is None if the fact does not exist (a cell without a criterion) or is not known (an
    imported result). Accuracies and sparsities are fractions in [0, 1], losses are means over
    examples, steps are optimizer steps, epochs are passes over the training set.

    Which ticket:
        experiment: the preset, or `none`, or `imported`.
        cell, seed: the cell's signature and its replicate; together they name the folder.
        model ... task: the option of each group; `criterion` is that of `mask_criterion`.
        level: how often the network has been pruned. stage: the key of the training, under which
            its ticket is stored. init: the key of the network's first initialisation.
        kind: `train` for a result that was trained, `score` for one that was only evaluated,
            `search` for a training that only led to a result, `mask` for an imported mask without
            measurements.

    What was kept:
        target_sparsity: the requested sparsity; sparsity: the measured one, both of the prunable
            weights. sparsity_total: pruned weights as a fraction of all parameters.
        weights_*, layers_*: counts of prunable weights, in the network and by layer.
        mask_chance: (slope, shift) of a learned mask: it keeps a weight with the probability
            sigmoid(slope * logit + shift).

    What was measured:
        step: where the training ended. report_at: `best` (lowest validation loss) or `end`; metrics
            without a prefix are those of that evaluation, made at `reported_step`. `end_*` and
            `best_*` are always present. `hard_*`: the reported network with its soft mask made
            hard.
        metric: the task's main metric; lower_is_better: its direction. Both are null for a
            classification, whose main metric is its accuracy. Other tasks need not have accuracies.
            metrics: what the task measures in addition to loss and accuracy, by names such as
            `test_r2` and `best_val_r2`. lower_metrics: the kinds among these whose lowest value is
            the best.
        finite: False if the training diverged, or a training that its mask or weights come from.
        collapsed: the network predicts one class, or a layer is empty.

    What it cost:
        train_steps, epochs: of the training itself. search_epochs: of all trainings before it, each
            counted once; after: the keys of the trainings that it starts from.
        dense_resources: whether a training on the way held more weights than the ticket keeps.
        precision: of training and evaluation. Rows of earlier versions, which had only one
            precision, are read as float32.
        seconds: the ticket's share of the wall time of its stack. device, stack_size, backend,
            code_version: of the job that computed it. A backend is `chain+triton` if our own
            kernels trained, which round differently than torch's; there are none on a CPU.

    notes: sentences about how its mask was made that a reader must know; null in most rows.
    granularity: the structure that was pruned as a whole (`filter`, `2:4`); null for single
    weights.
    resolution: how many weights rounding to whole groups may miss the target sparsity by.
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
        """Its fields as JSON, which has no NaN and no infinity: a diverged loss is null."""
        row = _finite({name: getattr(self, name) for name in COLUMNS})
        if self.metrics is not None:
            row["metrics"] = dict.fromkeys(self.metrics) | _finite(self.metrics)
        return dict.fromkeys(COLUMNS) | row

    @property
    def is_result(self) -> bool:
        """Whether it is a result of its cell, not a training that only led to one."""
        return self.kind != "search"

    @property
    def reports_snapshot(self) -> bool:
        """Whether the reported weights are not those of the end, so that they have a file."""
        return self.kind == "train" and self.reported_step not in (None, self.step)

    @property
    def misses_target(self) -> bool:
        """Whether its sparsity differs from the requested one by more than rounding."""
        size = {"layers": len(self.layers_total), "weights": self.weights_total}
        groups = self.resolution or 0
        return misses_target(self.sparsity, self.target_sparsity, groups=groups, **size)

    @property
    def percent_remaining(self) -> float:
        """Percent of prunable weights remaining, from the measured counts."""
        return 100 * self.weights_remaining / self.weights_total

    def value(self, metric: str) -> float:
        """Return a metric for statistics: NaN if the training diverged or the metric is unknown."""
        number = self.measured(metric)
        return float(number) if self.finite and number is not None else math.nan

    def measured(self, metric: str) -> float | None:
        """Return a metric as it was measured: a column, or a metric of the task's own."""
        name = named(metric, self.judged_by)
        own = self.metrics or {}
        return getattr(self, name) if name in METRIC_COLUMNS and name not in own else own.get(name)

    @property
    def judged_by(self) -> str:
        """The kind of its task's main metric: `accuracy`, `r2`."""
        return self.metric or ACCURACY

    def metric_of(self, name: str) -> Quantity:
        """Return the metric that a name means for this record, with its direction."""
        quantity = Quantity.of(named(name, self.judged_by))
        if self.lower_is_better is not None and quantity.kind == self.judged_by:
            return Quantity(quantity.name, self.lower_is_better)
        if self.lower_metrics is not None and quantity.name in (self.metrics or {}):
            return Quantity(quantity.name, quantity.kind in self.lower_metrics)
        return quantity

    def measures(self, name: str) -> bool:
        """Whether its task has a metric of this name, even if this training diverged."""
        name = named(name, self.judged_by)
        # A task with another main metric may measure an accuracy in addition.
        accuracy = self.metric is None or self.val_accuracy is not None
        in_columns = name in METRIC_COLUMNS and (kind_of(name) != ACCURACY or accuracy)
        return in_columns or name in (self.metrics or {})

    def lacking(self, metrics: Iterable[str]) -> Iterator[str]:
        """Yield the metrics that its task measures but that are null, although it is finite."""
        own = self.metrics or {}
        for name in metrics if self.finite and self.kind != "mask" else ():
            name = named(name, self.judged_by)
            # Another task may have its own metric named `accuracy`, or none.
            in_columns = name in METRIC_COLUMNS and not (self.metric and kind_of(name) == ACCURACY)
            expected = in_columns or name in own or kind_of(name) == self.metric
            if expected and (getattr(self, name) if in_columns else own.get(name)) is None:
                yield name

    @property
    def is_hardened(self) -> bool:
        """Whether its mask was learned, so that the network was also measured with a hard mask."""
        return self.measured(f"hard_test_{OWN}") is not None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All names that a report may give the metrics of its task."""
        return names_measured([self.judged_by, *map(kind_of, self.metrics or ())])

    @property
    def options(self) -> dict[str, str | None]:
        """The option of each group; None for a group that the method does not take."""
        return {group: getattr(self, column) for group, column in OPTIONS.items()}

    @staticmethod
    def option_columns(choices: Mapping[str, str | None]) -> dict[str, Any]:
        """Return the option of each group, by the name of its column."""
        return {column: choices.get(group) for group, column in OPTIONS.items()}

    @staticmethod
    def metric_columns(results: Mapping[str, Any], at: str) -> dict[str, Any]:
        """Return the columns of a task's metrics, from the results in a ticket's header.

        The metrics at `at` (`best` or `end`) are also given without this prefix. NaN and infinity,
        from a training that diverged, become null.
        """
        task_metrics: Mapping[str, float | None] = results.get("metrics") or {}
        measured = _of_reported(task_metrics, at)
        bare = {n.removeprefix(f"{at}_"): measured[n] for n in measured if n.startswith(f"{at}_")}
        merged = {**bare, **measured}
        metrics = {n: v if v is not None and math.isfinite(v) else None for n, v in merged.items()}
        facts = {n: results.get(n) for n in ("metric", "lower_is_better", "lower_metrics")}
        return {**facts, "metrics": metrics or None}

    @staticmethod
    def score_columns(results: Mapping[str, Any], at: str) -> dict[str, Any]:
        """Return all columns of scores, from the results in a ticket's header.

        Those under the hard mask are of a network whose mask was learned.
        """
        reported = _of_reported(results, at)
        names = [f"{when}_{name}" for when in ("end", "best") for name in MEASURED]
        return {
            **{name: results.get(f"{at}_{name}") for name in MEASURED},
            **{name: results.get(name) for name in (*names, "best_step")},
            **{name: reported.get(name) for name in ("hard_val_accuracy", "hard_test_accuracy")},
            **Record.metric_columns(results, at),
        }

    @staticmethod
    def weight_columns(left: Mapping[str, int], total: Mapping[str, int]) -> dict[str, Any]:
        """Return the columns that count weights, from the counts of each layer."""
        remaining, weights = sum(left.values()), sum(total.values())
        layers = {"layers_remaining": left, "layers_total": total}
        return {"weights_remaining": remaining, "weights_total": weights, **layers}


# Groups that were added later are behind the older ones.
OPTIONS = {group: group for group in (*GROUPS, "task")} | {"mask_criterion": "criterion"}
"""The column of each group's option."""
COLUMNS = tuple(field.name for field in fields(Record))
METRIC_COLUMNS = {*METRICS, "hard_val_accuracy", "hard_test_accuracy"}
"""The metrics that have a column; a task's own are in `metrics`."""
ALL_DIVERGED = "every replicate diverged: no result of a pruned network is a number"


# The papers' schedules round down the number of weights that a level prunes from a layer. The error
# adds up over the levels to less than one weight divided by the rate: ten weights at the smallest
# rate of a paper, 0.1.
_ROUNDING = 10  # weights per layer


def _of_reported(scores: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Return scores in which the scores under the hard mask are those of the reported evaluation.

    A ticket has scores under the hard mask at its end, and also at its best evaluation if that is
    not the end.
    """
    first = "best_hard_"
    rest = {name: value for name, value in scores.items() if not name.startswith(first)}
    best = {n.removeprefix("best_"): v for n, v in scores.items() if n.startswith(first)}
    return {**rest, **(best if at == "best" else {})}


def misses_target(
    sparsity: float, target: float | None, *, layers: int, weights: int, groups: int = 0
) -> bool:
    """Whether a sparsity differs from its target, if there is one, by more than rounding.

    `groups` is how many weights rounding to whole groups may miss the target by.
    """
    rounding = (_ROUNDING * layers + groups) / weights
    return target is not None and abs(sparsity - target) > rounding + 1e-9


def all_diverged(cells: Iterable[Sequence[Record]]) -> bool:
    """Whether cells have results and none is finite.

    The dense network of a cell counts only if the cell has no pruned networks.
    """
    results = [[row for row in rows if row.is_result] for rows in cells]
    started = [rows for rows in results if rows]
    tickets = [row for rows in started for row in [r for r in rows if r.level] or rows]
    return bool(started) and not any(row.finite for row in tickets)


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without NaN and infinity, which JSON does not have."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
