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
    """Every record of every cell, with its curve.

    `repeats` is True if an earlier row of the same curve is about the same ticket.
    """
    columns = _record_columns(curves)
    # Rows are tuples, because a dict per row would take more memory than all the records.
    rows = list(_record_rows(curves, columns))
    return pd.DataFrame(rows, columns=columns if rows else ["curve", *columns[len(_DERIVED) :]])


def records_csv(curves: Sequence[Curve]) -> bytes:
    """Return `records_table` as a CSV file, written row by row.

    A frame of 65,000 rows would take more memory than the records themselves.
    """
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
    return [*_DERIVED, *columns, *_task_metrics(curves)]


def _record_rows(curves: Sequence[Curve], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    facts = [name for name in columns[len(_DERIVED) :] if name in COLUMNS]
    task_metrics = columns[len(_DERIVED) + len(facts) :]
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
            metrics = map((row.metrics or {}).get, task_metrics)
            # Dicts and lists become JSON. They are few among up to 4 million values, so the type is
            # tested inline: calling a function for each value would be slow.
            texts = [json.dumps(v) if type(v) in nested else v for v in values(row)]
            # Use this sweep's names of the options, as its lines do. Sweeps whose options have
            # equal content under other names share a cell, and only one of them wrote the row.
            for group, at in options.items():
                texts[at] = choices.get(group, texts[at])
            yield *derived, *texts, *metrics


def _task_metrics(curves: Sequence[Curve]) -> list[str]:
    """The metrics that depend on the task, in addition to the columns of every record."""
    rows = (row for curve in curves for cell in curve.cells for row in cell.rows)
    return list(dict.fromkeys(chain.from_iterable(row.metrics or () for row in rows)))


def summary_table(curves: Sequence[Curve]) -> pd.DataFrame:
    """Return the statistics of each curve at each level, in the units of the records."""
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
    """Return one row per test of a level, with all numbers that are needed to judge the test."""
    wins = _wins(analysis)
    columns: dict[str, Callable[[Verdict], Any]] = {
        "level": lambda v: v.point.level,
        "percent_remaining": lambda v: v.point.percent,
        **_test_columns(analysis.layout.alpha),
        "winning": lambda v: wins.get((v.curve.panel, v.curve.name, v.point.stages)),
    }
    return _tests_frame(analysis.all_verdicts, columns)


def endpoint_tests_table(analysis: Analysis) -> pd.DataFrame:
    """Return one row per test of an endpoint, for the same pairs of lines as `verdicts_table`."""
    columns: dict[str, Callable[[EndpointVerdict], Any]] = {
        "endpoint": lambda v: v.endpoint,
        **_test_columns(analysis.layout.alpha),
    }
    return _tests_frame(analysis.endpoint_verdicts, columns)


def _test_columns(alpha: float) -> dict[str, Callable[[LineTest], Any]]:
    return {
        **_comparison_columns("test"),
        "n": lambda v: v.comparison.n[0],
        "n_baseline": lambda v: v.comparison.n[1],
        "n_asked": lambda v: v.comparison.asked[0],
        **_comparison_columns("difference", "ci_low", "ci_high", "p"),
        "p_holm": lambda v: v.p_holm,
        **_comparison_columns("p_student", "p_exact"),
        "p_exact_holm": lambda v: v.p_exact_holm,
        "p_exact_least": lambda v: v.comparison.p_least,
        **_comparison_columns("exact", "sd", "seeds_needed"),
        "seeds_needed_holm": lambda v: v.seeds_needed(alpha),
        **_comparison_columns("margin", "p_equivalent"),
        "p_equivalent_holm": lambda v: v.p_equivalent_holm,
        "family": lambda v: v.family,
        "shows": lambda v: " and ".join(v.words(alpha)),
        "mark": lambda v: v.mark(alpha),
    }


def _comparison_columns(*names: str) -> dict[str, Callable[[LineTest], Any]]:
    """Columns that are attributes of a test's `comparison`, under the same names."""
    return {name: attrgetter(f"comparison.{name}") for name in names}


def _tests_frame(tests: Sequence[Any], columns: Mapping[str, Callable[[Any], Any]]) -> pd.DataFrame:
    # Built column by column, so that a table without tests has the same columns.
    lines: dict[str, Callable[[LineTest], Any]] = {
        "panel": lambda v: v.curve.panel,
        "line": lambda v: v.curve.label,
        "baseline": lambda v: v.against,
    }
    return pd.DataFrame(
        {name: list(map(value, tests)) for name, value in {**lines, **columns}.items()}
    )


def endpoints_table(analysis: Analysis) -> pd.DataFrame:
    """Return every endpoint of every line, with its difference from the baseline if tested."""
    rows = [
        {"panel": curve.panel, "line": curve.label, **_endpoint(curve, endpoint)}
        for curve, endpoints in analysis.endpoints
        for endpoint in endpoints.values()
    ]
    data = pd.DataFrame(rows, columns=None if rows else list(ENDPOINTS))
    tests, on = endpoint_tests_table(analysis), ["panel", "line", "endpoint"]
    interval = {"ci_low": "difference_low", "ci_high": "difference_high"}
    test_columns = [*on, "test", "difference", *interval, "p", "p_exact", "p_exact_least", "p_holm"]
    differences = tests.loc[tests["family"] == "panel", test_columns]
    if differences.empty:
        return data
    return data.merge(differences.rename(columns=interval), how="left", on=on)


def _endpoint(curve: Curve, endpoint: Endpoint) -> dict[str, Any]:
    values, ticket = list(endpoint.values.values()), endpoint.ticket
    crossing = endpoint.crossing
    per_run = endpoint.name in PER_RUN
    numbers = asdict(spread(values)) if values else {}
    # A picked ticket is described by its sparsity, which is one number for all its runs, so it has
    # no spread. Its `values` are the metric of its runs.
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
    """Whether each point is a winning ticket; empty if the layout names no control."""
    return {
        (curve.panel, curve.name, stages): won
        for curve in analysis.curves
        for stages, won in winning(curve, analysis.controlled, analysis.layout).items()
        if analysis.controlled
    }


def _compression(row: Record) -> float | None:
    """The compression ratio, all weights over remaining weights; None if no weight remains."""
    return row.weights_total / row.weights_remaining if row.weights_remaining else None
