"""The report as one HTML page that stands alone: pictures, numbers and captions are inside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment
from rich.table import Table

from lt_sweeps.analysis.significance import caveats
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.style import Figure

_TEMPLATE = Path(__file__).with_name("page.html")
_KINDS = {"pdf": "application/pdf", "csv": "text/csv"}
_ZOOM = 1.35  # pixels of a page for one of paper: 96 to the inch would be hard to read


def page(
    found: Analysis,
    figures: Sequence[Figure],
    files: Mapping[str, bytes],
    tables: Iterable[Table],
    missing: Sequence[str],
) -> bytes:
    """The page, from the figures' own files and the terminal's own tables."""
    reading = found.reading
    seeds = {cell.seed for cell in reading.cells}
    warnings = [
        reading.unfinished and f"Unfinished: {reading.unfinished}. What is missing is marked.",
        len(reading.versions) > 1
        and f"Made by {len(reading.versions)} versions of the code: {', '.join(reading.versions)}.",
        *reading.notes,
        *missing,
    ]
    html = Environment(autoescape=True).from_string(_TEMPLATE.read_text())
    return html.render(
        name=reading.name,
        facts=f"{len(reading.cells)} cells, {len(seeds)} seeds, {len(found.stages)} stages; "
        f"code {', '.join(reading.versions) or 'unknown'}.",
        warnings=[line for line in warnings if line],
        figures=[_figure(figure, files) for figure in figures],
        caveats=caveats(found.verdicts, found.layout),
        tables=[_table(table) for table in tables],
    ).encode()


def _figure(figure: Figure, files: Mapping[str, bytes]) -> dict[str, object]:
    png = files[f"{figure.name}.png"]
    width = int.from_bytes(png[16:20], "big")  # of the PNG's first chunk, at 300 to the inch
    links = {
        kind: f"data:{mime};base64,{_text(files[f'{figure.name}.{kind}'])}"
        for kind, mime in _KINDS.items()
    }
    return {
        "name": figure.name,
        "caption": figure.caption,
        "stages": figure.stages,
        "png": _text(png),
        "width": round(width / 300 * 96 * _ZOOM),
        "links": links,
    }


def _table(table: Table) -> dict[str, object]:
    columns = [[str(text) for text in column.cells] for column in table.columns]
    return {
        "title": str(table.title),
        "heads": [str(column.header) for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
