"""The metrics that a command names, compared with what its cells will measure."""

from __future__ import annotations

from collections.abc import Sequence

from lt_sweeps.analysis.objective import Objective
from lt_sweeps.config.quantities import check_name, names_measured
from lt_sweeps.config.report_config import layout
from lt_sweeps.plan.planning import Planned


def check_metrics(cells: Sequence[Planned]) -> None:
    """Look up the metrics of the report and the objective, before anything is computed.

    Raises: ValueError: no cell has a metric of such a name, or no cell has the objective's level.
    """
    tasks = {cell.lasts[0].training.task for cell in cells}
    names = names_measured([kind for task in tasks for kind in task.metric_kinds])
    for report in {repr(cell.cell.report): cell.cell.report for cell in cells}.values():
        for name in layout(report).metrics:
            check_name("report.metrics", name, names)
    levels = {level for cell in cells for level in cell.levels.values()}
    for value in {str(cell.cell.config.get("objective", "val_metric")) for cell in cells}:
        Objective.of(value).check(names, levels)
