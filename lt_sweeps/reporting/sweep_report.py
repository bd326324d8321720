"""Report a sweep or a root: tables in the terminal, a page, figures, and every number as CSV.

A report only reads files: manifest.json, config.yaml, records.jsonl and, if the store has them,
tickets. So it needs no torch, and it works on copied files and while the sweep is still running.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lt_sweeps.analysis.alarms import raised_alarms
from lt_sweeps.analysis.record_audit import audited_cells
from lt_sweeps.analysis.results import layouts
from lt_sweeps.analysis.sweep_analysis import Analysis, check_typed, read_analyses
from lt_sweeps.config.report_config import BANDS
from lt_sweeps.config.trust import check_trusted
from lt_sweeps.reporting import report_files
from lt_sweeps.reporting.figures import draw_figures
from lt_sweeps.reporting.figures.captions import (
    names_sentence,
    not_inferior_sentence,
    report_moment,
    versions_sentence,
    winning_sentences,
)
from lt_sweeps.reporting.figures.profile_bars import profile_figures
from lt_sweeps.reporting.html_page import Page
from lt_sweeps.reporting.profile_tables import profile_table
from lt_sweeps.reporting.result_tables import accuracy_tables, print_tables
from lt_sweeps.reporting.terminal_tables import endpoint_tables, verdict_tables
from lt_sweeps.reporting.written_report import digest_of_inputs, read_report_json, subfolder
from lt_sweeps.storage.measured_speeds import read_speeds
from lt_sweeps.storage.pack_profile import read_profiles
from lt_sweeps.storage.sweep_folder import SweepFolder


def report(
    source: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    layout_file: Path | None = None,
    trust: Collection[str] | None = (),
    **options: Any,
) -> Path:
    """Print and write the report of a sweep's folder or of a whole root; return its folder.

    The folder is `out`, or `report/` inside `source`. If a sweep has several experiments, each has
    a subfolder. `options` are keys of `report`: they override those of `layout_file` (a yaml with
    `report:`, such as an experiment's), which override those of the sweep. User-defined figures in
    the sweep's own keys must come from the modules in `trust`, or from any module if it is None.

    Raises: ValueError: an option is wrong, the folder has no cell, a figure's module is not
        trusted, or a file or line cannot be read.
    """
    console = console or Console()
    typed, options = options, {**(_options_in(layout_file) if layout_file else {}), **options}
    if "figures" not in options:
        _check_own_figures(layouts(source).values(), source, trust)
    # Taken before the records are read, so that a record written meanwhile marks this report as
    # outdated.
    made_from = digest_of_inputs(source)
    folder = out or source / "report"
    audit, cells = audited_cells(source)
    by_experiment = read_analyses(source, options, cells)
    if not any(analysis.results.cells for analysis in by_experiment.values()):
        raise ValueError(f"report: `{source}` has no cell yet; give a sweep or a root that ran")
    check_typed(by_experiment.values(), typed)
    del cells  # saves memory: they hold every config twice
    profiles = list(read_profiles(source / "logs"))
    profile = profile_table(profiles)
    for name, analysis in by_experiment.items():
        results = replace(analysis.results, notes=(*analysis.results.notes, audit))
        analysis = replace(analysis, results=results)
        curves, band = analysis.curves, analysis.layout.band
        speeds = read_speeds(analysis.results.root)
        main = list(accuracy_tables(curves, title=_title(analysis), band=band, speeds=speeds))
        more = [*endpoint_tables(analysis), *verdict_tables(analysis)] if analysis.curves else []
        page = Page(
            main, [*more, *([profile] if profile else [])], _day_of(source), _overrides(source)
        )
        figures = profile_figures(profiles)
        missing, location = report_files.write_report(
            analysis, folder / subfolder(name), page, more_figures=figures, made_from=made_from
        )
        print_tables(console, [*main, *more])
        _print(analysis, missing, console)
        report_files.print_lines(console, [location])
    if out is None:  # in another folder, the reports beside ours may be those of other sweeps
        places = [folder / subfolder(name) for name in by_experiment]
        report_files.remove_other_reports(
            folder, places, next(iter(by_experiment.values())).results.root
        )
    if profile is not None:
        console.print(profile)
    return folder


def check(
    source: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    trust: Collection[str] | None = (),
) -> bool:
    """Whether a written report still matches the data behind it; prints each difference.

    Nothing is written. Each report is computed again with the options that it was written with.

    Raises: ValueError: the folder has no report, the files behind it cannot be read, or a figure's
        module is not trusted.
    """
    console = console or Console()
    folder = out or source / "report"
    faults, unchecked = list[str](), list[str]()
    profile = profile_figures(list(read_profiles(source / "logs")))
    for name in read_analyses(source, {}):
        place = folder / subfolder(name)
        written = read_report_json(place)
        _check_own_figures([written["layout"]], place, trust)
        # The options of one experiment may name lines that another experiment lacks. So the sweep
        # is analysed once with each experiment's options, and only that experiment is kept.
        analysis = read_analyses(source, written["layout"])[name]
        figures = [*draw_figures(analysis)[0], *profile]
        dropped = report_files.without_tickets(written, figures, analysis.results.root)
        changes = report_files.report_changes(place, written, analysis, figures, dropped)
        faults += [f"{place}: {change}" for change in changes]
        unchecked += [
            f"{place}: {name}: not checked, because its tickets were dropped" for name in dropped
        ]
    agreed = f"{folder}: every {'other ' if unchecked else ''}figure and table matches the data"
    report_files.print_lines(console, [*unchecked, *(faults or [agreed])])
    return not faults


def _check_own_figures(
    reports: Iterable[Mapping[str, Any]], where: Path, trust: Collection[str] | None
) -> None:
    """Raises: ValueError: a stored report names a figure of a module that is not trusted."""
    if trust is not None:
        for keys in reports:
            check_trusted(keys.get("figures"), where=f"report: {where}", trust=trust)


def _options_in(path: Path) -> Mapping[str, Any]:
    """Return the keys under `report:` in a yaml."""
    try:
        with path.open(encoding="utf-8") as file:  # open, so that a yaml error names the file
            content = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(
            f"layout: {path}: {error.strerror}; give a yaml with keys under `report:`, such as an "
            "experiment's"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("report"), dict):
        raise ValueError(
            f"layout: {path} has no keys under `report:`; give a yaml like an experiment's"
        )
    return content["report"]


def _overrides(source: Path) -> Sequence[str]:
    """The overrides with which a sweep was last submitted; empty for a root."""
    manifest = SweepFolder(source).usable_manifest
    return () if manifest is None else manifest.words


def _day_of(source: Path) -> str:
    """The day (UTC) on which a sweep was last submitted; empty for a root."""
    sweep = SweepFolder(source)
    if not sweep.exists:
        return ""
    return datetime.fromtimestamp(sweep.path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d")


def _title(analysis: Analysis) -> str:
    """The title of the tables: sweep, metric, moment of evaluation and kind of band."""
    results, band = analysis.results, BANDS[analysis.layout.band]
    moment = report_moment(analysis.curves, analysis.metric)
    quantity = " ".join(filter(None, [analysis.metric_label, moment]))
    title = f"{results.name}: {quantity}, mean and {band}"
    return f"{title}; {results.unfinished}" if results.unfinished else title


def _print(analysis: Analysis, missing: Sequence[str], console: Console) -> None:
    lines = [
        *([] if analysis.curves else [_title(analysis), "no records yet"]),
        names_sentence(analysis),
        versions_sentence(analysis.results.versions),
        *raised_alarms(analysis),
        *analysis.test_sentences,
        *winning_sentences(analysis),
        not_inferior_sentence(analysis),
        *(missing if analysis.curves else []),  # without records every figure is missing
        *analysis.results.notes,
    ]
    report_files.print_lines(console, filter(None, lines))
