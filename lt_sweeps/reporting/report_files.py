"""The folder of a report: what is written into it, and whether it still is what the data say.

`report.json` beside the figures holds the layout in which they were drawn and, for each figure, its
stages and the checksums of its numbers and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting import csv_tables
from lt_sweeps.reporting.figures import draw_figures
from lt_sweeps.reporting.figures.style import Figure, csv_bytes, figure_files
from lt_sweeps.reporting.html_page import report_page
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    NewerFormat,
    check_format,
    read_file,
    read_json,
    typed,
)

FILE = "report.json"
FORMAT = "lt_sweeps.report/1"


def write_report(
    analysis: Analysis, folder: Path, tables: Iterable[Table]
) -> tuple[list[str], str]:
    """Draw and write everything, each file whole; `tables` are shown on the page.

    Returns why some figures are not drawn, and a line that says what was written where.
    """
    figures, missing = draw_figures(analysis)
    data = {
        "records": csv_tables.records_table(analysis.curves),
        "summary": csv_tables.summary_table(analysis.curves, metric=analysis.metric),
        "tests": csv_tables.verdicts_table(analysis),
        "endpoint_tests": csv_tables.endpoint_tests_table(analysis),
        "endpoints_by_line": csv_tables.endpoints_table(analysis),
    }
    files = {f"{name}.csv": csv_bytes(numbers) for name, numbers in data.items()}
    for figure in figures:
        files |= figure_files(figure)
    files["index.html"] = report_page(analysis, figures, files, tables, missing)
    # Last, because it holds the checksums of all others: a report that was interrupted while it was
    # written has no report.json, or the former one, and `--check` finds the files that differ.
    files[FILE] = json.dumps(_report_json(analysis, figures, files), indent=1).encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    kinds = ", ".join(sorted({name.rpartition(".")[2] for name in files}))
    shown = ", ".join(["index.html", *(f"{figure.name}.png" for figure in figures)])
    return missing, f"{folder}: {shown}, {len(files)} files in all ({kinds})"


def read_report_json(folder: Path) -> dict[str, Any]:
    """What the last report in a folder says of itself.

    Raises: ValueError: no report has been written there.
    """
    path = folder / FILE
    try:
        content = read_json(path, dict[str, Any])
        check_format(path, content.get("format"), FORMAT)
        figures = typed(dict[str, dict[str, Any]], content.get("figures"))
        typed(dict[str, str], content.get("files"))
        typed(dict[str, Any], content.get("layout"))
        if not all({"stages", "numbers"} <= figure.keys() for figure in figures.values()):
            raise ValueError("its figures are not what was written")
    except FileNotFoundError:
        raise ValueError(
            f"check: {path} is missing; `report` without --check writes it with the figures"
        ) from None
    except NewerFormat:
        raise
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"check: {path}: {reason}; `report` rewrites it") from None
    return content


def report_changes(
    folder: Path, written: Mapping[str, Any], figures: Sequence[Figure]
) -> list[str]:
    """A line for each difference between a written report and its figures as drawn today."""
    now = {figure.name: figure for figure in figures}
    changes = []
    for name, before in written["figures"].items():
        if name not in now:
            changes.append(f"{name}: the data no longer allow this figure")
        elif before["numbers"] != _checksum(csv_bytes(now[name].data)):
            changes.append(f"{name}: its numbers have changed{_stages(before, now[name])}")
        # Equal numbers of other stages are a change too: another version of the code, or another
        # recipe, that happens to end with the same accuracies.
        elif before["stages"] != list(now[name].stages):
            changes.append(f"{name}: it rests on other stages{_stages(before, now[name])}")
    changes += [
        f"{name}: new, not in the written report" for name in now if name not in written["figures"]
    ]
    return changes + [
        f"{name}: {fault}"
        for name, checksum in written["files"].items()
        if (fault := _fault(folder / name, checksum))
    ]


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines as they are: no markup in a name, no colours in a number, no hard line ends."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _report_json(
    analysis: Analysis, figures: Sequence[Figure], files: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": analysis.reading.name,
        "unfinished": analysis.reading.unfinished,
        "code_versions": list(analysis.reading.versions),
        "layout": asdict(analysis.layout),
        "figures": {
            figure.name: {
                "caption": figure.caption,
                "stages": list(figure.stages),
                "numbers": _checksum(csv_bytes(figure.data)),
            }
            for figure in figures
        },
        "files": {name: _checksum(content) for name, content in files.items()},
    }


def _stages(before: Mapping[str, Any], now: Figure) -> str:
    new = set(now.stages) - set(before["stages"])
    gone = set(before["stages"]) - set(now.stages)
    return f" ({len(new)} stages new, {len(gone)} gone)" if new or gone else ""


def _fault(path: Path, checksum: str) -> str:
    """What is wrong with a written file; nothing if it is as it was written."""
    with suppress(DamagedFile):
        try:
            unchanged = _checksum(read_file(path)) == checksum
        except FileNotFoundError:
            return "the file is gone"
        if unchanged:
            return ""
    return "the file was changed after it was written"


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
