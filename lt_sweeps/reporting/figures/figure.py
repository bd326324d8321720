"""`Figure`: a picture with its caption and numbers, and the files that are written for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.reporting.figures.style import RC

PICTURES = ("png", "pdf", "svg")
KINDS = (*PICTURES, "csv", "txt")  # the files of a figure


class NotDrawn(Exception):
    """Raised if the data are not enough for a figure; its text is the reason that readers see."""


@dataclass(frozen=True)
class Figure:
    """One picture: its file name, its caption, the plotted numbers and the stages behind them.

    `draw` is called only when the picture is needed: `report --check` compares numbers and stages.
    """

    name: str
    caption: str
    data: pd.DataFrame
    stages: tuple[str, ...]
    draw: Callable[[], Sheet]
    code: str = ""  # the digest of the custom function that drew it; empty for a built-in figure
    tips: Mapping[str, str] = field(default_factory=dict)  # tooltips by marker id


def figure_files(figure: Figure, pictures: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return a figure's files: PNG, PDF, SVG, the numbers as CSV, the caption and stages as text.

    `pictures` holds its PNG, PDF and SVG if they were drawn before; otherwise they are drawn now.
    """
    ids = "".join(f"{stage}\n" for stage in figure.stages)
    text = f"{figure.caption}\n\nStages ({len(figure.stages)}):\n{ids}"
    return {
        **(pictures or _pictures(figure)),
        f"{figure.name}.csv": csv_bytes(figure.data),
        f"{figure.name}.txt": text.encode(),
    }


def _pictures(figure: Figure) -> dict[str, bytes]:
    """Draw a figure and return its files of the kinds in `PICTURES`."""
    with mpl.rc_context(RC):
        sheet = figure.draw()
        png = _saved(sheet, "png", dpi=300, metadata={"Description": figure.caption})
        # Saving the PNG has laid out the figure. Another layout for the other files would give the
        # same positions and double the time.
        sheet.set_layout_engine("none")
        # Without a creation date the same numbers give the same bytes, which checksums need.
        about = {"Title": figure.name, "Subject": figure.caption, "CreationDate": None}
        pdf = _saved(sheet, "pdf", metadata=about)
        svg = _saved(sheet, "svg", metadata={"Date": None})
    pictures = zip(PICTURES, (png, pdf, svg), strict=True)
    return {f"{figure.name}.{kind}": content for kind, content in pictures}


def csv_bytes(data: pd.DataFrame) -> bytes:
    """Return the numbers of a figure or table as CSV; equal numbers give equal bytes."""
    file = io.BytesIO()
    data.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")
    return file.getvalue()


def _saved(sheet: Sheet, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    sheet.savefig(file, format=kind, **options)
    return file.getvalue()
