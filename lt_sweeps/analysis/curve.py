"""`Curve`: the cells that a figure draws as one line, with their points and their label.

Cells form one curve if they differ only in the seed, in how far their schedule prunes, and in the
keys that the layout names under `along`. The statistics of a point leave out replicates that
diverged and include those that collapsed, because a collapsed network still has an accuracy. Both
kinds are counted, so that a reader sees how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from lt_sweeps.analysis import labels
from lt_sweeps.analysis.line_names import check_keys, identity, names_and_labels, shared_config
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.analysis.stats import spread
from lt_sweeps.config.quantities import ACCURACY, TEST_ACCURACY, Quantity, named
from lt_sweeps.config.report_config import ReportConfig
from lt_sweeps.storage.record import Record

WHOLE = 100 - 1e-9  # percent of weights remaining; a network with at least this much is unpruned


@dataclass(frozen=True)
class Point:
    """One level of a curve: its density and the statistics of its replicates."""

    level: int
    target_sparsity: float | None
    percent: float  # of weights remaining, measured; the mean if replicates differ
    n: int
    n_finite: int
    n_collapsed: int
    mean: float
    min: float
    max: float
    sd: float
    ci_low: float
    ci_high: float
    stages: frozenset[str]
    values: Mapping[str, float] = field(default_factory=dict)  # the finite ones, by seed
    at: tuple[str, ...] = ()  # values of the layout's `along` keys, such as `method.bias=0.1`
    sparsity_total: float = math.nan  # of all parameters; NaN if records do not say
    dense_resources: bool | None = None  # whether a training held more weights than the ticket
    scored: bool = False  # evaluated without a training of its own

    @property
    def pruned(self) -> bool:
        """Whether at least one weight is pruned; a learned mask prunes already at level 0."""
        return self.percent < WHOLE

    def band(self, kind: str) -> tuple[float, float]:
        """Lower and upper edge of the band; NaN if there are too few replicates for a band."""
        if kind == "ci":
            return self.ci_low, self.ci_high
        if kind == "sd":
            return self.mean - self.sd, self.mean + self.sd
        return (self.min, self.max) if self.n_finite > 1 else (math.nan, math.nan)


@dataclass(frozen=True)
class Curve:
    """One line of a figure and one column of a table: `name` in a layout, `label` in the legend."""

    name: str
    label: str
    panel: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    cells: tuple[CellResults, ...]
    points: tuple[Point, ...]  # from the densest to the sparsest
    reference: Curve | None = None  # the panel's dense line, if this line has no dense network
    metric: Quantity = TEST_ACCURACY  # the metric of the points

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The seeds of the curve's cells: every point has them all once all cells are done."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @cached_property
    def by_seed(self) -> Mapping[str, Sequence[CellResults]]:
        """The cells by seed; cached, because every point looks cells up by seed."""
        return labels.group_by(self.cells, lambda cell: cell.seed)

    @cached_property
    def imported(self) -> bool:
        """Whether other code made the curve, so that equal seeds did not draw equal numbers."""
        return any(row.experiment == "imported" for cell in self.cells for row in cell.rows)

    def called(self, name: str) -> bool:
        """Whether `name` in a layout means this line: its name or its label in the legend."""
        return name in (self.name, self.label)

    @property
    def unfinished(self) -> bool:
        return not all(cell.done for cell in self.cells)

    @property
    def dense(self) -> Point | None:
        """The trained network before any pruning: the line's own, or that of its reference.

        None if the line's tickets come from several dense networks, because each ticket would have
        to be compared with its own.
        """
        if len(self.dense_networks) > 1:
            return None
        own = next((p for p in self.points if not (p.pruned or p.scored)), None)
        return self.reference.dense if own is None and self.reference is not None else own

    @property
    def dense_networks(self) -> list[Point]:
        """The line's own unpruned points: several if an `along` key changes the dense training."""
        return [p for p in self.points if not (p.level or p.pruned or p.scored)]


