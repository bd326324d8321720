"""`Analysis`: the curves, tests and endpoints of a report, before they are drawn or printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.audited_files import AuditedCell
from lt_sweeps.analysis.curve import Curve, by_panel, curves
from lt_sweeps.analysis.endpoint import endpoints, shared_density
from lt_sweeps.analysis.endpoint_tests import (
    CurveEndpoints,
    EndpointVerdict,
    endpoint_verdicts,
    peak_conclusions,
)
from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.line_names import check_lines
from lt_sweeps.analysis.results import Results, layouts, layouts_by_name, read_results
from lt_sweeps.analysis.significance import Verdict, pair_verdicts, verdicts
from lt_sweeps.analysis.verdict_sentences import caveats, conclusions
from lt_sweeps.config.quantities import ACCURACY, Quantity, named
from lt_sweeps.config.report_config import ReportConfig, layout
from lt_sweeps.storage.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Analysis:
    """The cells of one experiment as curves, with tests and endpoints, by the report's layout."""

    results: Results
    layout: ReportConfig

    @property
    def metric(self) -> str:
        """The first metric of the layout, which the tables show."""
        return self.name_of(self.layout.metrics[0])

    @property
    def metric_label(self) -> str:
        """The first metric with its unit; several labels if tasks are judged by several metrics."""
        labels = dict.fromkeys(curve.metric.label for curve in self.curves)
        return " and ".join(labels) or Quantity.of(self.metric).label

    @property
    def accuracy(self) -> str:
        """The metric of the endpoints, by which tickets are compared with the dense network."""
        names = (name for name in self.layout.metrics if Quantity(name).judges)
        return self.name_of(next(names, "test_metric"))

    def name_of(self, metric: str) -> str:
        """The name of a metric in the records: `test_accuracy` for `test_metric`.

        `test_metric` stays unchanged if the cells are judged by several metrics.
        """
        return metric if self._judged_by is None else named(metric, self._judged_by)

    @cached_property
    def _judged_by(self) -> str | None:
        """The kind of metric by which all cells are judged; None if there are several kinds."""
        kinds = {cell.judged_by for cell in self.results.cells} - {""}
        return next(iter(kinds or {ACCURACY})) if len(kinds) < 2 else None

    @cached_property
    def curves(self) -> list[Curve]:
        return self.curves_of(self.metric)

    @cached_property
    def unmeasured(self) -> list[Curve]:
        """The lines of cells whose task does not measure the first metric; no figure draws them."""
        drawn = {cell.name for curve in self.curves for cell in curve.cells}
        rest = [cell for cell in self.results.cells if cell.name not in drawn]
        # The layout's keys are for the drawn lines only, so these lines get automatic names.
        return [curve for curve in curves(rest, metric="test_metric") if curve.points]

    @property
    def every_curve(self) -> list[Curve]:
        """The lines of all cells with records, including those that no figure of the metric has."""
        return [*self.curves, *self.unmeasured]

    def curves_of(self, metric: str) -> list[Curve]:
        metric = self.name_of(metric)
        if metric not in self._curves:
            self._curves[metric] = curves(self.results.cells, metric=metric, layout=self.layout)
        return self._curves[metric]

    @cached_property
    def _curves(self) -> dict[str, list[Curve]]:
        """A cache of the curves by metric."""
        return {}

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.curves, self.layout)

    @cached_property
    def all_verdicts(self) -> list[Verdict]:
        """The tests against the baseline, and those of the layout's pairs of lines."""
        return [*self.verdicts, *pair_verdicts(self.curves, self.layout)]

    @cached_property
    def endpoint_verdicts(self) -> list[EndpointVerdict]:
        """The tests of the same pairs of lines by their endpoints per run."""
        return endpoint_verdicts(self.endpoints, self.layout)

    @property
    def test_sentences(self) -> list[str]:
        """Sentences on the results of the tests, pair by pair, and on their limits."""
        peaks = peak_conclusions(self.endpoint_verdicts, self.all_verdicts, self.layout)
        tests, layout = self.all_verdicts, self.layout
        return [*conclusions(tests, layout), *peaks, *caveats(tests, layout)]

    @cached_property
    def controlled(self) -> list[Verdict]:
        """The tests of all lines against the layout's control, which a winning ticket must beat."""
        if self.layout.control is None:
            return []
        control = replace(self.layout, baseline=self.layout.control, tested=None)
        return verdicts(self.curves, control)

    @cached_property
    def endpoints(self) -> list[CurveEndpoints]:
        """Each curve with its endpoints; areas within a panel end at the same density."""
        return self.endpoints_of(self.accuracy)

    def endpoints_of(self, metric: str) -> list[CurveEndpoints]:
        ends = []
        for panel in by_panel(self.curves_of(metric)).values():
            least = shared_density(panel)
            ends += [(c, endpoints(c, self.layout, least=least)) for c in panel]
        return ends

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The stage keys of all trainings behind the curves."""
        points = [point for curve in self.curves for point in curve.points]
        return tuple(sorted({stage for point in points for stage in point.stages}))


def analyses(results: Results, overrides: Mapping[str, Any]) -> dict[str, Analysis]:
    """Analyse each experiment; `overrides` replace keys of its `report:`. Return analyses by name.

    A root has a single analysis, and so has a sweep whose experiments have equal layouts: its name
    is then "".
    """
    experiments = group_by(results.cells, lambda cell: cell.experiment)
    by_name = layouts_by_name(experiments, results.layouts)
    if "" in by_name:
        return {"": Analysis(results, layout({**by_name[""], **overrides}))}
    return {
        name: Analysis(
            replace(results, name=name, cells=tuple(cells)), layout({**by_name[name], **overrides})
        )
        for name, cells in experiments.items()
    }


def read_analyses(
    source: Path, overrides: Mapping[str, Any], audited: Iterable[AuditedCell] = ()
) -> dict[str, Analysis]:
    """Read a sweep or a root, and analyse each experiment as `analyses` does.

    Raises: ValueError: the records cannot be read, or lack a metric of a layout.
    """
    # Layouts are read first, because the records must have the metrics of all experiments.
    by_experiment = list(layouts(source).values()) or [{}]
    metrics = {m for keys in by_experiment for m in layout({**keys, **overrides}).metrics}
    results = read_results(source, metrics=metrics, audited=audited)
    results.check_metrics("report.metrics", metrics)
    return analyses(results, overrides)


def check_typed(analyses: Iterable[Analysis], typed: Mapping[str, Any]) -> None:
    """Check the lines and labels in the keys of a report that were typed for these results.

    Raises: ValueError: a key names a line, or labels one, that the results do not have.
    """
    for analysis in analyses:
        check_lines([curve.name for curve in analysis.curves], analysis.layout, typed)


def line_names(sweep: SweepFolder) -> list[str]:
    """The label of each cell's line in the report, with its panel if there are several."""
    cells = sweep.manifest.cells
    try:
        by_experiment = analyses(read_results(sweep.folder, metrics=()), {})
        drawn = [curve for analysis in by_experiment.values() for curve in analysis.every_curve]
    except ValueError:  # damaged records, or a layout that the report will refuse
        return [cell.signature[:8] for cell in cells]
    several = len({curve.panel for curve in drawn}) > 1
    names = {
        cell.name: f"{curve.label}, {curve.panel}" if several else curve.label
        for curve in drawn
        for cell in curve.cells
    }
    return [names.get(cell.name, cell.signature[:8]) for cell in cells]
