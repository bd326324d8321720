"""`Figure`: a picture with its caption and its numbers, and the files that it is written as."""

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


class NotDrawn(Exception):
    """Raised by a figure that the data cannot fill; its text is the reason a reader is given."""


@dataclass(frozen=True)
class Figure:
    """One picture: its file name, its caption, the plotted numbers and the stages behind them.

    Drawing is postponed: `report --check` compares numbers and stages and never needs a picture.
    """

    name: str
    caption: str
    data: pd.DataFrame
    stages: tuple[str, ...]
    draw: Callable[[], Sheet]
    code: str = ""  # what it is drawn with, where that is a user's
    tips: Mapping[str, str] = field(default_factory=dict)  # what the page says at a mark, by its id


def figure_files(figure: Figure, pictures: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The figure as its files: PNG, PDF, SVG, its numbers as CSV, its caption and stages as text.

    `pictures` are its PNG, PDF and SVG where they have been drawn before.
    """
    ids = "".join(f"{stage}\n" for stage in figure.stages)
    text = f"{figure.caption}\n\nStages ({len(figure.stages)}):\n{ids}"
    return {
        **(pictures or _pictures(figure)),
        f"{figure.name}.csv": csv_bytes(figure.data),
        f"{figure.name}.txt": text.encode(),
    }


def _pictures(figure: Figure) -> dict[str, bytes]:
    """The figure drawn, as files of the kinds in `PICTURES`."""
    with mpl.rc_context(RC):
        sheet = figure.draw()
        png = _saved(sheet, "png", dpi=300, metadata={"Description": figure.caption})
        # Saving the PNG has laid out the figure. A second layout for the others would give the same
        # positions and double the time.
        sheet.set_layout_engine("none")
        # Without a creation date the same numbers give the same bytes, which checksums need.
        about = {"Title": figure.name, "Subject": figure.caption, "CreationDate": None}
        pdf = _saved(sheet, "pdf", metadata=about)
        svg = _saved(sheet, "svg", metadata={"Date": None})
    pictures = zip(PICTURES, (png, pdf, svg), strict=True)
    return {f"{figure.name}.{kind}": content for kind, content in pictures}


def csv_bytes(data: pd.DataFrame) -> bytes:
    """The numbers of a figure or table, the same bytes for the same numbers."""
    file = io.BytesIO()
    data.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")
    return file.getvalue()


def _saved(sheet: Sheet, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    sheet.savefig(file, format=kind, **options)
    return file.getvalue()