def curves(
    cells: Iterable[CellResults], *, metric: str, layout: ReportConfig | None = None
) -> list[Curve]:
    """The curves of these cells, in the layout's order and with its names.

    Two kinds of cells are in no curve: cells whose task does not measure the metric, and queued
    cells until a cell of the same signature has started, because their choices are not known yet.
    Cells that are judged by different metrics are in different panels.

    Raises: ValueError: the layout names a key that no cell has, does not tell its lines apart, or
        has a margin that its metric cannot have.
    """
    layout = layout or ReportConfig()
    started = [cell for cell in cells if cell.choices and _measures(cell, metric)]
    check_keys(started, layout)
    lines = list(_lines(started, layout.along))
    configs = [config for config, _ in lines]
    panels = [labels.panel_label(config, layout.panels) for config in configs]
    panels = labels.panels_by_metric(panels, [_judged_by(group) for _, group in lines])
    names, legend = names_and_labels(configs, panels, layout)
    drawn = [
        Curve(
            name=name,
            label=label,
            panel=panel,
            choices=config.choices,
            settings=config.settings,
            cells=tuple(group),
            points=_points(group, metric, layout.along),
            metric=_metric(group, metric),
        )
        for name, label, panel, (config, group) in zip(names, legend, panels, lines, strict=True)
    ]
    for quantity in dict.fromkeys(curve.metric for curve in drawn):
        layout.check_margins(quantity)
    order = list(layout.labels)
    return sorted(
        (_with_reference(curve, drawn) for curve in drawn),
        key=lambda c: order.index(c.name) if c.name in order else len(order),
    )


def point(rows: Sequence[Record], metric: str, at: tuple[str, ...] = ()) -> Point:
    """The point for these rows, which are replicates of each other."""
    values = {row.seed: v for row in rows if not math.isnan(v := row.value(metric))}
    totals = [math.nan if row.sparsity_total is None else row.sparsity_total for row in rows]
    return Point(
        level=rows[0].level,
        target_sparsity=rows[0].target_sparsity,
        percent=float(np.mean([row.percent_remaining for row in rows])),
        n=len(rows),
        n_finite=len(values),
        n_collapsed=sum(row.collapsed for row in rows),
        stages=frozenset(row.stage for row in rows),
        values=values,
        at=at,
        sparsity_total=float(np.mean(totals)),
        dense_resources=rows[0].dense_resources,
        scored=all(row.kind == "score" for row in rows),
        **asdict(spread(list(values.values()))),
    )


