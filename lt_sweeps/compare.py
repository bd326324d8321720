"""Compare two sweeps, or two cells, that differ in one thing: level by level, and by endpoints.

What else differs is a reason to refuse: a difference would not be known to come from what the
reader thinks of. `by` names several things that are compared as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lt_sweeps.curves import Curve
from lt_sweeps.endpoints import endpoints
from lt_sweeps.figures.paper import csv
from lt_sweeps.findings import Findings
from lt_sweeps.layout import layout
from lt_sweeps.names import belongs, differences, value
from lt_sweeps.printed import probability, test_table
from lt_sweeps.reading import Cell, Reading, read
from lt_sweeps.statistics import compare as difference
from lt_sweeps.summaries import PER_RUN, tests
from lt_sweeps.table import quantity
from lt_sweeps.verdicts import Verdict, against, caveats, corrected, partner

Pair = tuple[Curve, Curve]
_ENDS = "endpoints per run, %: difference ± half of its 95% interval"


def compare(
    one: Path,
    other: Path,
    *,
    by: Sequence[str] = (),
    out: Path | None = None,
    console: Console | None = None,
    **asked: Any,
) -> list[Verdict]:
    """Print `one` minus `other`, each a sweep, a root or a cell's folder; `out` gets tests.csv.

    Raises: ValueError: they differ in more than one thing that `by` does not name, or share no
        curve.
    """
    console = Console() if console is None else console
    how = layout(asked)
    readings = [read(Path(where), metrics=set(how.metrics)) for where in (one, other)]
    mine, theirs = (Findings(reading, how) for reading in readings)
    for each in (mine, theirs):
        if not each.curves:
            raise ValueError(f"compare: {each.reading.name} has no records yet")
    compared, pairs = _pairs(mine.curves, theirs.curves, by)
    found = [v for a, b in pairs for v in against(a, b, alpha=how.alpha)]
    verdicts = corrected(found, how.family)
    _print(console, mine, theirs, compared, pairs, verdicts)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "tests.csv").write_bytes(csv(tests(verdicts, mine)))
    return verdicts


def _pairs(
    mine: Sequence[Curve], theirs: Sequence[Curve], by: Sequence[str]
) -> tuple[list[str], list[Pair]]:
    """What is compared, and the curves that differ in nothing else."""
    # Schedules that only go further are no difference; those that take another way are.
    schedules = not all(_same_way(a, b) for a in mine for b in theirs if a.panel == b.panel)
    ours, others = (_faces(curves, schedules=schedules) for curves in (mine, theirs))
    axes = {*differences(ours), *differences(others)} - set(by)
    apart = [key for key in differences([*ours, *others]) if key not in axes]
    if len(apart) > 1 and not set(apart) <= set(by):
        raise ValueError(
            f"compare: the two differ in {apart}; one of these may differ, or name all that are "
            f"meant to: by={','.join(apart)}"
        )
    pairs = [
        (a, b)
        for a, face in zip(mine, ours, strict=True)
        for b, other in zip(theirs, others, strict=True)
        if all(repr(value(face, axis)) == repr(value(other, axis)) for axis in axes)
    ]
    if not pairs:
        raise ValueError(
            f"compare: no curve of one matches one of the other in {sorted(axes)}: "
            f"{[c.label for c in mine]} against {[c.label for c in theirs]}"
        )
    return apart, pairs


def _faces(curves: Sequence[Curve], *, schedules: bool) -> list[Cell]:
    """What tells curves apart, with or without the settings of their schedules."""
    faces = []
    for curve in curves:
        own = curve.cells[0].settings if schedules else {}
        schedule = {key: each for key, each in own.items() if belongs(key, ["schedule"])}
        faces.append(Cell("", "", curve.choices, {**curve.settings, **schedule}))
    return faces


def _same_way(one: Curve, other: Curve) -> bool:
    """Whether the levels that both have are the same densities."""
    shared = {p.level for p in one.points} & {p.level for p in other.points}
    return all(any(partner(p, other) for p in one.points if p.level == level) for level in shared)


def _print(
    console: Console,
    mine: Findings,
    theirs: Findings,
    compared: Sequence[str],
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
) -> None:
    console.print(_heading(mine.reading, theirs.reading, compared, pairs), markup=False)
    for a, b in pairs:
        own = [v for v in verdicts if v.curve is a and v.baseline is b]
        console.print(test_table(own, mine) if own else f"{a.label}: no level to compare")
    console.print(_endpoints(mine, pairs))
    lines = caveats(verdicts, mine.layout)
    if same := sum(p.stages == q.stages for a, b in pairs for p in a.points for q in b.points):
        levels = "1 level is" if same == 1 else f"{same} levels are"
        lines.append(f"{levels} the same tickets on both sides, and not compared.")
    for found, used in ((mine, [a for a, _ in pairs]), (theirs, [b for _, b in pairs])):
        alone = [curve.label for curve in found.curves if curve not in used]
        lines += [f"only in {found.reading.name}: {', '.join(alone)}"] if alone else []
        lines += [f"{found.reading.name}: {found.reading.unfinished}"] * bool(
            found.reading.unfinished
        )
        if len(found.reading.versions) > 1:
            lines.append(f"{found.reading.name}: versions {', '.join(found.reading.versions)}")
    if mine.reading.versions != theirs.reading.versions:
        each = [", ".join(f.reading.versions) or "unknown" for f in (mine, theirs)]
        lines.append(f"the versions of the code differ: {each[0]} against {each[1]}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _heading(one: Reading, other: Reading, compared: Sequence[str], pairs: Sequence[Pair]) -> str:
    a, b = (_faces([curve], schedules=True)[0] for curve in pairs[0])
    what = "; ".join(f"{key}: {value(a, key)} against {value(b, key)}" for key in compared)
    return f"{one.name} minus {other.name} ({what or 'the configs are equal'})"


def _endpoints(found: Findings, pairs: Sequence[Pair]) -> Table:
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
            got = difference(
                left[name],
                right[name],
                seeds=a.seeds,
                other_seeds=b.seeds,
                alpha=found.layout.alpha,
            )
            half = scale * (got.ci_high - got.difference)
            table.add_row(
                Text(a.label),
                name,
                "-" if math.isnan(half) else f"{scale * got.difference:+.2f} ± {half:.2f}",
                probability(got.p),
                probability(got.p_exact, digits=4),
                got.test.removesuffix(" t"),
            )
    return table
