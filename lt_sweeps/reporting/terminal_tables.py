"""The tables of tests and endpoints, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.endpoint_tests import SPARSITIES, CurveEndpoints
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import Verdict
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.durations import readable
from lt_sweeps.config.quantities import Quantity, fixed
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.reporting.figures.captions import chosen_text
from lt_sweeps.reporting.result_tables import new_table, percent_text, wrapped_name

_TICKETS = {
    "sparsest_matching": "matching",
    "sparsest_within_error": "within 1 SE",
    "best_performing": "best",
}
_RUNS_NOTE = (
    "\nSparsity per run: where each run's curve leaves the margin, averaged over runs; quote it, "
    "with margin=2%, next to the response to arXiv:1912.04427. Of means: where the mean curve "
    "leaves the margin. Tested: down to this level, tests show every level to be within the margin."
)
_TICKETS_NOTE = (
    "\nMatching and best are the tickets that arXiv:1912.04427 reports. Search epochs count only "
    "the trainings that lead up to a ticket; its own training comes on top."
)


def endpoint_tables(analysis: Analysis) -> Iterator[Table]:
    """Yield two tables per panel: the endpoints per run, and the picked tickets with their cost.

    The titles of the first two explain the columns.
    """
    panels = group_by(analysis.endpoints, lambda pair: pair[0].panel).items()
    for n, (panel, pairs) in enumerate(panels):
        for table, note in (
            (_runs_table(panel, pairs, analysis.layout), _RUNS_NOTE),
            (_tickets_table(panel, pairs, analysis.layout), _TICKETS_NOTE),
        ):
            if n == 0:
                table.title = Text(f"{table.title}.{note}")
            yield table


def _runs_table(panel: str, pairs: Sequence[CurveEndpoints], layout: ReportConfig) -> Table:
    metric = pairs[0][0].metric
    table = new_table(
        f"{panel}: highest sparsity (%) within {metric.margin_text(layout.margin)} of dense by "
        f"{metric.words}, and {metric.label}; best level chosen "
        f"{chosen_text(layout, metric.name)}; mean ± half of its 95% interval",
        (
            *("", "sparsity\nper run", "sparsity\nof means", "sparsity\ntested"),
            *(f"{metric.kind_words} over\nlog density", f"{metric.kind_words} at\nbest level"),
        ),
    )
    for curve, endpoints in pairs:
        table.add_row(
            Text(wrapped_name(curve.label)),
            _mean(endpoints["sparsest_not_inferior"], curve),
            _crossing(endpoints["sparsest_not_inferior"]),
            _percent(endpoints["sparsest_tested"].sparsity),
            _mean(endpoints["area"], curve),
            _mean(endpoints["peak"], curve),
        )
    return table


def _tickets_table(panel: str, pairs: Sequence[CurveEndpoints], layout: ReportConfig) -> Table:
    metric = pairs[0][0].metric
    table = new_table(
        f"{panel}: the sparsest ticket that matches dense, also within one standard error (SE) of "
        f"it, and the best ticket; sparsity (%) and {metric.label}; chosen "
        f"{chosen_text(layout, metric.name)}",
        ("", "", "sparsity", metric.kind_words, "search epochs\n(time)"),
        named_by=2,
    )
    for curve, endpoints in pairs:
        # Matching needs a dense network; the best ticket does not.
        kinds = [kind for kind in _TICKETS if curve.dense or kind == "best_performing"]
        for kind in kinds:
            label = wrapped_name(curve.label) if kind == kinds[0] else ""
            cells = _ticket(endpoints[kind], curve, layout.workers)
            table.add_row(Text(label), _TICKETS[kind], *cells)
        table.add_section()
    return table


def verdict_tables(analysis: Analysis) -> Iterator[Table]:
    """Yield the tests: one table per pair of tested line and baseline, one row per level."""
    alpha = analysis.layout.alpha
    heads = (
        *("% left", "difference", "", "p", "Holm", "Student", "exact"),
        *("equivalent", "shows", "n"),
    )
    for members in group_by(analysis.all_verdicts, lambda v: v.question).values():
        curve = members[0].curve
        title = f"{curve.panel}: {curve.label} minus {members[0].against}, with 95% intervals"
        table = new_table(title, heads)
        for v in members:
            c = v.comparison
            table.add_row(
                percent_text(v.point.percent),
                Text(_difference(v)),
                v.mark(alpha),
                *(p_text(p, alpha=alpha) for p in (c.p, v.p_holm, c.p_student)),
                p_text(c.p_exact, digits=4, alpha=alpha),
                p_text(v.p_equivalent_holm, alpha=alpha),
                "\n".join(v.words(alpha)),
                _count(v),
            )
        yield table


def _difference(verdict: Verdict) -> str:
    """Format a difference, with its interval if it has one."""
    metric, comparison = verdict.curve.metric, verdict.comparison
    difference, low, high = (
        fixed(metric.scale * value, metric.digits, sign="+")
        for value in (comparison.difference, comparison.ci_low, comparison.ci_high)
    )
    return difference if math.isnan(comparison.ci_low) else f"{difference} [{low}, {high}]"


def p_text(p: float, *, digits: int = 3, alpha: float = 0.05) -> str:
    """Format a p-value: 0.034, or <0.001, or - for NaN.

    It has more digits if it would be rounded to the other side of `alpha`, such as 0.0503.
    """
    if math.isnan(p):
        return "-"
    if p < (smallest := 10.0**-digits):
        return f"<{smallest:g}"
    while (float(text := f"{p:.{digits}f}") <= alpha) != (p <= alpha):
        digits += 1
    return text


def _count(verdict: Verdict) -> str:
    """The seeds of a test: `5`; `3, 5` for line and baseline; `4 of 5` if some are missing."""
    sides = zip(verdict.comparison.n, verdict.comparison.asked, strict=True)
    texts = (str(n) if n == asked else f"{n} of {asked}" for n, asked in sides)
    return ", ".join(dict.fromkeys(texts))


def _mean(endpoint: Endpoint, curve: Curve) -> str:
    """Format the mean over runs and half of its interval; add the run count if runs are missing."""
    values = list(endpoint.values.values())
    if not values:
        return "-"
    s, (scale, digits) = spread(values), scale_and_digits(endpoint.name, curve.metric)
    half = "" if math.isnan(s.ci_high) else f" ± {scale * (s.ci_high - s.mean):.{digits}f}"
    if endpoint.name in SPARSITIES and s.ci_high - s.mean > 1:  # two seeds can give ± 170 %
        half = " ± more than 100"
    number = f"{'≥ ' * endpoint.at_least}{fixed(scale * s.mean, digits)}{half}"
    return number + _seeds(endpoint, curve)


def scale_and_digits(endpoint: str, metric: Quantity) -> tuple[float, int]:
    """Return the factor that converts an endpoint to the unit shown, and the number of decimals."""
    return (100.0, 2) if endpoint in SPARSITIES else (metric.scale, metric.digits)


def _crossing(endpoint: Endpoint) -> str:
    """Format the sparsity at which the means leave the margin, and the two levels around it."""
    at = endpoint.crossing
    if at is None:
        return "-"
    if math.isnan(at.outside):
        return f"≥ {_percent(at.sparsity)}"
    return f"{_percent(at.sparsity)}\n({100 * at.inside:.1f} to {100 * at.outside:.1f})"


def _percent(part: float) -> str:
    return "-" if math.isnan(part) else f"{100 * part:.2f}"


def _ticket(endpoint: Endpoint, curve: Curve, workers: int | None) -> tuple[str, str, str]:
    """A ticket's sparsity (with `report.along` values), its metric, and the epochs to find it."""
    if endpoint.ticket is None:
        return "none", "", ""
    along_values = "".join(f"\n{at}" for at in endpoint.ticket.at)
    cost = endpoint.cost
    epochs = "-" if math.isnan(cost.chain) else f"{cost.chain:.4g}"
    epochs += "" if math.isnan(cost.hours) else f" ({readable(3600 * cost.hours)})"
    # A search along one chain of levels costs as much as the chain. A search that tries several
    # settings also has a total, a time with unlimited workers, and a time with `report.workers`.
    totals_differ = (cost.sequential, cost.parallel) != (cost.chain, cost.chain)
    if totals_differ and not math.isnan(cost.chain):
        totals = [f"{cost.sequential:g} in all", f"{cost.parallel:g} in parallel"]
        totals += [] if workers is None else [f"{cost.makespan:g} on {workers}"]
        epochs += f"\n{', '.join(totals)}"
    mean = curve.metric.value_text(endpoint.ticket.mean) + _seeds(endpoint, curve)
    return f"{_percent(endpoint.sparsity)}{along_values}", mean, epochs


def _seeds(endpoint: Endpoint, curve: Curve) -> str:
    """A line such as `3 of 5 seeds` if the mean of an endpoint lacks seeds; otherwise empty."""
    n, asked = len(endpoint.values), len(curve.seeds)
    return f"\n{n} of {asked} seeds" if n < asked else ""
