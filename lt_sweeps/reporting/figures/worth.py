"""When a figure that the data allow says nothing: the rules, each in one place.

A figure that `report.figures` names is drawn in any case. What is left out is named on the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lt_sweeps.analysis.curve import Curve, by_panel, distinct
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.figure import NotDrawn


def leave_out_if(analysis: Analysis, *reasons: str) -> None:
    """Raises: NotDrawn: with the first reason, where the layout names no figures."""
    if analysis.layout.figures is None and any(reasons):
        raise NotDrawn(next(filter(None, reasons)))


def all_alike(data: pd.DataFrame, place: str, values: Sequence[str]) -> str:
    """Where every panel has several lines, and they lie on each other; else nothing."""
    for _, panel in data.groupby("panel", sort=False):
        lines = [rows.set_index(place)[list(values)] for _, rows in panel.groupby("line")]
        if len(lines) < 2 or not all(lines[0].equals(line) for line in lines[1:]):
            return ""
    return "its lines are identical" if len(data) else ""


def one_point(curves: Sequence[Curve]) -> str:
    """Where no line has a second point to be joined with."""
    alone = all(len(curve.points) < 2 for curve in curves)
    return "its lines are single points, which the main figure shows" if curves and alone else ""


def capped(curves: Sequence[Curve]) -> str:
    """Where half of the trainings of each panel, or more, were best at the step they ended at."""
    for panel in by_panel(curves).values():
        rows = distinct(cell for curve in panel for cell in curve.cells)
        ended = [row.best_step >= row.step for row in rows if row.best_step is not None]
        if not ended or 2 * sum(ended) < len(ended):
            return ""
    return "at least half of the trainings were still best at their last step" if curves else ""
