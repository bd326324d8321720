"""User-defined figures: a function of the analysis, or of its records as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.identity import digest
from lt_sweeps.config.report_config import figure_call
from lt_sweeps.config.users_mistakes import raised_in
from lt_sweeps.reporting.csv_tables import records_table
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn


def draw_own(figure: Mapping[str, Any], analysis: Analysis) -> list[Figure]:
    """Call the function of `figure` (a `name`, a `_target_` and arguments) and return its figures.

    The function returns a matplotlib figure and a caption, and optionally a table of the numbers;
    or a list of `Figure`.

    Raises:
        NotDrawn: there are no records, or the function raises an error; the rest of the report is
            still written.
        ValueError: the function returned something else.
    """
    call, name = figure_call(figure), figure["name"]
    if not analysis.curves:
        raise NotDrawn("no records yet")
    try:
        returned = call(analysis=analysis, records=records_table(analysis.every_curve))
    except NotDrawn:
        raise
    except Exception as error:
        raise NotDrawn(f"its function fails: {raised_in(error) or error}") from None
    code = digest(call.identity())
    if isinstance(returned, list) and all(isinstance(drawn, Figure) for drawn in returned):
        return [replace(drawn, code=code) for drawn in returned]
    has_table = isinstance(returned, tuple) and len(returned) == 3
    sheet, caption, data = returned if has_table else (*_pair(returned), None)
    fits = isinstance(sheet, Sheet) and isinstance(caption, str)
    if not fits or not isinstance(data, pd.DataFrame | None):
        raise ValueError(
            f"report.figures: {name}: `{call.target}` returned {type(returned).__name__}; give a "
            "matplotlib figure and its caption, and a pandas table if there is one"
        )
    table = pd.DataFrame({"figure": [name]}) if data is None else data
    return [Figure(name, caption, table, analysis.stages, lambda: sheet, code)]


def _pair(returned: Any) -> tuple[Any, Any]:
    return returned if isinstance(returned, tuple) and len(returned) == 2 else (None, None)
