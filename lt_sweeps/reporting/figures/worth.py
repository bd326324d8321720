"""Reasons to leave out a figure that could be drawn but shows nothing, one function per reason.

A figure that `report.figures` names is always drawn. The page lists the figures that are left out.
Each rule returns its reason, or "" if it does not apply; `leave_out_if` acts on the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lt_sweeps.analysis.curve import Curve, by_panel, distinct
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.figure import NotDrawn


def leave_out_if(analysis: Analysis, *reasons: str) -> None:
    """Raise `NotDrawn` with the first reason that is not empty, if the layout names no figures."""
    if analysis.layout.figures is None and any(reasons):
        raise NotDrawn(next(filter(None, reasons)))


def all_alike(data: pd.DataFrame, place: str, values: Sequence[str]) -> str:
    """The reason if every panel has several lines and all lines of a panel coincide."""
    for _, panel in data.groupby("panel", sort=False):
        lines = [rows.set_index(place)[list(values)] for _, rows in panel.groupby("line")]
        if len(lines) < 2 or not all(lines[0].equals(line) for line in lines[1:]):
            return ""
    return "its lines are identical" if len(data) else ""


def one_point(curves: Sequence[Curve]) -> str:
    """The reason if no line has more than one point."""
    single = all(len(curve.points) < 2 for curve in curves)
    return "its lines are single points, which the main figure shows" if curves and single else ""


def capped(curves: Sequence[Curve]) -> str:
    """The reason if in every panel at least half of the trainings were best at their last step."""
    for panel in by_panel(curves).values():
        rows = distinct(cell for curve in panel for cell in curve.cells)
        best_at_end = [row.best_step >= row.step for row in rows if row.best_step is not None]
        if not best_at_end or 2 * sum(best_at_end) < len(best_at_end):
            return ""
    return "at least half of the trainings were still best at their last step" if curves else ""
