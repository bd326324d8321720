"""Report a sweep or a root: tables in the terminal, a page, figures, and every number as CSV.

It reads manifest.json, config.yaml, records.jsonl and, where they are there, tickets, and nothing
of the framework: it runs where torch is not installed, while the sweep is still running, and on
files copied from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lt_sweeps.analysis.results import layouts, read_results
from lt_sweeps.analysis.significance import caveats
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses
from lt_sweeps.config.report_config import layout
from lt_sweeps.reporting.figures import figures
from lt_sweeps.reporting.provenance import changes, recorded
from lt_sweeps.reporting.report_files import tell, write
from lt_sweeps.reporting.result_tables import heading, tables
from lt_sweeps.reporting.terminal_tables import end_tables, test_tables

PAGE_WIDTH = 10_000  # columns: on the page a table is never split


def report(
    where: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    layout_file: Path | None = None,
    **asked: Any,
) -> Path:
    """Print and write the report of a sweep's folder or of a whole root; returns its folder.

    The folder is `out`, or `report/` inside `where`, with a folder in it for each experiment where
    a sweep holds several. `asked` are keys of the layout, over those of `layout_file` (a yaml with
    `report:`, such as an experiment's) and those of the sweep.

    Raises: ValueError for a wrong argument, and for every file or line that cannot be read.
    """
    where, console = Path(where), Console() if console is None else console
    asked = {**(_of_file(layout_file) if layout_file else {}), **asked}
    folder = where / "report" if out is None else Path(out)
    for name, found in _found(where, asked).items():
        _write_all(found, folder / name.replace("/", "-"), console)
    return folder


def check(where: Path, *, out: Path | None = None, console: Console | None = None) -> bool:
    """Whether every figure of a written report still is what the data say; prints what is not.

    Nothing is written. Each report is drawn again in the layout that it was written in.

    Raises: ValueError: there is no report, or what it stands on cannot be read.
    """
    where, console = Path(where), Console() if console is None else console
    folder = where / "report" if out is None else Path(out)
    faults: list[str] = []
    for name in _found(where, {}):
        here = folder / name.replace("/", "-")
        said = recorded(here)
        drawn, _ = figures(_found(where, said["layout"])[name])
        faults += [f"{here}: {fault}" for fault in changes(here, said, drawn)]
    for line in faults or [f"{folder}: every figure is what the data say"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return not faults


def _found(where: Path, asked: Mapping[str, Any]) -> dict[str, Analysis]:
    given = list(layouts(where).values()) or [{}]
    needed = {m for each in given for m in layout({**each, **asked}).metrics}
    return analyses(read_results(where, metrics=needed), asked)


def _of_file(path: Path) -> Mapping[str, Any]:
    """The keys under `report:` of a yaml."""
    said = yaml.safe_load(Path(path).read_text())
    if not isinstance(said, dict) or not isinstance(said.get("report"), dict):
        raise ValueError(f"layout: {path} holds no `report:`; an experiment's yaml does")
    return said["report"]


def _write_all(found: Analysis, folder: Path, console: Console) -> None:
    """Write and print what was found, into one folder."""
    drawn, missing = figures(found)
    shown = _tables(found, PAGE_WIDTH)
    files = write(found, folder, figures=drawn, missing=missing, tables=shown)
    _print(found, missing, console)
    tell(console, folder, drawn, files)


def _tables(found: Analysis, width: int) -> Iterator[Table]:
    band, reading = found.layout.band, found.reading
    title = heading(reading.name, reading.unfinished, band=band, metric=found.metric)
    yield from tables(found.curves, title=title, band=band, metric=found.metric, width=width)
    if found.curves:
        yield from end_tables(found)
        yield from test_tables(found)


def _print(found: Analysis, missing: Sequence[str], console: Console) -> None:
    reading = found.reading
    for table in _tables(found, console.width):
        console.print(table)
    title = heading(reading.name, reading.unfinished, band=found.layout.band, metric=found.metric)
    says = [] if found.curves else [title, "no records yet"]
    several = reading.versions if len(reading.versions) > 1 else ()
    says += [f"made by {len(several)} versions of the code: {', '.join(several)}"] * bool(several)
    says += [*caveats(found.verdicts, found.layout), *(missing if found.curves else [])]
    for line in (*says, *reading.notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
