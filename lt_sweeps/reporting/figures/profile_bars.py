"""Figure: how the packs of a profiled sweep spent their time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.reporting.figures import style
from lt_sweeps.reporting.figures.figure import Figure
from lt_sweeps.reporting.figures.marks import prepare_rows
from lt_sweeps.reporting.profile_tables import profile_title, seconds_by_part
from lt_sweeps.storage.pack_profile import PackProfile


def profile_figures(profiles: Sequence[PackProfile]) -> list[Figure]:
    """Draw a bar for each part that took time; return no figure if no pack was profiled."""
    totals = {part: seconds for part, seconds in seconds_by_part(profiles).items() if seconds}
    if not totals:
        return []
    total = sum(totals.values())
    data = pd.DataFrame(
        {"part": part, "seconds": seconds, "share": seconds / total}
        for part, seconds in totals.items()
    )
    title = profile_title(profiles)
    caption = f"{title[:1].upper()}{title[1:]}: seconds of all packs together, {total:.4g} in all."
    return [Figure("profile", caption, data, (), partial(_draw, data))]


def _draw(data: pd.DataFrame) -> Sheet:
    parts = list(data["part"])
    sheet = style.new_sheet(1, height=0.45 + style.rows_height(parts, each=0.17))
    (axes,) = sheet.axes
    style.decorate(axes, x="Seconds", grid="x")
    prepare_rows(axes, parts)
    axes.barh(range(len(parts)), data["seconds"], height=0.6, color=style.GREY, zorder=2)
    for row, (seconds, share) in enumerate(zip(data["seconds"], data["share"], strict=True)):
        place = {"textcoords": "offset points", "va": "center", "fontsize": style.SMALL}
        axes.annotate(f"{share:.0%}", (seconds, row), (3, 0), **place)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    return sheet
