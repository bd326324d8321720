"""Compare two sweeps, or two cells, that differ in one thing: level by level, and by endpoints.

What both have is drawn and tested as a report is, the other as the baseline of the one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.comparison import Pair, SweepComparison
from lt_sweeps.analysis.endpoint import NAMES, endpoints
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.significance import Verdict, caveats
from lt_sweeps.analysis.stats import compare_replicates
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.report_config import layout
from lt_sweeps.reporting.csv_tables import PER_RUN
from lt_sweeps.reporting.figures import figures
from lt_sweeps.reporting.report_files import tell, write
from lt_sweeps.reporting.result_tables import quantity
from lt_sweeps.reporting.terminal_tables import probability, test_table

_ENDS = "endpoints per run, %: difference ± half of its 95% interval"
_FROM_TICKETS = {"overlap", "plane", "signs", "probabilities"}


def compare(
    one: Path,
    other: Path,
    *,
    by: Sequence[str] = (),
    out: Path | None = None,
    console: Console | None = None,
    **asked: Any,
) -> list[Verdict]:
    """Print and draw `one` minus `other`, each a sweep, a root or a cell's folder.

    The folder is `out`, or `compare/` in the root of `one` and the two names in it.

    Raises: ValueError: they differ in more than one thing that `by` does not name, or share no
        curve.
    """
    console = Console() if console is None else console
    how = layout(asked)
    readings = [read_results(Path(where), metrics=set(how.metrics)) for where in (one, other)]
    mine, theirs = (Analysis(reading, how) for reading in readings)
    for each in (mine, theirs):
        if not each.curves:
            raise ValueError(f"compare: {each.reading.name} has no records yet")
    both = SweepComparison.of(mine, theirs, by)
    if (needed := _FROM_TICKETS & set(how.figures or ())) and mine.reading.root != (
        theirs.reading.root
    ):
        raise ValueError(
            f"compare: report.figures {sorted(needed)} need the tickets of both in one root"
        )
    _print(console, both)
    _write(both, out, console)
    return both.tests


def _write(both: SweepComparison, out: Path | None, console: Console) -> None:
    names = (both.one.reading.name, both.other.reading.name)
    folder = both.reading.root / "compare" / "-".join(names) if out is None else Path(out)
    drawn, missing = figures(both)
    files = write(both, folder, figures=drawn, missing=missing, tables=_tables(both))
    tell(console, folder, drawn, files)


def _tables(both: SweepComparison) -> Iterator[Table]:
    for a, b in both.paired[1]:
        own = [v for v in both.tests if v.curve is a and v.baseline is b]
        if own:
            yield test_table(own, both)
    yield _endpoints(both.one, both.paired[1])


def _print(console: Console, both: SweepComparison) -> None:
    console.print(both.layout.title, markup=False)
    for table in _tables(both):
        console.print(table)
    for line in _says(both):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _says(both: SweepComparison) -> Iterator[str]:
    """What the tables do not: caveats, curves without a partner, what is unfinished or mixed."""
    pairs = both.paired[1]
    tested = [v.curve for v in both.tests]
    for a, _ in pairs:
        if a not in tested:
            yield f"{a.label}: no level to compare"
    yield from caveats(both.tests, both.layout)
    if same := sum(p.stages == q.stages for a, b in pairs for p in a.points for q in b.points):
        levels = "1 level is" if same == 1 else f"{same} levels are"
        yield f"{levels} the same tickets on both sides, and not compared."
    for found, used in ((both.one, [a for a, _ in pairs]), (both.other, [b for _, b in pairs])):
        reading = found.reading
        if alone := [curve.label for curve in found.curves if curve not in used]:
            yield f"only in {reading.name}: {', '.join(alone)}"
        if reading.unfinished:
            yield f"{reading.name}: {reading.unfinished}"
        if len(reading.versions) > 1:
            yield f"{reading.name}: versions {', '.join(reading.versions)}"
    versions = [found.reading.versions for found in (both.one, both.other)]
    if versions[0] != versions[1]:
        each = [", ".join(some) or "unknown" for some in versions]
        yield f"the versions of the code differ: {each[0]} against {each[1]}"


def _endpoints(found: Analysis, pairs: Sequence[Pair]) -> Table:
    """The endpoints per run, `one` minus `other`, down to the density that both reach."""
    table = Table(title=Text(_ENDS), title_justify="left")
    for head in ("", "", "difference", "p", "exact", "test"):
        table.add_column(Text(head), justify="right", no_wrap=head != "")
    _, scale = quantity(found.accuracy)
    for a, b in pairs:
        least = max(c.points[-1].percent for c in (a, b))
        left, right = (
            {
                e.name: e.values
                for e in endpoints(c, metric=found.accuracy, layout=found.layout, least=least)
            }
            for c in (a, b)
        )
        for name in PER_RUN:
            got = compare_replicates(
                left[name],
                right[name],
                seeds=a.seeds,
                other_seeds=b.seeds,
                alpha=found.layout.alpha,
            )
            half = scale * (got.ci_high - got.difference)
            interval = "" if math.isnan(half) else f" ± {half:.2f}"
            seen = f"{scale * got.difference:+.2f}{interval}"
            table.add_row(
                Text(a.label),
                NAMES[name],
                "-" if math.isnan(got.difference) else seen,
                probability(got.p),
                probability(got.p_exact, digits=4),
                got.test.removesuffix(" t"),
            )
    return table
