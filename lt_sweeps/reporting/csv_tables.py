"""The tests and the endpoints as tables: a row each, in the units of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import Endpoint
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.significance import Verdict, winning
from lt_sweeps.analysis.stats import compare_replicates, holm, spread
from lt_sweeps.analysis.sweep_analysis import Analysis

# What a bare number of an endpoint is; the others are in the unit of the metric.
SPARSITIES = (
    *("sparsest_not_inferior", "sparsest_tested"),
    *("sparsest_matching", "sparsest_within_error"),
)
PER_RUN = ("peak", "sparsest_not_inferior", "area")
TESTS = (
    *("panel", "line", "baseline", "level", "percent_remaining", "test", "n", "n_baseline"),
    *("n_asked", "difference", "ci_low", "ci_high", "p", "p_holm", "p_student", "p_exact"),
    *("p_exact_holm", "p_exact_least", "exact", "sd", "seeds_needed", "mark", "winning"),
)
ENDPOINTS = ("panel", "line", "endpoint", "n", "n_asked", "mean")


def tests(verdicts: Sequence[Verdict], found: Analysis) -> pd.DataFrame:
    """Every test, with what is needed to judge it."""
    wins = _wins(found)
    rows = [
        {
            "panel": v.curve.panel,
            "line": v.curve.label,
            "baseline": v.baseline.label,
            "level": v.point.level,
            "percent_remaining": v.point.percent,
            "test": v.found.test,
            "n": v.found.n[0],
            "n_baseline": v.found.n[1],
            "n_asked": v.found.asked[0],
            "difference": v.found.difference,
            "ci_low": v.found.ci_low,
            "ci_high": v.found.ci_high,
            "p": v.found.p,
            "p_holm": v.p_holm,
            "p_student": v.found.p_student,
            "p_exact": v.found.p_exact,
            "p_exact_holm": v.p_exact_holm,
            "p_exact_least": v.found.p_least,
            "exact": v.found.exact,
            "sd": v.found.sd,
            "seeds_needed": v.found.seeds_needed,
            "mark": v.mark(found.layout.alpha),
            "winning": wins.get((v.curve.panel, v.curve.name, v.point.stages)),
        }
        for v in verdicts
    ]
    return pd.DataFrame(rows, columns=list(TESTS))


def ends(found: Analysis) -> pd.DataFrame:
    """Every endpoint of every line, and its difference to the baseline's where there is one."""
    rows = [
        {"panel": curve.panel, "line": curve.label, **_end(curve, each)}
        for curve, endpoints in found.endpoints
        for each in endpoints
    ]
    data = pd.DataFrame(rows, columns=None if rows else list(ENDPOINTS))
    differences = pd.DataFrame(_differences(found))
    if differences.empty:
        return data
    return data.merge(differences, how="left", on=["panel", "line", "endpoint"])


def _end(curve: Curve, each: Endpoint) -> dict[str, Any]:
    values = list(each.values.values())
    per_run = each.name in PER_RUN
    numbers = asdict(spread(values)) if values else {}
    if each.name in SPARSITIES and not per_run:
        numbers = {"mean": each.sparsity}
    return {
        "endpoint": each.name,
        "n": len(values) if per_run or each.ticket else None,
        "n_asked": len(curve.seeds),
        **numbers,
        "sparsity": each.sparsity,
        "level": each.ticket.level if each.ticket else None,
        "at": " ".join(each.ticket.at) if each.ticket else "",
        "value": each.ticket.mean if each.ticket else None,
        "search_epochs": each.cost.chain,
        "sequential_epochs": each.cost.sequential,
        "parallel_epochs": each.cost.parallel,
        "makespan_epochs": each.cost.makespan,
    }


def _differences(found: Analysis) -> list[dict[str, Any]]:
    """Endpoints per run against the baseline's, Holm over the lines of a panel."""
    rows: list[dict[str, Any]] = []
    for pairs in group_by(found.endpoints, lambda pair: pair[0].panel).values():
        base = next((p for p in pairs if p[0].name == found.layout.baseline), None)
        if base is None:
            continue
        for name in PER_RUN:
            family = [_against(curve, each, base, name, found) for curve, each in pairs]
            tested = [row for row in family if row is not None]
            adjusted = holm([row["p"] for row in tested])
            rows += [row | {"p_holm": p} for row, p in zip(tested, adjusted, strict=True)]
    return rows


def _against(
    curve: Curve,
    each: Sequence[Endpoint],
    base: tuple[Curve, Sequence[Endpoint]],
    name: str,
    found: Analysis,
) -> dict[str, Any] | None:
    if curve is base[0]:
        return None
    mine, theirs = (next(e for e in es if e.name == name).values for es in (each, base[1]))
    got = compare_replicates(
        mine, theirs, seeds=curve.seeds, other_seeds=base[0].seeds, alpha=found.layout.alpha
    )
    return {
        "panel": curve.panel,
        "line": curve.label,
        "endpoint": name,
        "test": got.test,
        "difference": got.difference,
        "difference_low": got.ci_low,
        "difference_high": got.ci_high,
        "p": got.p,
        "p_exact": got.p_exact,
        "p_exact_least": got.p_least,
    }


def _wins(found: Analysis) -> Mapping[tuple[str, str, frozenset[str]], bool]:
    """Which points are winning tickets, where the layout names a control."""
    return {
        (curve.panel, curve.name, stages): won
        for curve in found.curves
        for stages, won in winning(curve, found.controlled, found.layout).items()
        if found.controlled
    }
