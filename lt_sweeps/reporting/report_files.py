"""Writing: the folder of a report, with its figures, page, tables and what they stand on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.csv_tables import ends, tests
from lt_sweeps.reporting.figures.style import Figure, csv, rendered
from lt_sweeps.reporting.html_page import page
from lt_sweeps.reporting.provenance import FILE, provenance
from lt_sweeps.reporting.result_tables import records, summary
from lt_sweeps.storage.atomic_write import write_whole


def write(
    found: Analysis,
    folder: Path,
    *,
    figures: Sequence[Figure],
    missing: Sequence[str],
    tables: Iterable[Table],
) -> list[str]:
    """Write everything, each file whole; returns the files' names.

    `missing` says why other figures are not drawn.
    """
    data = {
        "records": records(found.curves),
        "summary": summary(found.curves, metric=found.metric),
        "tests": tests(found.verdicts, found),
        "endpoints_by_line": ends(found),
    }
    files = {f"{name}.csv": csv(numbers) for name, numbers in data.items()}
    for figure in figures:
        files |= rendered(figure)
    files["index.html"] = page(found, figures, files, tables, missing)
    files[FILE] = json.dumps(provenance(found, figures, files), indent=1).encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return list(files)


def tell(console: Console, folder: Path, figures: Sequence[Figure], files: Sequence[str]) -> None:
    """Say where it lies."""
    kinds = sorted({name.rpartition(".")[2] for name in files})
    shown = ", ".join(["index.html", *(f"{figure.name}.png" for figure in figures)])
    console.print(
        f"{folder}: {shown}, {len(files)} files in all ({', '.join(kinds)})",
        markup=False,
        soft_wrap=True,
    )
