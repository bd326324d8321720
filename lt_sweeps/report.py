"""Report a sweep or a root: tables in the terminal, a page, figures, and every number as CSV.

It reads manifest.json, config.yaml, records.jsonl and, where they are there, tickets, and nothing
of the framework: it runs where torch is not installed, while the sweep is still running, and on
files copied from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lt_sweeps.figures import figures
from lt_sweeps.figures.paper import csv, rendered
from lt_sweeps.findings import Findings, findings
from lt_sweeps.layout import layout
from lt_sweeps.reading import Reading, layouts, read
from lt_sweeps.table import heading, records, summary, tables


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
    given = list(layouts(where).values()) or [{}]
    needed = {m for each in given for m in layout({**each, **asked}).metrics}
    reading = read(where, metrics=needed)
    folder = where / "report" if out is None else Path(out)
    for name, found in findings(reading, asked).items():
        write(found, folder / name.replace("/", "-"), console)
    return folder


def write(found: Findings, folder: Path, console: Console) -> None:
    """Write and print what was found, into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metric = found.metric
    files: dict[str, bytes] = {
        "records.csv": csv(records(found.curves)),
        "summary.csv": csv(summary(found.curves, metric=metric)),
    }
    for figure in figures(found):
        files |= rendered(figure)
    for name, content in files.items():
        _write(folder / name, content)
    _print(found, console)
    console.print(f"{folder}: {', '.join(files)}", markup=False, soft_wrap=True)


def _of_file(path: Path) -> Mapping[str, Any]:
    """The keys under `report:` of a yaml."""
    said = yaml.safe_load(Path(path).read_text())
    if not isinstance(said, dict) or not isinstance(said.get("report"), dict):
        raise ValueError(f"layout: {path} holds no `report:`; an experiment's yaml does")
    return said["report"]


def _print(found: Findings, console: Console) -> None:
    band, reading = found.layout.band, found.reading
    title = heading(reading.name, reading.unfinished, band=band, metric=found.metric)
    for table in tables(
        found.curves, title=title, band=band, metric=found.metric, width=console.width
    ):
        console.print(table)
    _print_rest(console, reading, empty="" if found.curves else title)


def _print_rest(console: Console, reading: Reading, *, empty: str) -> None:
    if empty:
        console.print(f"{empty}\nno records yet", markup=False, soft_wrap=True)
    for note in reading.notes:
        console.print(note, markup=False, soft_wrap=True)


def _write(path: Path, content: bytes) -> None:
    """Write whole: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
