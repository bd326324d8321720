"""The tests and the endpoints as the terminal and the page show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.endpoint_tests import PER_RUN, SPARSITIES
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.durations import readable
from lt_sweeps.config.quantities import Quantity
from lt_sweeps.reporting.figures.captions import chosen_text
from lt_sweeps.reporting.result_tables import new_table, percent_text

_TICKETS = {
    "sparsest_matching": "matching",
    "sparsest_within_error": "within 1 SE",
    "best_performing": "best",
}


def endpoint_tables(analysis: Analysis) -> Iterator[Table]:
    """Two tables per panel: the endpoints per run, and the picked tickets with their cost."""
    for panel, pairs in group_by(analysis.endpoints, lambda pair: pair[0].panel).items():
        metric = pairs[0][0].metric
        chosen, margin = chosen_text(analysis.layout, metric.name), analysis.layout.margin
        runs = new_table(
            f"{panel}: highest sparsity (%) within {metric.margin_text(margin)} of dense by "
            f"{metric.words}, and {metric.label}; best level chosen {chosen}; mean ± half of its "
            "95% interval",
            (
                "",
                "sparsity\nper run",
                "sparsity\nof means",
                "sparsity\ntested",
                f"{metric.kind_words} over\nlog density",
                f"{metric.kind_words} at\nbest level",
            ),
        )
        tickets = new_table(
            f"{panel}: sparsest tickets that match dense, or to one standard error, and best; "
            f"sparsity (%) and {metric.label}; chosen {chosen}",
            ("", "", "sparsity", metric.kind_words, "search epochs\n(time)"),
            named_by=2,
        )
        for curve, endpoints in pairs:
            named = {endpoint.name: endpoint for endpoint in endpoints}
            texts = {name: _mean(named[name], curve) for name in PER_RUN}
            runs.add_row(
                Text(curve.label),
                texts["sparsest_not_inferior"],
                _crossing(named["sparsest_not_inferior"]),
                _percent(named["sparsest_tested"].sparsity),
                texts["area"],
                texts["peak"],
            )
            # Without a dense network nothing can match it; the best ticket needs none.
            kinds = [kind for kind in _TICKETS if curve.dense or kind == "best_performing"]
            for kind in kinds:
                label = curve.label if kind == kinds[0] else ""
                cells = _ticket(named[kind], metric, analysis.layout.workers)
                tickets.add_row(Text(label), _TICKETS[kind], *cells)
            tickets.add_section()
        yield runs
        yield tickets


def verdict_tables(analysis: Analysis) -> Iterator[Table]:
    """The tests for the terminal, one table per tested line and the line it is tested against."""
    for members in group_by(analysis.all_verdicts, lambda v: v.question).values():
        yield line_verdicts_table(members, analysis)


def line_verdicts_table(members: Sequence[Verdict], analysis: Analysis) -> Table:
    """One line against its baseline, a row per level."""
    curve = members[0].curve
    scale, form = curve.metric.scale, f"+.{curve.metric.digits}f"
    table = new_table(
        f"{curve.panel}: {curve.label} minus {members[0].against}",
        ("% left", "difference", "", "p", "Holm", "Student", "exact", "equivalent", "shows", "n"),
    )
    for v in members:
        comparison = v.found
        low, high = scale * comparison.ci_low, scale * comparison.ci_high
        interval = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
        table.add_row(
            percent_text(v.point.percent),
            Text(f"{scale * comparison.difference:{form}}{interval}"),
            v.mark(analysis.layout.alpha),
            *(p_text(p) for p in (comparison.p, v.p_holm, comparison.p_student)),
            p_text(comparison.p_exact, digits=4),
            p_text(v.p_equivalent_holm),
            "\n".join(v.words(analysis.layout.alpha)),
            _count(v),
        )
    return table


def p_text(p: float, *, digits: int = 3) -> str:
    """A p-value: 0.034, or <0.001, or - where there is none."""
    least = 10.0**-digits
    return "-" if math.isnan(p) else f"<{least:g}" if p < least else f"{p:.{digits}f}"


def _count(verdict: Verdict) -> str:
    """The seeds of a test: `5`, `5, 4` for line and baseline, `4 of 5` where some are missing."""
    n, asked = verdict.found.n, verdict.found.asked
    text = str(n[0]) if n[0] == n[1] else f"{n[0]}, {n[1]}"
    return text if n == asked else f"{text} of {asked[0]}"


def _mean(endpoint: Endpoint, curve: Curve) -> str:
    """Mean over runs with half of its interval, and how many runs where some have no number."""
    values = list(endpoint.values.values())
    if not values:
        return "-"
    s, scale, digits = spread(values), curve.metric.scale, curve.metric.digits
    if endpoint.name in SPARSITIES:
        scale, digits = 100, 2
    half = "" if math.isnan(s.ci_high) else f" ± {scale * (s.ci_high - s.mean):.{digits}f}"
    short = len(values) < len(curve.seeds)
    count = f"\n{len(values)} of {len(curve.seeds)} seeds" if short else ""
    return f"{'≥ ' * endpoint.at_least}{scale * s.mean:.{digits}f}{half}{count}"


def _crossing(endpoint: Endpoint) -> str:
    """Where the means leave the margin, and the two points of the grid that this lies between."""
    at = endpoint.crossing
    if at is None:
        return "-"
    if math.isnan(at.outside):
        return f"≥ {_percent(at.sparsity)}"
    return f"{_percent(at.sparsity)}\n({100 * at.inside:.1f} to {100 * at.outside:.1f})"


def _percent(part: float) -> str:
    return "-" if math.isnan(part) else f"{100 * part:.2f}"


def _ticket(endpoint: Endpoint, metric: Quantity, workers: int | None) -> tuple[str, str, str]:
    """A ticket's sparsity (and its place on its line), its metric, and the epochs to find it."""
    if endpoint.ticket is None:
        return "none", "", ""
    place = "".join(f"\n{at}" for at in endpoint.ticket.at)
    cost = endpoint.cost
    epochs = "-" if math.isnan(cost.chain) else f"{cost.chain:.4g}"
    epochs += "" if math.isnan(cost.hours) else f" ({readable(3600 * cost.hours)})"
    # A search along one chain of levels costs what the chain costs. One that tries several settings
    # also has a total, a time on unlimited machines, and one on the machines of `report.workers`.
    totals_differ = (cost.sequential, cost.parallel) != (cost.chain, cost.chain)
    if totals_differ and not math.isnan(cost.chain):
        totals = [f"{cost.sequential:g} in all", f"{cost.parallel:g} in parallel"]
        totals += [] if workers is None else [f"{cost.makespan:g} on {workers}"]
        epochs += f"\n{', '.join(totals)}"
    mean = metric.value_text(endpoint.ticket.mean)
    return f"{_percent(endpoint.sparsity)}{place}", mean, epochs
