"""All figures and tables of a paper on one page, drawn from the sweeps that exist.

A figure or table that has no records yet is marked, with the command that computes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.endpoint_tests import SPARSITIES
from lt_sweeps.analysis.experiment_results import results_of_experiment
from lt_sweeps.analysis.results import Results
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.papers import Paper, Section, TableColumn
from lt_sweeps.config.report_config import layout
from lt_sweeps.reporting.csv_tables import YES_NO, endpoints_table
from lt_sweeps.reporting.figures import draw_figures
from lt_sweeps.reporting.figures.curve_panel import published_for
from lt_sweeps.reporting.figures.figure import Figure, csv_bytes, figure_files
from lt_sweeps.reporting.html_page import figure_on_page, page_template, table_on_page
from lt_sweeps.reporting.report_files import print_lines, write_files
from lt_sweeps.reporting.result_tables import new_table, print_tables
from lt_sweeps.reporting.terminal_tables import endpoint_tables


@dataclass(frozen=True)
class _Drawn:
    """A section's figures and tables from the records that exist, and a list of missing parts."""

    section: Section
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    numbers: pd.DataFrame | None = None  # the numbers in the tables
    missing: Sequence[str] = ()
    says: Sequence[str] = ()  # the conclusions of the tests

    @property
    def id(self) -> str:
        """The name of the section's folder, and its anchor on the page."""
        return re.sub(r"\W+", "-", self.section.name.lower()).strip("-")


def draw_paper(paper: Paper, root: Path, *, out: Path | None = None, quick: bool = False) -> bool:
    """Draw a whole paper from the sweeps under a root; return whether nothing is missing.

    The files are written to `out`, or to `<root>/papers/<name>`. With `quick` the results of the
    `NAME_quick` experiments are shown, which use other nets and data.

    Raises: ValueError: a file under the root cannot be read, or the folder cannot be written to.
    """
    console, folder = Console(), out or root / "papers" / paper.name
    drawn = [_drawn(section, root, quick=quick) for section in paper.sections]
    sections = [_written_section(part, folder / part.id, console) for part in drawn]
    complete = sum(not part.missing for part in drawn)
    facts = f"{complete} of {len(drawn)} figures and tables are complete. Drawn from {root}."
    page = page_template("paper.html").render(title=paper.title, facts=facts, sections=sections)
    write_files(folder, {"index.html": page.encode()})
    print_lines(console, [f"{folder / 'index.html'}: {facts}"])
    return complete == len(drawn)


def _written_section(part: _Drawn, folder: Path, console: Console) -> dict[str, Any]:
    """Write and print a section; return it as a dict for the page's template."""
    files = {n: c for figure in part.figures for n, c in figure_files(figure).items()}
    if part.numbers is not None:
        files["table.csv"] = csv_bytes(part.numbers)
    write_files(folder, files)
    print_tables(console, part.tables)
    shown = [f"{figure.name}.png" for figure in part.figures]
    shown += [] if part.numbers is None else ["table.csv"]
    print_lines(console, [f"{part.section.name}: {', '.join(shown) or 'nothing yet'}"])
    print_lines(console, [f"  {line}" for line in part.missing])
    return {
        "id": part.id,
        "name": part.section.name,
        "shows": part.section.shows,
        "missing": part.missing,
        "says": part.says,
        "figures": [figure_on_page(figure, files, part.id) for figure in part.figures],
        "tables": [table_on_page(table) for table in part.tables],
    }


def _drawn(section: Section, root: Path, *, quick: bool) -> _Drawn:
    nets = {} if quick else section.nets
    results = {
        name: results_of_experiment(
            root, f"{name}_quick" if quick else name, nets=nets, metrics=["test_accuracy"]
        )
        for name in section.needed
    }
    missing = [line for result in results.values() for line in _missing(result, [*nets])]
    if section.table:
        numbers = _numbers(section, results)
        tables = [_table(section, [*nets], numbers)]
        return _Drawn(section, tables=tables, numbers=numbers, missing=missing)
    present = [result for result in results.values() if result.cells]
    if not present:
        return _Drawn(section, missing=missing)
    analysis = _analysis(section, present)
    figures, reasons = draw_figures(analysis)
    # The tests are shown only with a figure of curves, whose lines they compare. Otherwise all
    # sections that show one sweep would repeat them.
    tested = analysis.test_sentences if "curves" in (section.figures or ("curves",)) else ()
    # Picked tickets and the cost of their search are only in tables; no figure shows them.
    tables = [*endpoint_tables(analysis)] if "endpoints" in (section.figures or ()) else []
    return _Drawn(
        section,
        figures,
        tables=tables,
        numbers=endpoints_table(analysis) if tables else None,
        missing=[*missing, *reasons],
        says=tested,
    )


def _missing(results: Results, nets: Sequence[str]) -> Iterator[str]:
    """Yield the command for nets that have no cell, and a line if an experiment is unfinished."""
    nets_present = {cell.choices.get("model") for cell in results.cells}
    nets_missing = [net for net in nets if net not in nets_present]
    if nets_missing or not nets_present:
        words = f" model={','.join(nets_missing)}" if nets_missing else ""
        yield f"missing: python -m lt_sweeps experiment={results.name}{words}"
    if results.unfinished:
        yield f"{results.name}: {results.unfinished}"


