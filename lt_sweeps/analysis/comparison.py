"""Pairs: which curves of two readings are compared, and both of them as findings to draw.

What differs besides what is compared is a reason to refuse: a difference would not be known to
come from what the reader thinks of. `by` names several things that are compared as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.labels import asked, belongs, differences, value
from lt_sweeps.analysis.results import CellResults, Results
from lt_sweeps.analysis.significance import Verdict, against, corrected, partner
from lt_sweeps.analysis.sweep_analysis import Analysis

Pair = tuple[Curve, Curve]


def paired(
    mine: Sequence[Curve], theirs: Sequence[Curve], by: Sequence[str]
) -> tuple[list[str], list[Pair]]:
    """What is compared, and the curves that differ in nothing else.

    Raises: ValueError: they differ in more than one thing that `by` does not name, or share no
        curve.
    """
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


@dataclass(frozen=True)
class SweepComparison(Analysis):
    """What two findings share, as one to draw: each curve that has a partner, and the partner."""

    one: Analysis
    other: Analysis
    by: tuple[str, ...]

    @staticmethod
    def of(one: Analysis, other: Analysis, by: Sequence[str]) -> SweepComparison:
        reading = Results(
            name=f"{one.reading.name} minus {other.reading.name}",
            cells=(*one.reading.cells, *other.reading.cells),
            notes=(*one.reading.notes, *other.reading.notes),
            root=one.reading.root,
        )
        apart, pairs = paired(one.curves, other.curves, by)
        what = _compared(pairs[0], apart) or "the configs are equal"
        how = replace(
            one.layout,
            title=one.layout.title or f"{reading.name} ({what})",
            figures=one.layout.figures or ["curves", "endpoints"],
            # What names lines of one side has no meaning where both are drawn.
            labels={},
            baseline=None,
            tested=None,
            control=None,
            highlight=None,
        )
        return SweepComparison(reading, how, one, other, tuple(by))

    @cached_property
    def paired(self) -> tuple[list[str], list[Pair]]:
        """What is compared, and the curves as each side calls them."""
        return paired(self.one.curves, self.other.curves, self.by)

    @cached_property
    def tests(self) -> list[Verdict]:
        """Every curve of one against its partner, as each side calls them."""
        alpha = self.one.layout.alpha
        found = [v for a, b in self.paired[1] for v in against(a, b, alpha=alpha)]
        return corrected(found, self.one.layout.family)

    def curves_of(self, metric: str) -> list[Curve]:
        apart, pairs = paired(self.one.curves_of(metric), self.other.curves_of(metric), self.by)
        return [curve for pair in pairs for curve in self._named(pair, apart)]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The same tests, of the curves as they are drawn."""
        found = []
        for each in self.tests:
            curve, baseline = self._named((each.curve, each.baseline), self.paired[0])
            found.append(replace(each, curve=curve, baseline=baseline))
        return found

    def _named(self, pair: Pair, apart: Sequence[str]) -> Pair:
        """The two under names that tell them apart, in one panel."""
        panel = " against ".join(dict.fromkeys(curve.panel for curve in pair))
        labels = self.one.layout.labels
        names = []
        for curve, face, side in zip(
            pair, _faces(pair, schedules=True), (self.one, self.other), strict=True
        ):
            what = asked([face], (), apart)[0] or side.reading.name
            names.append(", ".join(dict.fromkeys([curve.label, labels.get(what, what)])))
        if names[0] == names[1]:
            names = [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]
        a, b = (
            replace(curve, name=name, label=name, panel=panel)
            for curve, name in zip(pair, names, strict=True)
        )
        return a, b


def _compared(pair: Pair, apart: Sequence[str]) -> str:
    """What is compared with what: `recipe.lr: 0.1 against 0.3`."""
    a, b = _faces(pair, schedules=True)
    return "; ".join(f"{key}: {value(a, key)} against {value(b, key)}" for key in apart)


def _faces(curves: Sequence[Curve], *, schedules: bool) -> list[CellResults]:
    """What tells curves apart, with or without the settings of their schedules."""
    faces = []
    for curve in curves:
        own = curve.cells[0].settings if schedules else {}
        schedule = {key: each for key, each in own.items() if belongs(key, ["schedule"])}
        faces.append(CellResults("", "", curve.choices, {**curve.settings, **schedule}))
    return faces


def _same_way(one: Curve, other: Curve) -> bool:
    """Whether the levels that both have are the same densities."""
    shared = {p.level for p in one.points} & {p.level for p in other.points}
    return all(any(partner(p, other) for p in one.points if p.level == level) for level in shared)
