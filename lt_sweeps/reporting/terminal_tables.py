"""The tests and the endpoints as the terminal and the page show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.csv_tables import PER_RUN
from lt_sweeps.reporting.result_tables import quantity, remaining

_TICKETS = {
    "sparsest_matching": "matching",
    "sparsest_within_error": "within 1 SE",
    "best_performing": "best",
}


def end_tables(found: Analysis) -> Iterator[Table]:
    """The endpoints for the terminal, per panel: those of runs, and the tickets with their cost."""
    _, scale = quantity(found.accuracy)
    for panel, pairs in group_by(found.endpoints, lambda pair: pair[0].panel).items():
        runs = _table(
            f"{panel}: endpoints (%), mean ± half of its 95% interval",
            (
                "",
                "not inferior\nto dense",
                "the same,\nby tests",
                "mean over\nlog density",
                "best level",
            ),
        )
        tickets = _table(
            f"{panel}: sparsest tickets that match dense, or to one standard error, and best (%)",
            ("", "", "sparsity", "accuracy", "epochs"),
        )
        for curve, each in pairs:
            named = {end.name: end for end in each}
            texts = {name: _mean(named[name], curve, scale) for name in PER_RUN}
            runs.add_row(
                Text(curve.label),
                texts["sparsest_not_inferior"],
                _percent(named["sparsest_tested"].sparsity),
                texts["area"],
                texts["peak"],
            )
            kinds = [kind for kind in _TICKETS if curve.dense or kind == "best_performing"]
            for kind in kinds:
                label = curve.label if kind == kinds[0] else ""
                cells = _ticket(named[kind], scale, found.layout.workers)
                tickets.add_row(Text(label), _TICKETS[kind], *cells)
            tickets.add_section()
        yield runs
        yield tickets


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for head in heads:
        table.add_column(Text(head), justify="right" if head else "left")
    return table


def test_tables(found: Analysis) -> Iterator[Table]:
    """The tests for the terminal, one table per tested line."""
    for members in group_by(found.verdicts, lambda v: (v.curve.panel, v.curve.name)).values():
        yield test_table(members, found)


def test_table(members: Sequence[Verdict], found: Analysis) -> Table:
    """One line against its baseline, a row per level."""
    _, scale = quantity(found.metric)
    first = members[0]
    title = f"{first.curve.panel}: {first.curve.label} minus {first.baseline.label}"
    table = Table(title=Text(title), title_justify="left")
    for name in ("% left", "difference", "", "p", "Holm", "Student", "exact", "n"):
        table.add_column(Text(name), justify="right")
    for v in members:
        f = v.found
        low, high = scale * f.ci_low, scale * f.ci_high
        interval = "" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
        table.add_row(
            remaining(v.point.percent),
            Text(f"{scale * f.difference:+.2f}{interval}"),
            v.mark(found.layout.alpha),
            *(probability(p) for p in (f.p, v.p_holm, f.p_student)),
            probability(f.p_exact, digits=4),
            _count(v),
        )
    return table


def probability(p: float, *, digits: int = 3) -> str:
    """A p-value as a reader says it: 0.034, <0.001, - where there is none."""
    least = 10.0**-digits
    return "-" if math.isnan(p) else f"<{least:g}" if p < least else f"{p:.{digits}f}"


def _count(verdict: Verdict) -> str:
    n, asked = verdict.found.n, verdict.found.asked
    text = str(n[0]) if n[0] == n[1] else f"{n[0]}, {n[1]}"
    return text if n == asked else f"{text} of {asked[0]}"


def _mean(each: Endpoint, curve: Curve, scale: float) -> str:
    if not each.values:
        return "-"
    s = spread(list(each.values.values()))
    half = "" if math.isnan(s.ci_high) else f" ± {scale * (s.ci_high - s.mean):.2f}"
    short = len(each.values) < len(curve.seeds)
    count = f"\n{len(each.values)} of {len(curve.seeds)} seeds" if short else ""
    return f"{scale * s.mean:.2f}{half}{count}"


def _percent(part: float) -> str:
    return "-" if math.isnan(part) else f"{100 * part:.2f}"


def _ticket(each: Endpoint, scale: float, workers: int | None) -> tuple[str, str, str]:
    """A ticket's sparsity (and where on its line), accuracy, and the epochs of finding it."""
    if each.ticket is None:
        return "none", "", ""
    where = "".join(f"\n{at}" for at in each.ticket.at)
    cost = each.cost
    epochs = "-" if math.isnan(cost.chain) else f"{cost.chain:g}"
    if (cost.sequential, cost.parallel) != (cost.chain, cost.chain) and epochs != "-":
        of_all = [f"{cost.sequential:g} in all", f"{cost.parallel:g} in parallel"]
        of_all += [] if workers is None else [f"{cost.makespan:g} on {workers}"]
        epochs += f"\n{', '.join(of_all)}"
    return f"{_percent(each.sparsity)}{where}", f"{scale * each.ticket.mean:.2f}", epochs
