"""`Objective`: the number that a search (Optuna, Ax, Nevergrad) tries to improve, of one trial.

A trial is one cell, or one with several seeds (`seed=[0,1,2]`), whose mean counts. It is read from
the records as every other number, and is in no stage key: the same trainings serve any objective.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.results import CellResults, read_results
from lt_sweeps.config.quantities import (
    Quantity,
    check_name,
    is_name,
    looks_at_test,
    named,
    names_of,
)
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.spelling import listed

# The endpoints that are one number per run. They look at the task's own metric, on validation data.
_ENDPOINTS = ("sparsest_not_inferior", "area", "peak")
_LOOKS_AT = "val_metric"


@dataclass(frozen=True)
class Objective:
    """`val_accuracy` at the last level, `val_r2@3` at level 3, or an endpoint such as `area`.

    `val_metric` is the metric by which the task is judged. The margin of `sparsest_not_inferior`
    is `report.margin`.
    """

    name: str
    level: int | None = None  # of a metric; None: the last one

    @classmethod
    def of(cls, value: Any) -> Objective:
        """Raises: ValueError: it can name no metric of any task and no endpoint, or no level."""
        name, at, level = str(value).partition("@")
        whole = level.isdecimal() if at else True
        known = name in _ENDPOINTS or is_name(name)
        if not known or not whole or (at and name in _ENDPOINTS):
            raise ValueError(
                f"objective: got {value!r}; give {', '.join(_ENDPOINTS)}, or METRIC or "
                f"METRIC@LEVEL of {', '.join(names_of(()))}"
            )
        return cls(name, int(level) if at else None)

    def check(self, names: Collection[str], levels: Collection[int]) -> None:
        """Compare it with what a plan will measure.

        Raises: ValueError: none of its cells has this metric, or this level.
        """
        if self.name not in _ENDPOINTS:
            check_name("objective", self.name, names)
        if self.level is not None and self.level not in levels:
            raise ValueError(f"objective: {self}; the levels are {listed(sorted(levels))}")

    @property
    def looks_at_test(self) -> bool:
        """Whether what is tuned by it is tuned on the test set."""
        return looks_at_test(self.name)

    def check_direction(self, said: str, task: Mapping[str, Any] | None) -> None:
        """Compare the direction that a sweeper searches in with what is better of this task.

        Raises: ValueError: it looks for the worst.
        """
        from lt_sweeps.plan.stages.task_kind import TaskKind  # it takes torch

        if said not in ("minimize", "maximize"):
            return
        kind = TaskKind.of(task)
        own = {metric.name: metric.lower_is_better for metric in kind.metrics}
        metric = Quantity.of(named(_LOOKS_AT if self.name in _ENDPOINTS else self.name, kind.main))
        lower = own.get(metric.kind, metric.lower_is_better)
        if self.name == "sparsest_not_inferior":
            lower = False
        elif metric.kind not in own and metric.kind != "loss":
            return  # a number of steps or seconds, or no metric of this task
        if lower != (said == "minimize"):
            better = "minimize" if lower else "maximize"
            raise ValueError(
                f"hydra.sweeper.direction: got {said}, and objective={self} is better "
                f"{'low' if lower else 'high'}; give {better}"
            )

    def __str__(self) -> str:
        return self.name if self.level is None else f"{self.name}@{self.level}"

    def of_trial(
        self, folder: Path, seeds: Collection[str], report: Mapping[str, Any]
    ) -> dict[str, float]:
        """The number of each seed of a trial; NaN where the training diverged or has none.

        Args:
            folder: of the cell, `<root>/runs/<signature>`.
            report: the keys under `report:`.

        Raises: ValueError: the records cannot be read, or have no such level.
        """
        cells = [cell for cell in read_results(folder, metrics=()).cells if cell.seed in seeds]
        if self.name in _ENDPOINTS:
            return self._endpoint(cells, report)
        return {cell.seed: self._metric(cell) for cell in cells}

    def _metric(self, cell: CellResults) -> float:
        levels = {row.level: row for row in cell.rows}
        if not levels:
            return math.nan
        level = max(levels) if self.level is None else self.level
        if level not in levels:
            raise ValueError(f"objective: {self}; the levels are {listed(sorted(levels))}")
        row = levels[level]
        check_name("objective", self.name, row.metric_names)
        return row.value(self.name)

    def _endpoint(
        self, cells: Sequence[CellResults], report: Mapping[str, Any]
    ) -> dict[str, float]:
        # Their libraries take a second, which a plan need not wait for.
        from lt_sweeps.analysis.curve import curves
        from lt_sweeps.analysis.endpoint import endpoints, shared_density

        # What a report calls its lines does not matter here, and may name lines that are not there.
        margin = layout({key: report[key] for key in ("margin",) if key in report})
        values = {cell.seed: math.nan for cell in cells}
        for curve in curves(cells, metric=_LOOKS_AT, layout=margin):
            # An area that stops before the level without a weight would hide that level.
            if self.name == "area" and any(point.percent <= 0 for point in curve.points):
                continue
            ends = endpoints(curve, margin, least=shared_density([curve]))
            values |= ends[self.name].values
        return values
