"""Tests of endpoints: one number per run for a whole line, so that a claim needs one test.

They answer the same questions as the tests at each level, and also work for lines whose levels have
different densities, such as learned masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.endpoint import NAMES, Endpoint, sparsest_up_to
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
"""Endpoints whose value is a sparsity; the values of the others are in the metric's unit."""
PER_RUN = ("peak", "sparsest_not_inferior", "area")
CurveEndpoints = tuple[Curve, Mapping[str, Endpoint]]


@dataclass(frozen=True, kw_only=True)
class EndpointVerdict(LineTest):
    """One line tested against another by an endpoint."""

    endpoint: str

    @property
    def is_better(self) -> bool:
        """Whether the line is better than the other; a higher sparsity is better for any metric."""
        sparser = self.comparison.difference > 0
        return sparser if self.endpoint in SPARSITIES else super().is_better


def endpoint_verdicts(
    ends: Sequence[CurveEndpoints], layout: ReportConfig
) -> list[EndpointVerdict]:
    """The endpoint tests of every tested line against its baseline, and of every named pair.

    Holm's method corrects over the tested lines of one panel and endpoint; each named pair is a
    family of its own.
    """
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
            # Areas are comparable only within a panel: each panel has its own lowest density.
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
    """Compare an endpoint of two lines over their seeds, with one value per run."""
    values = [endpoints[name].values for _, endpoints in (mine, theirs)]
    mean = fmean(values[1].values()) if values[1] else math.nan
    margin = equivalence_margin(theirs[0], layout, mean)
    sparsity = name in SPARSITIES  # the margin is in the metric's unit, so none applies
    if sparsity and mine[0].points and theirs[0].points:
        # The line that was pruned further would have an advantage, so both curves are cut at the
        # highest sparsity that both lines reach. It is not enough to cap the values there: a run
        # that is outside the margin at that sparsity may be inside again at a higher one.
        reached = min(1 - curve.points[-1].percent / 100 for curve, _ in (mine, theirs))
        values = [sparsest_up_to(reached, curve, layout) for curve, _ in (mine, theirs)]
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
    """Return a sentence on the best levels for each pair that no test at a level compares."""
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