def by_panel(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """The curves, grouped by panel."""
    return labels.group_by(curves, lambda curve: curve.panel)


def distinct(cells: Iterable[CellResults]) -> list[Record]:
    """The rows of these cells, with each trained ticket (stage and seed) only once."""
    rows: dict[tuple[str, str], Record] = {}
    for row in chain.from_iterable(cell.rows for cell in cells):
        rows.setdefault((row.stage, row.seed), row)
    return list(rows.values())


def _measures(cell: CellResults, metric: str) -> bool:
    """Whether a cell's task measures the metric; True as long as the cell has no record."""
    return cell.any_row is None or cell.any_row.measures(metric)


def _metric(cells: Sequence[CellResults], name: str) -> Quantity:
    row = next((row for cell in cells for row in cell.rows), None)
    return Quantity.of(named(name, ACCURACY)) if row is None else row.metric_of(name)


def _judged_by(cells: Sequence[CellResults]) -> str:
    """The kind of metric by which the cells of a curve are judged; empty if none has a record.

    Raises: ValueError: the cells are judged by several metrics, so no mean over them is possible.
    """
    kinds = sorted({cell.judged_by for cell in cells} - {""})
    if len(kinds) > 1:
        raise ValueError(
            f"report.along: cells of one line are judged by {', '.join(kinds)}; remove the keys "
            "that change the task from `along`"
        )
    return kinds[0] if kinds else ""


def _with_reference(curve: Curve, drawn: Sequence[Curve]) -> Curve:
    """Give a line without a dense network of its own the dense line of its panel as reference.

    Such a line began with a search for a mask, or with a sparse network. If the panel has no dense
    line or several, the line stays unchanged.
    """
    if curve.dense is not None:
        return curve
    dense = [c for c in drawn if c.panel == curve.panel and not any(p.pruned for p in c.points)]
    return replace(curve, reference=dense[0]) if len(dense) == 1 else curve


def _points(cells: Sequence[CellResults], metric: str, along: Sequence[str]) -> tuple[Point, ...]:
    # Several values of `along` may share the dense network: it is a single point, with all seeds.
    replicates: dict[frozenset[str], tuple[tuple[str, ...], dict[str, Record]]] = {}
    for at, group in labels.group_by(cells, lambda cell: _position(cell, along)).items():
        for rows in labels.group_by(distinct(group), _level).values():
            stages = frozenset(row.stage for row in rows)
            _, by_seed = replicates.setdefault(stages, (at, {}))
            by_seed |= {row.seed: row for row in rows}
    points = [point(list(by_seed.values()), metric, at) for at, by_seed in replicates.values()]
    return tuple(sorted(points, key=lambda p: (-p.percent, p.level)))


def _position(cell: CellResults, along: Sequence[str]) -> tuple[str, ...]:
    """A cell's values of the `along` keys, which may differ between the cells of one line."""
    keys = {*cell.choices, *cell.settings}
    return tuple(f"{key}={labels.value_of(cell, key)}" for key in along if key in keys)


def _level(row: Record) -> tuple[int, float | None]:
    """The level and target that replicates of a point share.

    The level alone is not enough: one-shot cells are all at level 1, with different targets.
    """
    target = row.target_sparsity
    return row.level, None if target is None else round(target, 9)


def _lines(
    cells: Iterable[CellResults], along: Sequence[str], split_by: int = 0
) -> Iterator[tuple[CellResults, list[CellResults]]]:
    """Yield, for each curve, the config that its cells share and the cells.

    `split_by` says what tells curves apart: 0, the config without seed and schedule; 1, also the
    schedule; 2, also the signature.
    """
    # The schedule is left out at first, because two kinds of cells belong on one line although
    # their schedules differ: a sweep that was continued (12 levels, then 20), and a multirun of
    # one-shot cells, where every cell is one point of the line.
    #
    # That is too coarse if the schedules prune at different rates (20% or 50% of the weights at
    # each level). Then two cells of the group disagree about a level (see `_clash`), and the group
    # is split by the schedule too. If cells still disagree, their configs are equal and something
    # else that the signature includes differs, such as the version of our numerical code. Pooling
    # old and new replicates would be wrong, so the group is split by the signature. Only a group
    # that clashes is split: the labels of all other lines stay as short as before.
    schedule, signature = split_by > 0, split_by > 1
    identities: dict[str, str] = {}  # one for each signature: `lr=1` and `lr=1.0` train the same

    def key(cell: CellResults) -> str:
        own = identity(cell, along, schedule=schedule) + (cell.signature if signature else "")
        return identities.setdefault(cell.signature, own)

    for group in labels.group_by(cells, key).values():
        positions = labels.group_by(group, lambda cell: _position(cell, along)).values()
        if not signature and any(map(_clash, positions)):
            yield from _lines(group, along, split_by + 1)
        else:
            yield shared_config(group[0], along, schedule=schedule), group


def _clash(cells: Sequence[CellResults]) -> bool:
    """Whether two of the cells disagree about a level's target or training, or about a replicate.

    A stage says how a level is trained, not with which seed. Imported tickets have a stage each.
    """
    rows = distinct(cells)
    levels = {_level(row) for row in rows}
    replicates = {(_level(row), row.seed) for row in rows}
    trained = {(_level(row), row.stage) for row in rows if row.experiment != "imported"}
    has_several_targets = len(levels) > len({level for level, _ in levels})
    has_several_trainings = len(trained) > len({level for level, _ in trained})
    iterative = any(row.level > 1 for row in rows)
    disagree = len(replicates) < len(rows) or (iterative and has_several_targets)
    return disagree or has_several_trainings
