"""Comparison of two sweeps: which curves belong together, and both as one `Analysis` to draw.

Two curves are compared if they differ in one key. If they differ in several, the comparison could
not say which key causes the difference, so it is refused unless `by` names all of these keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from lt_sweeps.analysis import significance
from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.labels import differences, is_within, labels_from_keys, readable, value_of
from lt_sweeps.analysis.results import CellResults, Results
from lt_sweeps.analysis.significance import Pair
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.spelling import listed


def matching_curves(
    mine: Sequence[Curve], theirs: Sequence[Curve], by: Sequence[str]
) -> tuple[list[str], list[Pair]]:
    """The keys in which two sweeps differ, and the pairs of curves that differ in nothing else.

    Raises: ValueError: the sweeps are judged by different metrics, or differ in several keys that
        `by` does not all name, or no curve of one matches a curve of the other.
    """
    judged = [{curve.metric for curve in curves} for curves in (mine, theirs)]
    if not judged[0] & judged[1]:
        words = (" and ".join(sorted(m.words for m in metrics)) for metrics in judged)
        raise ValueError(f"compare: one is judged by {next(words)}, the other by {next(words)}")
    # Schedules that differ only in their number of levels count as equal; densities must agree.
    schedules = not all(_same_densities(a, b) for a in mine for b in theirs if a.panel == b.panel)
    ours, others = (_configs(curves, schedules=schedules) for curves in (mine, theirs))
    # Results of other code have few of our keys. A missing key is unknown, not a difference.
    known = _keys(ours) & _keys(others) if _foreign(mine, theirs) else _keys(ours) | _keys(others)
    within = ({*differences(ours), *differences(others)} - set(by)) & known
    between = [k for k in differences([*ours, *others]) if k not in within and k in known]
    if len(between) > 1 and not set(between) <= set(by):
        raise ValueError(
            f"compare: the two differ in {listed(between)}; give sweeps that differ in one key, or "
            f"name all keys that may differ: by={','.join(between)}"
        )
    pairs = [
        (a, b)
        for a, config in zip(mine, ours, strict=True)
        for b, other in zip(theirs, others, strict=True)
        if a.metric == b.metric
        and all(repr(value_of(config, key)) == repr(value_of(other, key)) for key in within)
    ]
    if not pairs:
        raise ValueError(
            f"compare: no curve of one matches one of the other in {listed(sorted(within))}: "
            f"{listed([c.label for c in mine])} against {listed([c.label for c in theirs])}"
        )
    return between, pairs


@dataclass(frozen=True)
class SweepComparison(Analysis):
    """Two sweeps drawn as one: the matching curves of both, in a panel for each pair."""

    one: Analysis
    other: Analysis
    by: tuple[str, ...]

    @staticmethod
    def of(one: Analysis, other: Analysis, by: Sequence[str]) -> SweepComparison:
        both = Results(
            name=f"{one.results.name} minus {other.results.name}",
            cells=(*one.results.cells, *other.results.cells),
            notes=(*one.results.notes, *other.results.notes),
            root=one.results.root,
        )
        between, pairs = matching_curves(one.curves, other.curves, by)
        sides = [_configs(curves, schedules=True) for curves in zip(*pairs, strict=True)]
        what = "; ".join(f"{k}: {' against '.join(_values(s, k) for s in sides)}" for k in between)
        if not what:
            what = f"the configs are equal{', but not the code or data' * _retrained(pairs)}"
        layout = replace(
            one.layout,
            title=one.layout.title or f"{both.name} ({what})",
            figures=one.layout.figures or ["curves", "endpoints"],
            labels={},  # they name the lines of one sweep; `_named` names those of both
        )
        return SweepComparison(both, layout, one, other, tuple(by))

    @cached_property
    def paired(self) -> tuple[list[str], list[Pair]]:
        """The keys that differ, and the pairs of curves as named in their own sweeps."""
        return matching_curves(self.one.curves, self.other.curves, self.by)

    @cached_property
    def tests(self) -> list[significance.Verdict]:
        """The tests of every pair of curves, as named in their own sweeps."""
        layout = self.one.layout
        verdicts = [v for a, b in self.paired[1] for v in significance.compare_curves(a, b, layout)]
        # Against results of other code, each line asks its own question (is it reproduced?), so
        # Holm corrects within each pair.
        foreign = _foreign(self.one.curves, self.other.curves)
        return significance.correct_by_holm(verdicts, "pair" if foreign else layout.family)

    def curves_of(self, metric: str) -> list[Curve]:
        mine, theirs = self.one.curves_of(metric), self.other.curves_of(metric)
        between, pairs = matching_curves(mine, theirs, self.by)
        return [curve for pair in pairs for curve in self._named(pair, between)]

    @cached_property
    def unmeasured(self) -> list[Curve]:
        """The same lines of both sweeps. A line that only one sweep has is not among them."""
        return [*self.one.unmeasured, *self.other.unmeasured]

    @cached_property
    def verdicts(self) -> list[significance.Verdict]:
        """The same tests, with the curves named as they are drawn."""
        named = [self._named((v.curve, v.baseline), self.paired[0]) for v in self.tests]
        pairs = zip(self.tests, named, strict=True)
        return [replace(verdict, curve=a, baseline=b) for verdict, (a, b) in pairs]

    @property
    def line_names(self) -> list[str]:
        """The names that a layout may give: of the lines of both sides, and of what differs."""
        between, pairs = self.paired
        lines = [curve.name for side in (self.one, self.other) for curve in side.curves]
        return [*lines, *(name for pair in pairs for name in self._side_names(pair, between))]

    def _side_names(self, pair: Pair, between: Sequence[str]) -> list[str]:
        """The values that differ between two curves, such as `lr=0.1`, or the sweeps' names."""
        configs = zip(_configs(pair, schedules=True), (self.one, self.other), strict=True)
        return [labels_from_keys([c], [""], between)[0] or s.results.name for c, s in configs]

    def _named(self, pair: Pair, between: Sequence[str]) -> Pair:
        """The two curves in one panel, with names that tell them apart."""
        panel = " against ".join(dict.fromkeys(curve.panel for curve in pair))
        names = []
        for curve, side in zip(pair, self._side_names(pair, between), strict=True):
            label = self.one.layout.labels.get(side) or readable([side])[0]
            names.append(", ".join(dict.fromkeys([curve.label, label])))
        if names[0] == names[1]:
            names = [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]
        a, b = (replace(c, name=n, label=n, panel=panel) for c, n in zip(pair, names, strict=True))
        return a, b


