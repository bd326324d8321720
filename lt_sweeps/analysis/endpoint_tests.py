"""Tests of endpoints: one number per run for a whole line, so that a claim needs one test.

They answer the same questions as the tests at each level, also for lines whose levels lie at other
densities, such as learned masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import NAMES, Endpoint
from lt_sweeps.analysis.significance import (
    LineTest,
    Verdict,
    against_baseline,
    correct_by_holm,
    equivalence_margin,
    named_pairs,
)
from lt_sweeps.analysis.stats import Comparison, compare_replicates
from lt_sweeps.config.report_config import ReportConfig

SPARSITIES = tuple(name for name in NAMES if name.startswith("sparsest_"))
"""Endpoints whose number is a sparsity; the others are in the unit of the metric."""
PER_RUN = ("peak", "sparsest_not_inferior", "area")
CurveEndpoints = tuple[Curve, Mapping[str, Endpoint]]


@dataclass(frozen=True, kw_only=True)
class EndpointVerdict(LineTest):
    """One line against another in an endpoint."""

    endpoint: str

    @property
    def is_better(self) -> bool:
        """A higher sparsity is better, whatever the metric is."""
        sparser = self.comparison.difference > 0
        return sparser if self.endpoint in SPARSITIES else super().is_better


def endpoint_verdicts(
    ends: Sequence[CurveEndpoints], layout: ReportConfig
) -> list[EndpointVerdict]:
    """Every tested line and every pair; Holm counts the tested lines of a panel and endpoint."""
    verdicts: list[EndpointVerdict] = []
    of_curve = {(curve.panel, curve.name): (curve, endpoints) for curve, endpoints in ends}
    curves = [curve for curve, _ in ends]
    pairs_by_family = {
        "panel": against_baseline(curves, layout),
        "pair": named_pairs(curves, layout),
    }
    for (family, pairs), name in product(pairs_by_family.items(), PER_RUN):
        tests = []
        for one, other in pairs:
            # The areas of two panels go down to densities of their own.
            if name != "area" or one.panel == other.panel:
                mine, theirs = (of_curve[curve.panel, curve.name] for curve in (one, other))
                comparison = compare_endpoint(name, mine, theirs, layout)
                tests.append(
                    EndpointVerdict(curve=one, baseline=other, endpoint=name, comparison=comparison)
                )
        verdicts += correct_by_holm(tests, family)
    return verdicts


def compare_endpoint(
    name: str, mine: CurveEndpoints, theirs: CurveEndpoints, layout: ReportConfig
) -> Comparison:
    """One endpoint per run of two lines, compared over their seeds."""
    values = [endpoints[name].values for _, endpoints in (mine, theirs)]
    mean = fmean(values[1].values()) if values[1] else math.nan
    margin = equivalence_margin(theirs[0], layout, mean)
    sparsity = name in SPARSITIES  # the margin is a difference of the metric
    if sparsity and mine[0].points and theirs[0].points:
        # A line that was pruned further could only win: both count as far as both were pruned.
        reached = min(1 - curve.points[-1].percent / 100 for curve, _ in (mine, theirs))
        values = [{seed: min(v, reached) for seed, v in own.items()} for own in values]
    return compare_replicates(
        *values,
        seeds=mine[0].seeds,
        other_seeds=theirs[0].seeds,
        alpha=layout.alpha,
        margin=math.nan if sparsity else margin,
        same_draws=mine[0].imported == theirs[0].imported,
    )


def peak_conclusions(
    ends: Sequence[EndpointVerdict], levels: Sequence[Verdict], layout: ReportConfig
) -> list[str]:
    """A sentence for each question that no test at a level answers: the best levels compared."""
    answered = {v.question for v in levels}
    return [
        f"{v.curve.panel}: {v.curve.label} against {v.against}: {NAMES['peak']} "
        f"{v.curve.metric.difference_text(v.comparison.difference, signed=True)}, "
        f"{' and '.join(v.words(layout.alpha))}."
        for v in ends
        if v.endpoint == "peak"
        and not math.isnan(v.comparison.difference)
        and v.question not in answered
    ]
