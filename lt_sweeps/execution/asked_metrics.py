"""Check the metrics and lines that a command names against those that its cells will have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.line_names import check_planned
from lt_sweeps.analysis.objective import Objective
from lt_sweeps.analysis.results import layouts_by_name, queued_cell
from lt_sweeps.config.overrides import values_under
from lt_sweeps.config.quantities import Quantity, check_name, named, names_measured
from lt_sweeps.config.report_config import layout
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.storage.manifest import FrozenCell


def check_metrics(cells: Sequence[Planned]) -> None:
    """Check the metrics of the report and of the objective, before anything is computed.

    Raises: ValueError: no cell measures a metric of this name, no cell has the objective's level,
        or a margin does not fit a metric.
    """
    tasks = dict.fromkeys(cell.lasts[0].training.task for cell in cells)
    names = names_measured([kind for task in tasks for kind in task.metric_kinds])
    by_report = group_by(cells, lambda cell: repr(cell.cell.report))
    for drawn in by_report.values():
        asked = layout(drawn[0].cell.report)
        for name in asked.metrics:
            check_name("report.metrics", name, names)
            for main in {cell.lasts[0].training.task.kind.main for cell in drawn}:
                asked.check_margins(Quantity.of(named(name, main)))
    levels = {level for cell in cells for level in cell.levels.values()}
    for value in {str(cell.cell.config.get("objective", "val_metric")) for cell in cells}:
        Objective.of(value).check(names, levels)


def check_layouts(
    cells: Sequence[FrozenCell], layouts: Mapping[str, Mapping[str, Any]], words: Sequence[str]
) -> None:
    """Check the keys and lines that the report layout of each experiment, or `words`, names.

    An experiment with several tasks is not checked, because only its records say which cells are
    drawn in the same panel.

    Raises: ValueError: no cell has a key or line that is named, or `report.lines` gives two lines
        the same name.
    """
    experiments = group_by(cells, lambda cell: cell.labels["experiment"] or "")
    typed = values_under("report", words)
    for name, keys in layouts_by_name(experiments, layouts).items():
        drawn = experiments[name] if name else cells
        if len({repr(cell.config.get("task")) for cell in drawn}) == 1:
            check_planned(map(queued_cell, drawn), layout(keys), typed)
