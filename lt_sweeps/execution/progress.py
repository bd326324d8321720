"""Show progress while a sweep runs on this machine: a live panel, or in a pipe occasional lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.labels import automatic_labels, panel_label, readable
from lt_sweeps.analysis.results import queued_cell
from lt_sweeps.config.quantities import ACCURACY, Quantity, named
from lt_sweeps.config.report_config import layout
from lt_sweeps.storage.manifest import FrozenPack, FrozenStage, UnitName
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_facts import TicketFacts

_DRAW = 0.25  # seconds between two redraws of the panel, at least
_FIRST_LINE, _LAST_LINE = 10.0, 600.0  # seconds between lines in a pipe: 10 at first, 600 at most
_AROUND = 3  # lines of the terminal that the panel leaves free or needs in addition to its tables


class ProgressPanel:
    """A panel of finished and running trainings, the scores so far, and the remaining time."""

    def __init__(self, sweep: SweepFolder, packs: Sequence[FrozenPack], console: Console) -> None:
        self._sweep, self._console = sweep, console
        self._stages = sweep.manifest.stages
        self._total = sum(map(self._work, packs)) or 1  # without packs, everything is done
        todo = {unit for pack in packs for unit in pack.units}
        self._units = todo | {unit for cell in sweep.manifest.cells for unit in cell.units}
        self._ready = self._units - todo
        self._steps: dict[str, int] = {}
        self._running: dict[str, FrozenPack] = {}
        self._done = 0.0
        self._began = self._drawn = self._said = time.monotonic()
        self._pause = _FIRST_LINE
        self._scores = LatestScores(sweep)
        # Redrawn on each message of a worker, not by a thread, because the pool's process forks.
        self._live = Live(
            get_renderable=self._render, console=console, auto_refresh=False, transient=True
        )
        self._shown = console.is_terminal and bool(packs)

    def __enter__(self) -> ProgressPanel:
        if self._shown:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def start(self, pack: FrozenPack) -> None:
        self._running[pack.name] = pack
        self._steps[pack.name] = self._stage(pack).start
        self._draw()

    def step(self, pack: FrozenPack, step: int) -> None:
        self._steps[pack.name] = step
        if time.monotonic() - self._drawn > _DRAW:
            self._draw()

    def stop(self, pack: FrozenPack, *, done: bool) -> None:
        self._running.pop(pack.name, None)
        self._done += self._work(pack) * done
        if done:
            self._ready |= {*pack.units}
            self._scores.add(pack.units)
        self._draw()

    def _draw(self) -> None:
        self._drawn = now = time.monotonic()
        if self._shown:
            self._live.refresh()
        elif not self._console.is_terminal and now - self._said >= self._pause:
            self._said, self._pause = now, min(2 * self._pause, _LAST_LINE)
            latest = [" ".join(row) for row in self._scores.rows(1)]
            line = "; ".join([f"{self._counted()}, {self._timed()}", *latest])
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _stage(self, pack: FrozenPack) -> FrozenStage:
        return self._stages[pack.units[0][0]]

    def _work(self, pack: FrozenPack) -> int:
        stage = self._stage(pack)
        return len(pack.units) * (stage.end - stage.start)

    def _share(self) -> float:
        running = sum(
            len(pack.units) * (self._steps[name] - self._stage(pack).start)
            for name, pack in self._running.items()
        )
        return (self._done + running) / self._total

    def _counted(self) -> str:
        failed = len(self._sweep.failures().keys() & self._units)
        done = f"{len(self._ready)} of {len(self._units)} trainings"
        return f"{done}, {failed} failed" if failed else done

    def _timed(self) -> str:
        elapsed, share = time.monotonic() - self._began, self._share()
        left = _clock(elapsed * (1 - share) / share) if share else "?"
        return f"{_clock(elapsed)} elapsed, {left} left"

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=self._share(), width=16),
            f"{self._share():4.0%}",
            Text(f"{self._counted()}, {self._timed()}", no_wrap=True, overflow="ellipsis"),
        )
        room = max(self._console.height - _AROUND, 0)
        working = [*map(self._at_work, self._running.values())]
        # Lines of running packs leave half of the room to the scores, if the scores need it.
        at_work = working[: max(room // 2, room - len(self._scores.rows(room)))]
        scores = Table.grid(padding=(0, 2))
        rows = self._scores.rows(room - len(at_work))
        for name, *facts in rows:
            scores.add_row(_one_line(name), *(Text(fact, no_wrap=True) for fact in facts))
        return Group(bar, *at_work, *([scores] if rows else []))  # an empty table takes a line

    def _at_work(self, pack: FrozenPack) -> Text:
        networks = "1 network" if len(pack.units) == 1 else f"{len(pack.units)} networks"
        step, end = self._steps[pack.name], self._stage(pack).end
        line = f"level {pack.level}: {networks}, step {step:,} of {end:,}"
        return _one_line(line, style="dim")


def _one_line(line: str, style: str = "") -> Text:
    return Text(f"  {line}", style, no_wrap=True, overflow="ellipsis")


class LatestScores:
    """The score of each line of the report, at the highest level that any of its seeds reached."""

    def __init__(self, sweep: SweepFolder) -> None:
        cells = sweep.manifest.cells
        self._sweep, self._store = sweep, Store(sweep.root)
        self._cells = {cell.signature: cell for cell in cells}
        self._seeds = {name: [c.seed for c in cells if c.signature == name] for name in self._cells}
        first = [queued_cell(cell) for cell in self._cells.values()]
        panels = [panel_label(cell, ("model", "dataset")) for cell in first]
        several = len({*panels}) > 1
        labels = zip(readable(automatic_labels(first, panels)), panels, strict=True)
        named = (f"{label}, {panel}" if several else label or panel for label, panel in labels)
        self._names = dict(zip(self._cells, named, strict=True))
        reports = sweep.manifest.reports.items()
        self._metrics = {name: layout(report).metrics[0] for name, report in reports}
        self._latest: dict[str, str] = {}  # the latest stage of each line, in order of arrival
        self._read: dict[UnitName, TicketFacts] = {}

    def add(self, units: Sequence[UnitName]) -> None:
        """Add trainings that are done now."""
        for stage in dict.fromkeys(stage for stage, _ in units):
            for name, cell in self._cells.items():
                before = self._latest.get(name)
                level = cell.levels.get(stage)
                if level is not None and (before is None or level >= cell.levels[before]):
                    self._latest.pop(name, None)
                    self._latest[name] = stage

    def rows(self, room: int) -> list[tuple[str, ...]]:
        """The name, score, level, remaining weights and seeds of each line that has a score.

        Lines are in the order of the sweep. If there are more than `room`, the most recent ones are
        returned.
        """
        rows = {name: row for name in reversed(self._latest) if (row := self._row(name))}
        latest = list(rows)[:room]
        return [rows[name] for name in self._cells if name in latest]

    def _row(self, name: str) -> tuple[str, ...]:
        cell, stage = self._cells[name], self._latest[name]
        metric = self._metrics.get(cell.labels.get("experiment") or "", "test_metric")
        at = cell.config.get("report_at", "best")
        facts = [found for seed in self._seeds[name] if (found := self._facts(stage, seed))]
        if (score := latest_score(facts, metric, at)) is None:
            return ()
        return (
            self._names[name],
            score[0],
            f"level {cell.levels[stage]}",
            f"{100 * (1 - facts[0].sparsity_at(at)):.3g} % left",
            f"{score[1]} of {len(self._seeds[name])} seeds",
        )

    def _facts(self, stage: str, seed: str) -> TicketFacts | None:
        unit = stage, seed
        if unit not in self._read:
            with suppress(ValueError):  # a faulty ticket: the report will describe the fault
                if facts := self._store.facts(stage, seed):
                    self._read[unit] = replace(facts, history=())
        return self._read.get(unit)


def latest_score(facts: Sequence[TicketFacts], metric: str, at: str) -> tuple[str, int] | None:
    """The mean of a metric in words, and the number of tickets that have it; None if none do."""
    values: list[float] = []
    for scores in (ticket.metrics for ticket in facts):
        metric = named(metric, scores.get("metric") or ACCURACY)
        measured: dict[str, Any] = {**scores, **(scores.get("metrics") or {})}
        value = measured.get(f"{at}_{metric}", measured.get(metric))
        if value is not None:
            values.append(float(value))
    if not values:
        return None
    quantity = Quantity.of(metric)
    unit = "%" if quantity.is_fraction else ""
    return f"{quantity.words} {quantity.value_text(fmean(values))}{unit}", len(values)


def _clock(seconds: float) -> str:
    """Format seconds as `h:mm:ss`, or as `m:ss` below one hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
