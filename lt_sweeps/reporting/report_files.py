"""The folder of a report: write its files, and compare them with the data later.

`report.json`, next to the figures, holds the layout with which they were drawn. For each figure it
holds the stages and a checksum of the numbers, and for each file of the folder a checksum.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting import csv_tables
from lt_sweeps.reporting.figures import FROM_TICKETS, draw_figures
from lt_sweeps.reporting.figures.figure import KINDS, PICTURES, Figure, csv_bytes, figure_files
from lt_sweeps.reporting.html_page import Page, report_page
from lt_sweeps.reporting.written_report import (
    FILE,
    FORMAT,
    checksum,
    digest_of_code,
    file_faults,
    read_report_json,
    subfolder,
)
from lt_sweeps.storage.atomic_write import passes, write_whole
from lt_sweeps.storage.checked_read import read_file
from lt_sweeps.storage.dropped_tickets import read_dropped
from lt_sweeps.storage.locks import locked

_WAIT = 300.0  # seconds; a large report is written in less than one minute


def write_report(
    analysis: Analysis,
    folder: Path,
    page: Page,
    *,
    more_figures: Sequence[Figure] = (),
    made_from: str = "",
) -> tuple[list[str], Text]:
    """Draw and write all files of a report; `page` holds the parts of the page besides figures.

    A picture in the folder that was drawn from the same numbers is kept; files of the last report
    that this report does not have are removed. `made_from` is the digest of the files that were
    read; `is_current` compares it.

    Returns the reasons why figures are not drawn, and a line that names the page to open.
    """
    figures, missing = draw_figures(analysis)
    figures += more_figures
    files = _tables(analysis)
    sources = _sources(analysis, figures)
    with _alone(folder):
        before = _last_report(folder)
        kept = _kept_pictures(folder, before, sources)
        for figure in figures:
            files |= figure_files(figure, kept.get(figure.name, {}))
        files["index.html"] = report_page(analysis, figures, files, page, missing)
        # report.json is written last, because it holds the checksums of all other files. If writing
        # is interrupted, report.json is missing or the old one, and `--check` finds the files that
        # differ.
        about = _report_json(analysis, figures, files, sources)
        files[FILE] = json.dumps({**about, "made_from": made_from}, indent=1).encode()
        old = _removable(folder, before, figures, analysis.results.root)
        write_files(folder, files, stale=[name for name in old if name not in files])
    return missing, _page_to_open(folder, f"figures: {len(figures)}, files in all: {len(files)}")


def remove_other_reports(folder: Path, current: Collection[Path], root: Path) -> None:
    """Remove from a sweep's report the pages of experiments that it no longer has.

    If a sweep gets a second experiment, or their layouts become equal, its reports move between the
    folder and its subfolders; `current` are those that were written now.
    """
    subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    for place in {folder, *subfolders} - set(current):
        written = _last_report(place)
        # A person may have written another report to a subfolder, with `out`.
        ours = place == folder or subfolder(str(written.get("name"))) == place.name
        if ours and (old := _removable(place, written, (), root)):
            write_files(place, {}, stale=[*old, FILE])
            with suppress(OSError):  # other files are left in it
                place.rmdir()


def write_files(folder: Path, files: Mapping[str, bytes], *, stale: Iterable[str] = ()) -> None:
    """Write each file atomically, after removing the stale ones.

    Raises: ValueError: the folder cannot be written to.
    """
    try:
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        if passes(error):
            raise
        raise ValueError(
            f"out: {folder}: {error.strerror}; give out=DIR, a folder that can be written to"
        ) from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes a report to the folder.

    Raises: ValueError: another process has been writing for too long.
    """
    with ExitStack() as stack:
        # Without a lock, writing either works as well, or says what is wrong with the folder.
        with suppress(OSError):
            if not stack.enter_context(locked(folder / ".report.lock", wait=_WAIT)):
                raise ValueError(
                    f"{folder}: another process has been writing a report for {_WAIT:.0f} s; end "
                    "it, or give out=DIR"
                )
        yield


def _last_report(folder: Path) -> Mapping[str, Any]:
    """The report.json of the last report in a folder; without figures and files if it has none."""
    try:
        return read_report_json(folder)
    except (ValueError, OSError):
        return {"figures": {}, "files": {}}


def _removable(
    folder: Path, written: Mapping[str, Any], figures: Sequence[Figure], root: Path
) -> list[str]:
    """The files of a written report that may be removed.

    A figure whose tickets were dropped is kept, because it cannot be drawn again.
    """
    dropped = {*FROM_TICKETS} & {*without_tickets(written, figures, root)}
    kept = {f"{name}.{kind}" for name in dropped for kind in KINDS}
    paths = [folder / name for name in written["files"] if name not in kept]
    return [path.name for path in paths if path.parent == folder and path.is_file()]


