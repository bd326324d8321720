"""The CSV files of a report: records, summary, tests and endpoints, in the units of the records."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from operator import attrgetter
from typing import Any

import pandas as pd

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.endpoint_tests import PER_RUN, SPARSITIES, EndpointVerdict
from lt_sweeps.analysis.significance import LineTest, Verdict, winning
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.storage.record import COLUMNS, OPTIONS, Record

YES_NO = {True: "yes", False: "no", None: ""}
ENDPOINTS = ("panel", "line", "endpoint", "n", "n_asked", "mean")


def records_table(curves: Sequence[Curve]) -> pd.DataFrame:
    """Every row of every cell, with its curve; `repeats` marks a ticket that an earlier row has."""
    columns = _record_columns(curves)
    # Tuples: as a mapping for each row they would take more memory than all the records.
    rows = list(_record_rows(curves, columns))
    return pd.DataFrame(rows, columns=columns if rows else ["curve", *columns[len(_DERIVED) :]])


def records_csv(curves: Sequence[Curve]) -> bytes:
    """The same as a CSV file, row by row: a frame of 65,000 rows takes more memory than they do."""
    columns, file = _record_columns(curves), io.BytesIO()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    rows = _record_rows(curves, columns)
    first = next(rows, None)
    writer.writerow(columns if first else ["curve", *columns[len(_DERIVED) :]])
    writer.writerows(rows if first is None else chain([first], rows))
    text.flush()
    return file.getvalue()


_DERIVED = ("curve", "panel", "repeats", "percent_remaining", "compression")


def _record_columns(curves: Sequence[Curve]) -> list[str]:
    columns = (name for name in COLUMNS if name != "metrics")
    return [*_DERIVED, *columns, *_own_metrics(curves)]


def _record_rows(curves: Sequence[Curve], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    facts = [name for name in columns[len(_DERIVED) :] if name in COLUMNS]
    own = columns[len(_DERIVED) + len(facts) :]
    values, nested = attrgetter(*facts), (dict, list)
    options = {group: facts.index(column) for group, column in OPTIONS.items()}
    for curve in curves:
        seen: set[tuple[str, str]] = set()
        owned = ((cell.choices, row) for cell in curve.cells for row in cell.rows)
        for choices, row in owned:
            ticket = row.stage, row.seed
            place = curve.label, curve.panel, ticket in seen
            derived = *place, row.percent_remaining, _compression(row)
            seen.add(ticket)
            metrics = map((row.metrics or {}).get, own)
            # What is nested becomes JSON. Of 4 million values few are, so no function is called.
            texts = [json.dumps(v) if type(v) in nested else v for v in values(row)]
            # The options as this sweep calls them, which draw the lines: two sweeps share a cell
            # whose options have other names and the same content, and one of them wrote the row.
            for group, at in options.items():
                texts[at] = choices.get(group, texts[at])
            yield *derived, *texts, *metrics


def _own_metrics(curves: Sequence[Curve]) -> list[str]:
    """The metrics of the tasks, beside those that every record has a column of."""
    rows = (row for curve in curves for cell in curve.cells for row in cell.rows)
    return list(dict.fromkeys(chain.from_iterable(row.metrics or () for row in rows)))


def summary_table(curves: Sequence[Curve]) -> pd.DataFrame:
    """The statistics of each curve at each level, in the units of the records."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        facts = {"curve": curve.label, "panel": curve.panel} | Record.option_columns(curve.choices)
        for point in curve.points:
            numbers = asdict(point)
            for name in ("stages", "values", "scored"):
                del numbers[name]
            numbers["at"] = " ".join(point.at)
            left = numbers.pop("percent")
            place = {
                "sparsity": 1 - left / 100,
                "sparsity_total": numbers.pop("sparsity_total"),
                "percent_remaining": left,
                "dense_resources": YES_NO[numbers.pop("dense_resources")],
                "metric": curve.metric.name,
            }
            rows.append(facts | place | {"n_seeds": len(curve.seeds)} | numbers)
    return pd.DataFrame(
        rows, columns=None if rows else ["curve", "panel", *Record.option_columns({})]
    )


def verdicts_table(analysis: Analysis) -> pd.DataFrame:
    """One row per test of a level, with everything that is needed to judge it."""
    wins = _wins(analysis)
    columns: dict[str, Callable[[Verdict], Any]] = {
        "level": lambda v: v.point.level,
        "percent_remaining": lambda v: v.point.percent,
        **_test_columns(analysis.layout.alpha),
        "winning": lambda v: wins.get((v.curve.panel, v.curve.name, v.point.stages)),
    }
    return _by_column(analysis.all_verdicts, columns)


