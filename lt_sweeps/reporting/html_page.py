"""The report as one HTML file that can be mailed: pictures, numbers and captions are inside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template
from rich.table import Table

from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.captions import versions_sentence, winning_sentences
from lt_sweeps.reporting.figures.style import Figure

_MIME_TYPES = {"pdf": "application/pdf", "csv": "text/csv"}
_ZOOM = 1.35  # larger than on paper: 6.5 points at 96 pixels to the inch are hard to read


def report_page(
    analysis: Analysis,
    figures: Sequence[Figure],
    files: Mapping[str, bytes],
    tables: Iterable[Table],
    missing: Sequence[str],
) -> bytes:
    """The page, made from the files of the figures and the tables of the terminal."""
    reading = analysis.reading
    seeds = {cell.seed for cell in reading.cells}
    warnings = [
        reading.unfinished and f"Unfinished: {reading.unfinished}. Missing numbers are marked.",
        versions_sentence(reading.versions),
        *raised_alarms(analysis),
        *reading.notes,
    ]
    return (
        page_template("page.html")
        .render(
            name=reading.name,
            facts=f"{len(reading.cells)} cells, {len(seeds)} seeds, {len(analysis.stages)} stages. "
            f"Version of the code: {', '.join(reading.versions) or 'unknown'}.",
            warnings=[line for line in warnings if line],
            figures=[figure_on_page(figure, files) for figure in figures],
            answers=[*analysis.test_sentences, *winning_sentences(analysis)],
            tables=[table_on_page(table) for table in tables],
            missing=[line.replace(": not drawn, because", ":") for line in missing],
        )
        .encode()
    )


def page_template(name: str) -> Template:
    """A template of this folder."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(autoescape=True, loader=loader).get_template(name)


def figure_on_page(figure: Figure, files: Mapping[str, bytes]) -> dict[str, object]:
    """A figure as the templates show it, from its files by name."""
    png = files[f"{figure.name}.png"]
    # A PNG starts with 8 bytes of signature, then its IHDR chunk: length, name, and at byte 16 the
    # width. It was drawn at 300 pixels to the inch, and browsers count 96.
    width = int.from_bytes(png[16:20], "big")
    links = {
        kind: f"data:{mime};base64,{_base64(files[f'{figure.name}.{kind}'])}"
        for kind, mime in _MIME_TYPES.items()
    }
    return {
        "name": figure.name,
        "caption": figure.caption,
        "stages": figure.stages,
        "png": _base64(png),
        "width": round(width / 300 * 96 * _ZOOM),
        "links": links,
    }


def table_on_page(table: Table) -> dict[str, object]:
    """A table of the terminal as the templates show it."""
    columns = [[str(text) for text in column.cells] for column in table.columns]
    return {
        "title": str(table.title),
        "heads": [str(column.header) for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
