"""Compare two sweeps, or two cells, that differ in one key: level by level, and by endpoints.

Curves that both sides have are drawn and tested as in a report, with the other side as baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lt_sweeps.analysis.comparison import SweepComparison
from lt_sweeps.analysis.endpoint import NAMES, endpoints, shared_density
from lt_sweeps.analysis.endpoint_tests import PER_RUN, compare_endpoint
from lt_sweeps.analysis.labels import check_keys
from lt_sweeps.analysis.line_names import check_lines
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.significance import Pair, Verdict, same_tickets, shared_levels
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.analysis.verdict_sentences import caveats, conclusions
from lt_sweeps.config.quantities import fixed
from lt_sweeps.config.report_config import ROLES, layout
from lt_sweeps.config.spelling import listed
from lt_sweeps.reporting.figures import FROM_TICKETS
from lt_sweeps.reporting.html_page import Page
from lt_sweeps.reporting.report_files import print_lines, write_report
from lt_sweeps.reporting.result_tables import new_table, print_tables
from lt_sweeps.reporting.terminal_tables import p_text, scale_and_digits, verdict_tables


def compare_sweeps(
    one: Path,
    other: Path,
    *,
    by: Sequence[str] = (),
    out: Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> list[Verdict]:
    """Print and draw `one` minus `other`; each is the folder of a sweep, a root or a cell.

    The files are written to `out`, or to `compare/ONE-OTHER` in the root of `one`. `options` are
    keys of `report`. Returns the tests.

    Raises: ValueError: one side has no records, `by` names a key that neither side has, the sides
        differ in several keys that `by` does not all name, they share no curve, an option labels a
        line that neither has, or gives a line a role (`ROLES`).
    """
    console = console or Console()
    config = layout(options)
    if idle := [f"report.{key}" for key in ROLES if getattr(config, key)]:
        raise ValueError(
            f"compare: {listed(idle)} would have no effect: each line of the first is tested "
            "against the line of the second that matches it"
        )
    metrics = set(config.metrics)
    sides = [Analysis(read_results(path, metrics=metrics), config) for path in (one, other)]
    for side in sides:
        side.results.check_metrics("report.metrics", metrics)
        if not side.curves:
            raise ValueError(f"compare: `{side.results.name}` has no records yet")
    check_keys("compare: by", by, [cell for side in sides for cell in side.results.cells])
    both = SweepComparison.of(sides[0], sides[1], by)
    check_lines(both.line_names, config, options)
    tickets = [name for name in FROM_TICKETS if name in (config.figures or ())]
    # These figures look up the tickets of both sides in the store of `one`.
    if tickets and sides[0].results.root != sides[1].results.root:
        raise ValueError(
            f"compare: report.figures=[{','.join(tickets)}] reads the tickets of both from one "
            f"root, but they lie in {sides[0].results.root} and {sides[1].results.root}"
        )
    names = (both.one.results.name, both.other.results.name)
    folder = out or both.results.root / "compare" / "-".join(names)
    console.print(both.layout.title, markup=False)
    tables = list(_tables(both))
    print_tables(console, tables)
    _, location = write_report(both, folder, Page(tables))
    print_lines(console, [*_remarks(both), location])
    return both.tests


def _tables(both: SweepComparison) -> Iterator[Table]:
    # `verdict_tables` labels the lines with the names of their sweeps: "random minus random" would
    # not say which is which.
    yield from verdict_tables(both)
    for pair in both.paired[1]:
        yield _endpoints(both.one, pair)


def _remarks(both: SweepComparison) -> Iterator[str]:
    """Yield what the tables do not show: caveats, unmatched curves, unfinished or mixed sweeps."""
    pairs = both.paired[1]
    tested = [v.curve for v in both.tests]
    for a, _ in pairs:
        if a not in tested:
            yield f"{a.label}: no level to compare"
    yield from conclusions(both.verdicts, both.layout)
    yield from caveats(both.verdicts, both.layout)
    if n_same := sum(same_tickets(*points) for pair in pairs for points in shared_levels(*pair)):
        levels = "1 level is" if n_same == 1 else f"{n_same} levels are"
        yield f"{levels} not compared: one side has only tickets that the other side has too."
    for side, partnered in zip((both.one, both.other), zip(*pairs, strict=True), strict=True):
        results = side.results
        if unmatched := [curve.label for curve in side.curves if curve not in partnered]:
            yield f"only in {results.name}: {', '.join(unmatched)}"
        if results.unfinished:
            yield f"{results.name}: {results.unfinished}"
        if len(results.versions) > 1:
            yield f"{results.name}: made by versions {', '.join(results.versions)} of the code"
    if both.one.results.versions != both.other.results.versions:
        first, second = (
            ", ".join(side.results.versions) or "unknown" for side in (both.one, both.other)
        )
        yield f"the versions of the code differ: {first} against {second}"


def _endpoints(analysis: Analysis, pair: Pair) -> Table:
    """The table of a line's endpoints per run, `one` minus `other`."""
    config, (a, b) = analysis.layout, pair
    table = new_table(
        f"{a.label}: endpoints per run, sparsities in % and {analysis.metric_label}: difference ± "
        "half of its 95% interval",
        ("", "difference", "p", "exact", "test"),
    )
    # The mean over a longer curve includes sparser networks and is lower. So both curves are used
    # only down to the density that both reach; `compare_endpoint` does the same for sparsities.
    least = shared_density((a, b))
    left, right = ((curve, endpoints(curve, config, least=least)) for curve in (a, b))
    for name in PER_RUN:
        comparison = compare_endpoint(name, left, right, config)
        scale, digits = scale_and_digits(name, a.metric)
        half = scale * (comparison.ci_high - comparison.difference)
        interval = "" if math.isnan(half) else f" ± {half:.{digits}f}"
        difference = f"{fixed(scale * comparison.difference, digits, sign='+')}{interval}"
        table.add_row(
            NAMES[name],
            "-" if math.isnan(comparison.difference) else difference,
            p_text(comparison.p),
            p_text(comparison.p_exact, digits=4),
            comparison.test.removesuffix(" t"),
        )
    return table