def _analysis(section: Section, present: Sequence[Results]) -> Analysis:
    """Analyse a section's cells together, with the layout of the section or of its experiment."""
    cells = tuple(cell for results in present for cell in results.cells)
    notes = tuple(note for results in present for note in results.notes)
    joined = replace(present[0], name=section.name, cells=cells, notes=notes)
    keys = dict(present[0].layouts.get(present[0].name, {}))
    if section.report:
        # The section's keys replace the experiments' keys, which name lines that are called
        # differently in the section's layout.
        own = [results.layouts.get(results.name, {}) for results in present]
        published = [entry for keys in own for entry in keys.get("published", ())]
        known = {key for cell in cells for key in (*cell.choices, *cell.settings)}
        keys = {"published": published, **section.report}
        for name in ("panels", "lines", "along"):
            if name in keys:  # drop keys that only experiments without records have
                keys[name] = [key for key in keys[name] if key in known]
    title = f"{section.name}: {section.shows}"
    return Analysis(joined, layout({**keys, "title": title, "figures": section.figures}))


def _numbers(section: Section, results: Mapping[str, Results]) -> pd.DataFrame:
    """One row per net and column: the best line, its mean over seeds, and the published value."""
    rows = []
    for column in section.table:
        result = results[column.experiment]
        for model in dict.fromkeys(cell.choices.get("model") or "" for cell in result.cells):
            cells = tuple(c for c in result.cells if c.choices.get("model") == model)
            analysis = Analysis(
                replace(result, cells=cells), layout(result.layouts.get(result.name, {}))
            )
            rows += [{"model": model, "column": column.label, **_best(column, analysis)}]
    return pd.DataFrame(rows, columns=["model", "column", *_BEST])


_BEST = ("line", "lines", "n", "n_asked", "mean", "ci_low", "ci_high", "at_least", "published")


def _best(column: TableColumn, analysis: Analysis) -> dict[str, Any]:
    """The numbers of the line that `layout.select` finds best among those that a column allows."""
    allowed = [
        (curve, end)
        for curve, ends in analysis.endpoints
        if all(_matches(curve, key, value) for key, value in column.where.items())
        and (end := _per_run(column, curve, ends)).values
    ]
    if not allowed:
        return {}
    is_sparsity = column.value in SPARSITIES

    chooser = analysis.layout.chooser(analysis.accuracy)
    judged = {
        (curve.panel, curve.name): values
        for curve, ends in analysis.endpoints_of(chooser)
        if (values := _per_run(column, curve, ends).values)
    }

    def worth(pair: tuple[Curve, Endpoint]) -> float:
        curve, shown = pair
        mean = fmean(judged.get((curve.panel, curve.name), shown.values).values())
        return mean if is_sparsity else curve.metric.worth(mean)

    # Imported tickets may have no validation metric; then the shown metric is all there is.
    chosen_from = [pair for pair in allowed if (pair[0].panel, pair[0].name) in judged] or allowed
    curve, end = max(chosen_from, key=worth)
    values = list(end.values.values())
    interval = spread(values)
    return {
        "line": curve.label,
        "lines": len(allowed),
        "n": len(values),
        "n_asked": len(curve.seeds),
        "mean": interval.mean,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "at_least": YES_NO[end.at_least],
        "published": _published(column, [curve for curve, _ in allowed], analysis),
    }


def _matches(curve: Curve, key: str, value: Any) -> bool:
    return (curve.choices[key] if key in curve.choices else curve.settings.get(key)) == value


def _per_run(column: TableColumn, curve: Curve, ends: Mapping[str, Endpoint]) -> Endpoint:
    """The endpoint with the column's value for each run."""
    if column.value == "dense":
        return Endpoint("dense", curve.dense.values if curve.dense else {})
    return ends[column.value]


def _published(column: TableColumn, curves: Sequence[Curve], analysis: Analysis) -> float:
    """The published value of the best of these lines; NaN if it is not known."""
    values = [
        entry.value
        for curve in curves
        for entry in published_for(analysis.layout, [curve], column.value)
        if entry.label == curve.name and entry.value is not None
    ]
    own = column.published.get(curves[0].choices.get("model") or "", math.nan)
    return max(values, default=own)


def _table(section: Section, nets: Sequence[str], numbers: pd.DataFrame) -> Table:
    """Return the table of the numbers in %, with a column per net."""
    models = list(dict.fromkeys([*nets, *numbers["model"]]))
    table = new_table(
        f"{section.name}: {section.shows} (%). Mean over runs ± half of its 95% "
        "interval (≥: some runs never leave the margin). If there are several lines, the best one "
        "is shown, with its name; it is chosen on the validation data. In brackets: published.",
        ["", *models],
    )
    for label in [column.label for column in section.table]:
        texts = []
        for model in models:
            matching = numbers[(numbers["model"] == model) & (numbers["column"] == label)]
            texts.append(_entry(matching.iloc[0]) if len(matching) else "missing")
        table.add_row(Text(label), *map(Text, texts))
    return table


def _entry(row: pd.Series) -> str:
    if not isinstance(row["line"], str):
        return "missing"
    half = 100 * (row["ci_high"] - row["mean"])
    text = f"{'≥ ' if row['at_least'] == 'yes' else ''}{100 * row['mean']:.1f}"
    text += f" ± {half:.1f}" if half == half else ""
    lines = [text, *([row["line"]] if row["lines"] > 1 else [])]
    if row["n"] < row["n_asked"]:
        lines.append(f"{row['n']:.0f} of {row['n_asked']:.0f} seeds")
    if row["published"] == row["published"]:
        lines.append(f"[{100 * row['published']:.1f}]")
    return "\n".join(lines)
