"""`Objective`: the number of a trial that a search (Optuna, Ax, Nevergrad) tries to improve.

A trial is one cell with one seed, or with several (`seed=[0,1,2]`), over which the mean is taken.
The objective is read from the records like every other number. It is part of no stage key, so the
same trainings can be used for any objective.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.results import CellResults, read_results
from lt_sweeps.config.quantities import Quantity, check_name, is_name, named, names_of
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.spelling import listed

# The endpoints that have one number per run. They use the task's own metric on validation data.
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
        """Parse `METRIC`, `METRIC@LEVEL` or the name of an endpoint.

        Raises: ValueError: the name is neither an endpoint nor a metric of any task, the level is
            not a whole number, or an endpoint has a level.
        """
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
        """Compare the objective with the metrics and levels of a plan.

        Raises: ValueError: no cell of the plan has this metric or this level.
        """
        if self.name not in _ENDPOINTS:
            check_name("objective", self.name, names)
        if self.level is not None and self.level not in levels:
            raise ValueError(f"objective: got {self}; the levels are {listed(sorted(levels))}")

    def check_direction(self, said: str, task: Mapping[str, Any] | None) -> None:
        """Compare the sweeper's direction with the direction in which the objective is better.

        Raises: ValueError: the sweeper would search for the worst value.
        """
        from lt_sweeps.plan.stages.task_kind import TaskKind  # imports torch

        if said not in ("minimize", "maximize"):
            return
        kind = TaskKind.of(task)
        own = {metric.name: metric.lower_is_better for metric in kind.metrics}
        metric = Quantity.of(named(_LOOKS_AT if self.name in _ENDPOINTS else self.name, kind.main))
        lower = own.get(metric.kind, metric.lower_is_better)
        if self.name == "sparsest_not_inferior":
            lower = False
        elif metric.kind not in own and metric.kind != "loss":
            return  # a number of steps or seconds, or a metric that this task does not have
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
        """The objective of each seed of a trial; NaN if the training diverged or has no value.

        Args:
            folder: the cell's folder, `<root>/runs/<signature>`.
            report: the keys under `report:`.

        Raises: ValueError: the records cannot be read, or do not have the objective's level.
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
            raise ValueError(f"objective: got {self}; the levels are {listed(sorted(levels))}")
        row = levels[level]
        check_name("objective", self.name, row.metric_names)
        return row.value(self.name)

    def _endpoint(
        self, cells: Sequence[CellResults], report: Mapping[str, Any]
    ) -> dict[str, float]:
        # Imported here because their libraries take a second to load, and a plan does not use them.
        from lt_sweeps.analysis.curve import curves
        from lt_sweeps.analysis.endpoint import endpoints, shared_density

        # Of the report's keys only the margin matters here. Others may name lines that this trial
        # does not have, and would be refused.
        margin = layout({key: report[key] for key in ("margin",) if key in report})
        values = {cell.seed: math.nan for cell in cells}
        for curve in curves(cells, metric=_LOOKS_AT, layout=margin):
            # An area would end before a level that has no weights left, and so hide that level.
            if self.name == "area" and any(point.percent <= 0 for point in curve.points):
                continue
            ends = endpoints(curve, margin, least=shared_density([curve]))
            values |= ends[self.name].values
        return values