def _retrained(pairs: Sequence[Pair]) -> bool:
    """Whether curves of equal configs were trained by other code, or on other data."""
    levels = (
        points
        for one, other in pairs
        if not (one.imported or other.imported)
        for points in significance.shared_levels(one, other)
    )
    return any(one.stages != other.stages for one, other in levels)


def _configs(curves: Sequence[Curve], *, schedules: bool) -> list[CellResults]:
    """The choices and settings of each curve, with or without the settings of its schedule."""
    configs = []
    for curve in curves:
        settings = curve.cells[0].settings if schedules else {}
        schedule = {key: v for key, v in settings.items() if is_within(key, ["schedule"])}
        configs.append(CellResults("", "", curve.choices, {**curve.settings, **schedule}))
    return configs


def _values(configs: Sequence[CellResults], key: str) -> str:
    return ", ".join(dict.fromkeys(str(value_of(config, key)) for config in configs))


def _foreign(mine: Sequence[Curve], theirs: Sequence[Curve]) -> bool:
    """Whether exactly one of the two sides was imported from other code."""
    return all(curve.imported for curve in mine) != all(curve.imported for curve in theirs)


def _keys(configs: Sequence[CellResults]) -> set[str]:
    """The groups and settings that have a value in at least one of these configs."""
    return {
        key
        for c in configs
        for key, v in chain(c.choices.items(), c.settings.items())
        if v is not None
    }


def _same_densities(one: Curve, other: Curve) -> bool:
    """Whether two curves have the same densities at the levels that both have."""
    shared = {p.level for p in one.points} & {p.level for p in other.points}
    return all(
        any(significance.point_at_density(p, other) for p in one.points if p.level == level)
        for level in shared
    )
