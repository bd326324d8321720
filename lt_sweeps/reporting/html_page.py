"""The report as one HTML file that can be mailed, because it contains all figures and numbers."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup
from rich.table import Table

from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.labels import differences, value_of
from lt_sweeps.analysis.record_audit import is_clean
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.reporting.figures.captions import (
    not_inferior_sentence,
    versions_sentence,
    winning_sentences,
)
from lt_sweeps.reporting.figures.figure import Figure
from lt_sweeps.reporting.svg_on_page import LARGEST, ZOOM, colour_rules, inline_svg

_MIME_TYPES = {"pdf": "application/pdf", "csv": "text/csv"}
_OPTIONS = 12  # options named per key; if there are more, their total follows
_SEEDS = 60  # characters; a longer list of seeds is left out, and only counted
_HEADINGS = {
    "best_step": "Early-stop step",
    "endpoints": "One number per run",
    "layers": "Weights remaining in each layer",
    "cost": "Training that each line took",
    "overlap": "Overlap of masks",
    "plane": "Which weights are kept",
    "signs": "Weights that changed their sign",
    "probabilities": "Chances to be kept",
    "profile": "Where the time went",
}


@dataclass(frozen=True)
class Page:
    """The parts of a report page besides its figures, in page order."""

    tables: Sequence[Table]  # below the main figure
    more_tables: Sequence[Table] = ()
    submitted: str = ""  # the day on which the sweep was last submitted
    words: Sequence[str] = ()  # the overrides that were typed


def report_page(
    analysis: Analysis,
    figures: Sequence[Figure],
    files: Mapping[str, bytes],
    page: Page,
    missing: Sequence[str],
) -> bytes:
    """Return the HTML of the page, from the files of the figures and the tables of the terminal."""
    results = analysis.results
    findings = [
        results.unfinished and f"Unfinished: {results.unfinished}. Missing numbers are marked.",
        versions_sentence(results.versions),
        *raised_alarms(analysis),
        *(note for note in results.notes if not is_clean(note)),
    ]
    answers = [*analysis.test_sentences, *winning_sentences(analysis)]
    answers = answers or [not_inferior_sentence(analysis) or _NO_TEST]
    # Lines may share a sentence, so there are not as many as pairs.
    tests = (*analysis.all_verdicts, *analysis.endpoint_verdicts)
    panels = tuple(f"{test.curve.panel}: " for test in tests)
    shown = [figure_on_page(figure, files) for figure in figures]
    # The main figures come first, and only they have tips. There are several if the tasks of a
    # sweep are judged by different metrics.
    main = next((i for i, figure in enumerate(figures) if i and not figure.tips), len(figures))
    return (
        page_template("page.html")
        .render(
            name=results.name,
            question=analysis.layout.title or "",
            facts=_sweep_facts(analysis, page),
            quiet=[note for note in results.notes if is_clean(note)],
            findings=[line for line in findings if line],
            answers=answers,
            pairs=max(1, sum(answer.startswith(panels) for answer in answers)),
            main=[_without_sentences(figure, answers) for figure in shown[:main]],
            figures=shown[main:],
            tables=[table_on_page(table) for table in page.tables],
            more_tables=[table_on_page(table) for table in page.more_tables],
            missing="; ".join(line.replace(": not drawn, because", ":") for line in missing),
        )
        .encode()
    )


_NO_TEST = "No line is tested against another; report.baseline=LINE tests all others against LINE."


def _without_sentences(figure: dict[str, object], answers: Sequence[str]) -> dict[str, object]:
    """Return a figure without the sentences of its caption that the page shows above it."""
    caption = str(figure["caption"])
    for answer in filter(None, answers):
        caption = caption.replace(answer, "")
    return {**figure, "caption": " ".join(caption.split())}


def _sweep_facts(analysis: Analysis, page: Page) -> dict[str, str]:
    """The facts at the top of the page, by name: overrides, model, data, code, day and so on."""
    results = analysis.results
    seeds = {cell.seed for cell in results.cells}
    counts = {"cell": len(results.cells), "seed": len(seeds), "stage": len(analysis.stages)}
    size = ", ".join(f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
    facts = {
        "Overrides": shlex.join(page.words) or " ".join(_swept_overrides(results.cells)),
        **{name: ", ".join(_options(results.cells, key)) for name, key in _GROUPS.items()},
        "Size": size if results.cells else "",
        "Code": ", ".join(results.versions) or "unknown version",
        "Submitted": page.submitted,
    }
    return {name: text for name, text in facts.items() if text}


_GROUPS = {"Model": "model", "Data": "dataset", "Method": "method"}


def _swept_overrides(cells: Sequence[CellResults]) -> list[str]:
    """The experiment and the keys in which the cells differ, if the overrides are unknown."""
    experiments = dict.fromkeys(cell.experiment for cell in cells)
    keys = [f"experiment={name}" for name in experiments if name != "default"]
    swept = [f"{key}={','.join(_options(cells, key))}" for key in differences(cells)]
    seeds = ",".join(dict.fromkeys(cell.seed for cell in cells))
    return [*keys, *swept, *([f"seed={seeds}"] if len(seeds) <= _SEEDS else [])]


def _options(cells: Sequence[CellResults], key: str) -> list[str]:
    values = list(dict.fromkeys(str(v) for c in cells if (v := value_of(c, key)) is not None))
    total = [f"... ({len(values)} in all)"] if len(values) > _OPTIONS else []
    return [*values[:_OPTIONS], *total]


def page_template(name: str) -> Template:
    """Load a template of this folder; it can use the figures' colours as CSS variables."""
    environment = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent))
    environment.globals["colours"] = Markup(colour_rules(dark=False))
    environment.globals["dark_colours"] = Markup(colour_rules(dark=True))
    return environment.get_template(name)


def figure_on_page(
    figure: Figure, files: Mapping[str, bytes], section: str = ""
) -> dict[str, object]:
    """Return a figure as a dict for the templates, from its files by name.

    Figures in different sections of a page may have the same name, so their ids start with
    `section`.
    """
    figure_id = "-".join(filter(None, [section, figure.name]))
    svg, png = files[f"{figure.name}.svg"], files[f"{figure.name}.png"]
    shown = ""
    if len(svg) <= LARGEST:
        shown = Markup(inline_svg(svg, figure_id, heading(figure.name), figure.tips))
    # A PNG starts with a signature of 8 bytes, then its IHDR chunk: length, name, and the width at
    # byte 16. The PNG has 300 pixels per inch, and browsers assume 96.
    width = int.from_bytes(png[16:20], "big")
    links = {
        kind: f"data:{mime};base64,{_base64(files[f'{figure.name}.{kind}'])}"
        for kind, mime in _MIME_TYPES.items()
    }
    return {
        "id": figure_id,
        "name": figure.name,
        "heading": heading(figure.name),
        "caption": figure.caption,
        "svg": shown,
        "tips": bool(shown and figure.tips),
        "png": "" if shown else _base64(png),
        "width": round(width / 300 * 96 * ZOOM),
        "links": links,
    }


def heading(name: str) -> str:
    """Return the heading of a figure for its file name."""
    metric, by, axis = name.partition("_by_")
    words = _HEADINGS.get(metric) or Quantity(metric).words
    return f"{words[:1].upper()}{words[1:]}{f' by {axis}' if by else ''}"


def table_on_page(table: Table) -> dict[str, object]:
    """Return a table of the terminal as a dict for the templates."""
    columns = [[str(text) for text in column.cells] for column in table.columns]
    return {
        "title": str(table.title),
        "heads": [str(column.header) for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
