"""Figure: what each line took to compute, and what it shared with the others."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.patches import Patch

from lt_sweeps.analysis.curve import Curve, distinct
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import caption
from lt_sweeps.reporting.figures.dot_rows import rows_panel
from lt_sweeps.reporting.figures.style import GREY, Figure, NotDrawn, decorate, rows_height, sheet

_UNITS = {"epochs": "Epochs trained", "seconds": "Seconds"}


def cost(found: Analysis) -> list[Figure]:
    """Epochs and seconds per line, the part of units that other lines use too apart."""
    uses = Counter((row.stage, row.seed) for curve in found.curves for row in distinct(curve.cells))
    rows = [row for curve in found.curves for row in _rows(curve, uses)]
    if not rows:
        raise NotDrawn("no records yet")
    data = pd.DataFrame(rows)
    asked = sum(len(cell.rows) for cell in found.reading.cells)
    says = (
        f"What each line took, all seeds together. {asked} trainings were asked for, {len(uses)} "
        f"were needed; {sum(n > 1 for n in uses.values())} of them serve several lines (hatched)."
    )
    return [
        Figure(
            "cost",
            caption(found, says, stages=found.stages),
            data,
            found.stages,
            partial(_draw, data),
        )
    ]


def _rows(curve: Curve, uses: Counter[tuple[str, str]]) -> list[dict[str, object]]:
    units = distinct(curve.cells)
    made = []
    for quantity in _UNITS:
        known = [row for row in units if getattr(row, quantity) is not None]
        own = [row for row in known if uses[row.stage, row.seed] == 1]
        total, alone = (sum(getattr(row, quantity) for row in some) for some in (known, own))
        made.append(
            {
                "panel": curve.panel,
                "line": curve.label,
                "quantity": quantity,
                "own": alone,
                "shared": total - alone,
                "units": len(units),
                "units_shared": sum(uses[row.stage, row.seed] > 1 for row in units),
                "units_unknown": len(units) - len(known),
            }
        )
    return made


def _draw(data: pd.DataFrame) -> Sheet:
    groups = list(data.groupby(["panel", "quantity"], sort=False))
    lines = list(dict.fromkeys(data["line"]))
    legend = [
        Patch(facecolor=GREY, label="its own"),
        Patch(facecolor="white", edgecolor=GREY, hatch="/////", label="shared", linewidth=0.6),
    ]
    made = sheet(len(groups), height=0.6 + rows_height(lines, each=0.19), legend=legend)
    for axes, (_, here) in zip(made.axes, groups, strict=True):
        panel, quantity = (str(here[name].iloc[0]) for name in ("panel", "quantity"))
        decorate(axes, title=panel, x=_UNITS[quantity], grid="x")
        rows_panel(axes, lines)
        at = [lines.index(line) for line in here["line"]]
        axes.barh(at, here["own"], height=0.55, color=GREY, zorder=2)
        axes.barh(
            at,
            here["shared"],
            left=here["own"],
            height=0.55,
            facecolor="white",
            edgecolor=GREY,
            hatch="/////",
            linewidth=0.6,
            zorder=2,
        )
    return made
