"""`Analysis`: everything that a report says of some cells, before any of it is drawn or printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lt_sweeps.analysis.curve import Curve, curves
from lt_sweeps.analysis.endpoint import Endpoint, endpoints
from lt_sweeps.analysis.labels import by
from lt_sweeps.analysis.results import Results
from lt_sweeps.analysis.significance import Verdict, verdicts
from lt_sweeps.config.report_config import ReportConfig, layout


@dataclass(frozen=True)
class Analysis:
    """The cells of one experiment as curves, with their tests and endpoints, in its layout."""

    reading: Results
    layout: ReportConfig

    @property
    def metric(self) -> str:
        """The first metric of the layout, which the tables show."""
        return self.layout.metrics[0]

    @property
    def accuracy(self) -> str:
        """The metric that tests of being as good as dense, and endpoints, are of."""
        found = [name for name in self.layout.metrics if name.endswith("accuracy")]
        return found[0] if found else "test_accuracy"

    @cached_property
    def curves(self) -> list[Curve]:
        return self.curves_of(self.metric)

    def curves_of(self, metric: str) -> list[Curve]:
        return curves(self.reading.cells, metric=metric, layout=self.layout)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.curves, self.layout)

    @cached_property
    def controlled(self) -> list[Verdict]:
        """Every line against the layout's control, which a winning ticket has to beat."""
        if self.layout.control is None:
            return []
        return verdicts(
            self.curves, replace(self.layout, baseline=self.layout.control, tested=None)
        )

    @cached_property
    def endpoints(self) -> list[tuple[Curve, list[Endpoint]]]:
        """The endpoints of each curve; areas within a panel go down to the same density."""
        found = []
        for here in by(self.curves_of(self.accuracy), lambda curve: curve.panel).values():
            ends = [c.points[-1].percent for c in here if c.points and c.points[-1].percent > 0]
            least = max(ends, default=100.0)
            found += [
                (c, endpoints(c, metric=self.accuracy, layout=self.layout, least=least))
                for c in here
            ]
        return found

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The ids of all trainings behind it."""
        found = {s for curve in self.curves for point in curve.points for s in point.stages}
        return tuple(sorted(found))


def findings(reading: Results, asked: Mapping[str, Any]) -> dict[str, Analysis]:
    """The findings of each experiment of a reading, by its name; `asked` overrides their layouts.

    A root, and a sweep of one experiment, is one.
    """
    experiments = by(reading.cells, lambda cell: cell.experiment)
    given = [reading.layouts.get(name, {}) for name in experiments]
    if not reading.layouts or all(each == given[0] for each in given):
        return {"": Analysis(reading, layout({**(given[0] if given else {}), **asked}))}
    return {
        name: Analysis(
            replace(reading, name=name, cells=tuple(cells)),
            layout({**reading.layouts.get(name, {}), **asked}),
        )
        for name, cells in experiments.items()
    }
