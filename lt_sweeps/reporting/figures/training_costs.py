"""Figure: the training that each line took, and the part that it shares with other lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain

import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.patches import Patch

from lt_sweeps.analysis.results import CellResults
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.captions import caption
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.marks import prepare_rows
from lt_sweeps.storage.record import Record

Trainings = Mapping[tuple[str, str], Record]
"""Records of trainings by stage and seed."""
_UNITS = {"epochs": "Epochs trained", "seconds": "Seconds"}


def cost_figures(analysis: Analysis) -> list[Figure]:
    """Draw epochs and seconds per line, with the trainings shared with other lines hatched."""
    # A line's bar counts each training once, even if several of its cells need it. A training that
    # several lines use, such as the dense training, is in the bar of each of them. So count the
    # lines that use each training (stage and seed): with one line, it is that line's own.
    lines = [(curve.panel, curve.label, _trainings(curve.cells)) for curve in analysis.curves]
    uses = Counter(chain.from_iterable(trained for _, _, trained in lines))
    rows = [
        {"panel": panel, "line": label, **numbers}
        for panel, label, trained in lines
        for numbers in _rows(trained, uses)
    ]
    if not uses:
        raise NotDrawn("no training has a record yet")
    data = pd.DataFrame(rows)
    n_requested = sum(len(_trainings([cell])) for cell in analysis.results.cells)
    sentence = (
        f"Training per line, all seeds together. The cells asked for {n_requested} trainings; "
        f"{len(uses)} were needed, and {sum(n > 1 for n in uses.values())} of these serve several "
        "lines (hatched)."
    )
    stages = tuple(sorted({stage for stage, _ in uses}))
    return [Figure("cost", caption(analysis, sentence), data, stages, partial(_draw, data))]


def _trainings(cells: Sequence[CellResults]) -> Trainings:
    """Return each training behind these cells once, including those that only led to a result."""
    rows: Iterable[Record] = chain.from_iterable((*cell.search, *cell.rows) for cell in cells)
    return {(row.stage, row.seed): row for row in rows if row.kind in ("train", "search")}


def _rows(trained: Trainings, uses: Counter[tuple[str, str]]) -> list[dict[str, object]]:
    """Return a line's row of epochs and its row of seconds; imported tickets may lack both."""
    units = [(uses[training] > 1, row) for training, row in trained.items()]
    rows = []
    for quantity in _UNITS:
        with_value = [
            (shared, getattr(row, quantity))
            for shared, row in units
            if getattr(row, quantity) is not None
        ]
        total = sum(value for _, value in with_value)
        own = sum(value for shared, value in with_value if not shared)
        rows.append(
            {
                "quantity": quantity,
                "own": own,
                "shared": total - own,
                "units": len(units),
                "units_shared": sum(shared for shared, _ in units),
                "units_unknown": len(units) - len(with_value),
            }
        )
    return rows


def _draw(data: pd.DataFrame) -> Sheet:
    of_panel = style.lines_by_panel(data)
    # Hatched and not another grey, because printers make greys look alike.
    hatched = {"facecolor": "white", "edgecolor": style.GREY, "hatch": "/////", "linewidth": 0.6}
    legend = [Patch(facecolor=style.GREY, label="its own"), Patch(label="shared", **hatched)]
    heights = {panel: 0.6 + style.rows_height(own, each=0.19) for panel, own in of_panel.items()}
    sheet, panels = style.panels_of(data, "panel", "quantity", height=heights, legend=legend)
    for axes, (panel, quantity), rows in panels:
        style.decorate(axes, title=panel, x=_UNITS[quantity], grid="x")
        prepare_rows(axes, of_panel[panel])
        heights = [of_panel[panel].index(line) for line in rows["line"]]
        bar = {"height": 0.55, "zorder": 2}
        axes.barh(heights, rows["own"], color=style.GREY, **bar)
        axes.barh(heights, rows["shared"], left=rows["own"], **bar, **hatched)
    return sheet