def endpoint_tests_table(analysis: Analysis) -> pd.DataFrame:
    """One row per test of an endpoint, of the same questions."""
    columns: dict[str, Callable[[EndpointVerdict], Any]] = {
        "endpoint": lambda v: v.endpoint,
        **_test_columns(analysis.layout.alpha),
    }
    return _by_column(analysis.endpoint_verdicts, columns)


def _test_columns(alpha: float) -> dict[str, Callable[[LineTest], Any]]:
    return {
        **_of_comparison("test"),
        "n": lambda v: v.comparison.n[0],
        "n_baseline": lambda v: v.comparison.n[1],
        "n_asked": lambda v: v.comparison.asked[0],
        **_of_comparison("difference", "ci_low", "ci_high", "p"),
        "p_holm": lambda v: v.p_holm,
        **_of_comparison("p_student", "p_exact"),
        "p_exact_holm": lambda v: v.p_exact_holm,
        "p_exact_least": lambda v: v.comparison.p_least,
        **_of_comparison("exact", "sd", "seeds_needed", "margin", "p_equivalent"),
        "p_equivalent_holm": lambda v: v.p_equivalent_holm,
        "family": lambda v: v.family,
        "shows": lambda v: " and ".join(v.words(alpha)),
        "mark": lambda v: v.mark(alpha),
    }


def _of_comparison(*names: str) -> dict[str, Callable[[LineTest], Any]]:
    """Columns that a comparison has under the same names."""
    return {name: attrgetter(f"comparison.{name}") for name in names}


def _by_column(tests: Sequence[Any], columns: Mapping[str, Callable[[Any], Any]]) -> pd.DataFrame:
    # Column by column, so that a report without tests has the same columns as one with some.
    lines: dict[str, Callable[[LineTest], Any]] = {
        "panel": lambda v: v.curve.panel,
        "line": lambda v: v.curve.label,
        "baseline": lambda v: v.against,
    }
    return pd.DataFrame(
        {name: list(map(value, tests)) for name, value in {**lines, **columns}.items()}
    )


def endpoints_table(analysis: Analysis) -> pd.DataFrame:
    """Every endpoint of every line, with its difference to the baseline's where there is one."""
    rows = [
        {"panel": curve.panel, "line": curve.label, **_endpoint(curve, endpoint)}
        for curve, endpoints in analysis.endpoints
        for endpoint in endpoints.values()
    ]
    data = pd.DataFrame(rows, columns=None if rows else list(ENDPOINTS))
    tests, on = endpoint_tests_table(analysis), ["panel", "line", "endpoint"]
    interval = {"ci_low": "difference_low", "ci_high": "difference_high"}
    shown = [*on, "test", "difference", *interval, "p", "p_exact", "p_exact_least", "p_holm"]
    differences = tests.loc[tests["family"] == "panel", shown]
    if differences.empty:
        return data
    return data.merge(differences.rename(columns=interval), how="left", on=on)


def _endpoint(curve: Curve, endpoint: Endpoint) -> dict[str, Any]:
    values, ticket = list(endpoint.values.values()), endpoint.ticket
    crossing = endpoint.crossing
    per_run = endpoint.name in PER_RUN
    numbers = asdict(spread(values)) if values else {}
    # The values of a picked ticket are the metric of its runs, and its own number is a sparsity,
    # which all its runs share: it has no spread.
    if endpoint.name in SPARSITIES and not per_run:
        numbers = {"mean": endpoint.sparsity}
    return {
        "endpoint": endpoint.name,
        "n": len(values) if per_run or ticket else None,
        "n_asked": len(curve.seeds),
        **numbers,
        "sparsity": endpoint.sparsity,
        "level": ticket.level if ticket else None,
        "at": " ".join(ticket.at) if ticket else "",
        "value": ticket.mean if ticket else None,
        "inside": crossing.inside if crossing else None,
        "outside": crossing.outside if crossing else None,
        "at_least": YES_NO[endpoint.at_least if endpoint.values and crossing else None],
        "search_epochs": endpoint.cost.chain,
        "sequential_epochs": endpoint.cost.sequential,
        "parallel_epochs": endpoint.cost.parallel,
        "makespan_epochs": endpoint.cost.makespan,
        "search_hours": endpoint.cost.hours,
    }


def _wins(analysis: Analysis) -> Mapping[tuple[str, str, frozenset[str]], bool]:
    """Which points are winning tickets, where the layout names a control."""
    return {
        (curve.panel, curve.name, stages): won
        for curve in analysis.curves
        for stages, won in winning(curve, analysis.controlled, analysis.layout).items()
        if analysis.controlled
    }


def _compression(row: Record) -> float | None:
    """How many times fewer weights there are; None where none is left."""
    return row.weights_total / row.weights_remaining if row.weights_remaining else None
