"""Alarms: facts in the records and masks that a reader of a report would not expect.

A number can be correct although its line does not show what its name says: a control that equals
its treatment, a mask that missed its target, a training that diverged for every seed. The report
warns about these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from operator import attrgetter
from typing import Any

import numpy as np

from lt_sweeps.analysis.curve import Curve, by_panel, distinct
from lt_sweeps.analysis.labels import is_within
from lt_sweeps.analysis.line_names import absent_lines
from lt_sweeps.analysis.stored_weights import Arrays, masks
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.spelling import listed
from lt_sweeps.storage.record import ALL_DIVERGED, MEASURED, Record, all_diverged

GROUP = "mask_criterion"


def raised_alarms(analysis: Analysis) -> list[str]:
    """Return a sentence for each fact that contradicts what a line's name promises."""
    curves = analysis.curves
    everywhere = all_diverged(cell.rows for cell in analysis.results.cells)
    return [
        *([f"{ALL_DIVERGED}."] if everywhere else _diverged_lines(curves)),
        *_absent_lines(analysis),
        *_unmeasured(analysis),
        *_unlearned(curves),
        *_missed_targets(curves),
        *_several_dense(curves),
        *_equal_arms(analysis),
    ]


def _diverged_lines(curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        if all_diverged(cell.rows for cell in curve.cells):
            yield f"{curve.panel}: every replicate of {curve.label} diverged."


def _absent_lines(analysis: Analysis) -> Iterator[str]:
    """Name the lines of an experiment that its report compares and a smaller sweep lacks."""
    names = [curve.name for curve in analysis.curves]
    if absent := absent_lines(names, analysis.layout) if names else {}:
        keys = " and ".join(f"report.{key}" for key in absent)
        lines = listed(dict.fromkeys(chain.from_iterable(absent.values())))
        yield f"Comparisons are left out, because no line has the name {lines} ({keys})."


def _unmeasured(analysis: Analysis) -> Iterator[str]:
    for curve in analysis.unmeasured:
        yield (
            f"{curve.panel}: {curve.label} has no {analysis.metric}, which the tables compare; "
            f"its task is judged by {curve.metric.words}. Its rows are only in records.csv."
        )


def _unlearned(curves: Sequence[Curve]) -> Iterator[str]:
    """Report dense networks that learned nothing: any pruned network can match such a network."""
    # The accuracy of always predicting the largest class would be the better limit, but records
    # know neither the classes nor their frequencies.
    lines: dict[tuple[str, frozenset[tuple[str, str]], int], list[str]] = {}
    for curve in curves:
        dense = [r for r in distinct(curve.cells) if not r.level and r.kind == "train" and r.finite]
        failed = frozenset(
            (r.stage, r.seed) for r in dense if r.collapsed or r.reported_step == 0 < r.step
        )
        if failed:
            lines.setdefault((curve.panel, failed, len(dense)), []).append(curve.label)
    for (panel, failed, n_dense), owners in lines.items():
        yield (
            f"{panel}: {len(failed)} of {n_dense} dense networks of {listed(owners)} learned "
            "nothing: they predict one class, or no step lowered the validation loss."
        )


def _missed_targets(curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        missed = [row for row in distinct(curve.cells) if row.misses_target]
        if missed:
            worst = max(missed, key=lambda row: abs(row.sparsity - (row.target_sparsity or 0)))
            yield (
                f"{curve.panel}: {curve.label} misses its target sparsity in {len(missed)} "
                f"networks; at level {worst.level} of seed {worst.seed} it is "
                f"{worst.sparsity:.4f}, and {worst.target_sparsity:.4f} was asked for."
            )


def _several_dense(curves: Sequence[Curve]) -> Iterator[str]:
    """Report lines whose tickets come from several dense networks: a margin needs a single one."""
    for curve in curves:
        dense = curve.dense_networks
        if len(dense) > 1:
            places = ", ".join(dict.fromkeys(" ".join(point.at) for point in dense))
            yield (
                f"{curve.panel}: {curve.label} has {len(dense)} dense networks ({places}), so it "
                "has no endpoint that is measured from dense. Remove the keys that change the "
                "dense network from `report.along`."
            )


def _equal_arms(analysis: Analysis) -> Iterator[str]:
    """Report pairs of lines in one panel that hold the same networks or keep the same weights."""
    for panel, curves in by_panel(analysis.curves).items():
        kept = {curve.name: _first_masks(analysis, curve) for curve in curves}
        measured = {curve.name: _measured_networks(curve) for curve in curves}
        for one, other in combinations(curves, 2):
            alike, compared = _identical(measured[one.name], measured[other.name])
            pair = f"{panel}: {one.label} and {other.label}"
            if alike:
                levels = sorted({row.level for row in alike})
                places = f"level{'s' * (len(levels) > 1)} {', '.join(map(str, levels))}"
                where = "" if len(alike) == compared else f" there, at {places}"
                yield (
                    f"{pair} have equal losses and accuracies in {len(alike)} of {compared} "
                    f"networks: they are one arm under two names{where}."
                )
            elif _criterion(one) != _criterion(other):  # so they should keep different weights
                first, second = kept[one.name], kept[other.name]
                seeds = first.keys() & second.keys()
                if same := sum(_equal(first[seed], second[seed]) for seed in seeds):
                    yield (
                        f"{pair} keep the same weights at their first level ({same} of "
                        f"{len(seeds)} seeds)."
                    )


Networks = Mapping[tuple[int, str, int], tuple[Record, tuple[Any, ...]]]
"""Pruned networks, keyed by level, seed and remaining weights: the record and all its metrics."""


def _measured_networks(curve: Curve) -> Networks:
    return {
        (row.level, row.seed, row.weights_remaining): (row, (_losses(row), row.metrics))
        for row in distinct(curve.cells)
        if row.level and row.finite and not row.collapsed
    }


def _identical(one: Networks, other: Networks) -> tuple[list[Record], int]:
    """The pruned networks of two lines with exactly equal metrics, and the number compared."""
    # Two networks from separate trainings never agree in all of these metrics. Collapsed networks
    # can, because only their last bias still learns; `_measured_networks` leaves them out.
    pairs = [(one[key], other[key]) for key in one.keys() & other.keys()]
    apart = [
        (a, first == second)
        for (a, first), (b, second) in pairs
        if a.stage != b.stage and a.end_test_loss is not None
    ]
    return [row for row, equal in apart if equal], len(apart)


_losses = attrgetter(*(f"{when}_{name}" for when in ("end", "best") for name in MEASURED))


def _first_masks(analysis: Analysis, curve: Curve) -> dict[str, Arrays]:
    """The masks that the criterion chose at a line's first level, by seed, for stored tickets."""
    first = next((point for point in curve.points if point.pruned and point.level), None)
    if first is None or not _criterion(curve):
        return {}
    return masks(analysis.results.root, curve, first)


def _criterion(curve: Curve) -> list[tuple[str, str]]:
    """A line's criterion and its settings; empty if its method accepts no criterion."""
    settings = [(k, repr(v)) for k, v in curve.settings.items() if is_within(k, [GROUP])]
    chosen = curve.choices.get(GROUP)
    return sorted([*settings, *([(GROUP, chosen)] if chosen else [])])


def _equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