def _tables(analysis: Analysis) -> dict[str, bytes]:
    """Return the CSV files that belong to no figure."""
    tables = {
        "summary": csv_tables.summary_table(analysis.curves),
        "tests": csv_tables.verdicts_table(analysis),
        "endpoint_tests": csv_tables.endpoint_tests_table(analysis),
        "endpoints_by_line": csv_tables.endpoints_table(analysis),
    }
    files = {"records.csv": csv_tables.records_csv(analysis.every_curve)}
    return files | {f"{name}.csv": csv_bytes(table) for name, table in tables.items()}


def _page_to_open(folder: Path, about: str) -> Text:
    """A line that names the page to open, as a link in terminals that support links."""
    page, here = folder.absolute() / "index.html", Path.cwd()
    shown = page.relative_to(here) if page.is_relative_to(here) else page
    return Text.assemble("open ", (str(shown), f"link {page.as_uri()}"), f" ({about})")


def report_changes(
    folder: Path,
    written: Mapping[str, Any],
    analysis: Analysis,
    figures: Sequence[Figure],
    unchecked: Collection[str] = (),
) -> list[str]:
    """Return a line for each difference between a written report and the current data."""
    now = {figure.name: figure for figure in figures}
    changes = []
    for name, before in written["figures"].items():
        if name in unchecked:
            continue
        if name not in now:
            changes.append(f"{name}: the data no longer allow this figure")
        elif before["numbers"] != (numbers := checksum(csv_bytes(now[name].data))):
            changes.append(f"{name}: its numbers have changed{_stage_diff(before, now[name])}")
        elif written["files"].get(f"{name}.csv") != numbers:
            changes.append(f"{name}.csv: no longer matches the data")
        # Other stages are a change even if the numbers are equal: another version of the code or
        # another recipe happened to reach the same accuracies.
        elif before["stages"] != list(now[name].stages):
            changes.append(f"{name}: it is based on other stages{_stage_diff(before, now[name])}")
    changes += [
        f"{name}: new, not in the written report" for name in now if name not in written["figures"]
    ]
    changes += [
        f"{name}: no longer matches the data"
        for name, content in _tables(analysis).items()
        if written["files"].get(name) != checksum(content)
    ]
    return [*changes, *file_faults(folder, written["files"])]


def without_tickets(written: Mapping[str, Any], figures: Sequence[Figure], root: Path) -> list[str]:
    """The written figures that can no longer be drawn because `prune-store` dropped tickets."""
    drawn, dropped = {figure.name for figure in figures}, read_dropped(root)
    return [
        name
        for name, before in written["figures"].items()
        if name not in drawn and not dropped.keys().isdisjoint(before["stages"])
    ]


def print_lines(console: Console, lines: Iterable[str | Text]) -> None:
    """Print lines unchanged: without rich's markup, colours or line breaks."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sources(analysis: Analysis, figures: Sequence[Figure]) -> dict[str, str]:
    """Return for each figure a digest of everything that its picture depends on."""
    lines = [
        [c.panel, c.name, c.label, c.seeds, [sorted(point.stages) for point in c.points]]
        for c in analysis.curves
    ]
    code = digest_of_code(), importlib.metadata.version("matplotlib")
    shared = json.dumps([code, asdict(analysis.layout), lines], default=str).encode()
    return {
        figure.name: checksum(b"\0".join([shared, *_texts(figure), csv_bytes(figure.data)]))
        for figure in figures
    }


def _texts(figure: Figure) -> list[bytes]:
    return [text.encode() for text in (figure.name, figure.caption, *figure.stages, figure.code)]


def _kept_pictures(
    folder: Path, written: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, dict[str, bytes]]:
    """The pictures of a written report that need not be drawn again, by figure and file name."""
    kept = {}
    for name, source in sources.items():
        names = [f"{name}.{kind}" for kind in PICTURES]
        checksums = {file: written["files"].get(file, "") for file in names}
        unchanged = written["figures"].get(name, {}).get("drawn_from") == source
        if unchanged and not any(file_faults(folder, checksums)):
            kept[name] = {file: read_file(folder / file) for file in names}
    return kept


def _report_json(
    analysis: Analysis,
    figures: Sequence[Figure],
    files: Mapping[str, bytes],
    sources: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": analysis.results.name,
        "unfinished": analysis.results.unfinished,
        "code_versions": list(analysis.results.versions),
        "layout": asdict(analysis.layout),
        "figures": {
            figure.name: {
                "caption": figure.caption,
                "stages": list(figure.stages),
                "numbers": checksum(csv_bytes(figure.data)),
                "drawn_from": sources[figure.name],
            }
            for figure in figures
        },
        "files": {name: checksum(content) for name, content in files.items()},
    }


def _stage_diff(before: Mapping[str, Any], now: Figure) -> str:
    new = set(now.stages) - set(before["stages"])
    gone = set(before["stages"]) - set(now.stages)
    return f" ({len(new)} stages new, {len(gone)} gone)" if new or gone else ""
