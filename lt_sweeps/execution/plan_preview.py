"""Preview what a multirun will compute, and for how long, before anything starts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from lt_sweeps.config.durations import readable
from lt_sweeps.execution.computed_anew import lost_snapshots, why_anew
from lt_sweeps.models.network import Network
from lt_sweeps.plan.cost import Speeds
from lt_sweeps.plan.packing import Pack, dependencies
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Init, ancestors
from lt_sweeps.plan.unit import tasks_of
from lt_sweeps.storage.dropped_tickets import dropped_sentence

_GUESSED = " (speed not measured)"  # the speed is estimated from the shapes of the layers
_LARGE = 0.05  # fraction of all parameters; an unprunable tensor above it is named in the preview


@dataclass(frozen=True)
class Estimate:
    """The time that packs will take, if each pack starts as soon as possible."""

    seconds: float  # until the last pack ends
    busy: float  # seconds of work, summed over all devices
    chain: float  # seconds of the longest chain of packs that wait for one another
    measured: bool  # whether every speed was measured; otherwise some come from layer shapes
    device: str
    at_once: int

    @classmethod
    def of(
        cls, todo: Sequence[Pack], speeds: Speeds, *, device: str, at_once: int, share: int = 1
    ) -> Estimate:
        """Simulate `at_once` processes, `share` of them on each device."""
        needs, ends, chain = dependencies({pack.name: pack.units for pack in todo}), {}, {}
        # `free` has the time at which each process becomes free, sorted. The next pack goes to the
        # first of them, and starts once the process is free and the packs that it needs are done.
        free, busy, all_measured = [0.0] * at_once, 0.0, True
        for pack in todo:
            duration, measured = speeds.seconds(pack.units[0].stage, len(pack.units), device)
            all_measured &= measured
            needed = [name for name in needs[pack.name] if name in ends]
            free[0] = ends[pack.name] = max([free[0], *(ends[n] for n in needed)]) + duration
            chain[pack.name] = max((chain[n] for n in needed), default=0.0) + duration
            busy += duration / share
            free.sort()
        longest = max(chain.values(), default=0.0)
        return cls(max(free), busy, longest, all_measured, device, at_once)

    @property
    def hours(self) -> float:
        """Device-hours, which `budget.gpu_hours` limits."""
        return self.busy / 3600

    @property
    def hours_text(self) -> str:
        """The device-hours with two digits, or as a whole number from 10 up; at least 0.01."""
        digits = 2 if self.hours < 1 else 1 if self.hours < 10 else 0
        noun = "CPU" if self.device == "cpu" else "GPU"
        return f"{max(self.hours, 0.01 if self.hours else 0):,.{digits}f} {noun}-hours"


def within_budget(estimate: Estimate, budget: float | None) -> None:
    """Raises: ValueError: the packs need more device-hours than the budget."""
    if budget is not None and estimate.hours > budget:
        raise ValueError(
            f"budget.gpu_hours: this takes about {estimate.hours_text}"
            f"{'' if estimate.measured else _GUESSED}; the budget is {budget:g}"
        )


def preview(
    plan: Plan, todo: Sequence[Pack], estimate: Estimate, *, sweep: Path, **more: str
) -> Group:
    """Return the preview as text: cells, trainings, packs, time, disk, and the prunable layers.

    Args:
        todo: the packs of the plan that are not in the store yet.
        more: additional rows of the launcher.
    """
    stages = len({unit.stage.key for unit in plan.units})
    units = sum(len(pack.units) for pack in todo)
    rows = [
        ("sweep", str(sweep)),
        ("cells", f"{len(plan.cells)}"),
        (
            "trainings",
            f"{len(plan.units)} distinct ({stages} stages), instead of {plan.asked} without "
            "sharing",
        ),
        ("cached", f"{len(plan.units) - units}"),
        (
            "to run",
            f"{units} in {len(todo)} packs, {estimate.at_once} at once on "
            f"{estimate.device.removeprefix('NVIDIA ')}",
        ),
        *more.items(),
        (
            "time",
            f"about {readable(estimate.seconds)}, {estimate.hours_text}, "
            f"longest chain {readable(estimate.chain)}{'' if estimate.measured else _GUESSED}",
        ),
        ("disk", _disk(plan, todo)),
        *(("changed", line) for line in why_anew(plan, todo, sweep.parent.parent)),
        *(("again", line) for line in lost_snapshots(plan, todo, sweep.parent.parent)),
        *(("dropped", line) for line in [_dropped(plan, sweep.parent.parent)] if line),
        *(("data", line) for line in _absent(plan)),
        ("prunable", _prunable(plan)),
        *(("stays dense", line) for line in _dense(plan)),
        *(("note", note) for note in plan.notes),
    ]
    table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return Group(table, *_levels(plan))


def _levels(plan: Plan) -> list[Text]:
    """The trainings of each level; consecutive levels with equal trainings share a line."""
    units = Counter((unit.stage.level, str(unit.stage)) for unit in plan.units)
    rows = [(count, name, level) for (level, name), count in units.items()]
    lines = []
    for (count, name), group in itertools.groupby(rows, key=lambda row: row[:2]):
        levels = [level for _, _, level in group]
        span = f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]}-{levels[-1]}"
        lines.append(Text(f"{span}: {count} x {name}", style="dim"))
    return lines


def _dropped(plan: Plan, root: Path) -> str:
    return dropped_sentence(root, [*plan.named]).removeprefix("tickets: ")


def _absent(plan: Plan) -> list[str]:
    """A line for each data set that has to be downloaded before anything runs."""
    lacking = (task.dataset.lacks() for task in tasks_of(plan.units))
    return list(dict.fromkeys(filter(None, lacking)))


def _disk(plan: Plan, todo: Sequence[Pack]) -> str:
    """The disk space of all tickets and snapshots, and the number of files.

    Besides its tickets, a cell has 3 files, and a stage has one for its costs. The space is an
    upper bound: if the best evaluation of a training is its last, one ticket serves for both.
    """
    tickets, size, units = 0, 0.0, [unit for pack in todo for unit in pack.units]
    for unit in units:
        weights = sum(layer.size for layer in unit.stage.network.layers)
        key, length = unit.stage.key, unit.stage.length
        saved = plan.moments.get(key, frozenset())
        count = 1 + len(saved | ({"best"} if length and key in plan.best_reported else set()))
        tickets += count
        size += count * weights * (4 + 1 / 8)  # a float32, and a bit of the mask
    advanced, stages = set(units), {unit.stage.key for unit in units}
    cells = [cell for cell in plan.cells if not advanced.isdisjoint(cell.units)]
    inits = {  # by the last stage of a cell, which many seeds share
        last.key: [stage.key for stage in ancestors(last) if isinstance(stage, Init)]
        for last in {cell.last.key: cell.last for cell in cells}.values()
    }
    drawn = {(key, cell.seed) for cell in cells for key in inits[cell.last.key]}
    files = tickets + len(drawn) + 3 * len(cells) + len(stages)
    return f"{size / 2**20:,.0f} MiB of tickets at most, in {files:,} files with all records"


def _networks(plan: Plan) -> dict[tuple[str, Network], None]:
    """Each network with the name of its model, which several widths or data sets share."""
    return dict.fromkeys((str(cell.labels["model"]), cell.last.network) for cell in plan.cells)


def _prunable(plan: Plan) -> str:
    networks = []
    for name, network in _networks(plan):
        size = sum(layer.size for layer in network.layers)
        layers = ", ".join(f"{layer.name} ({layer.kind})" for layer in network.layers)
        part = f"{size:,} of {network.parameters:,} parameters ({_share(size, network)})"
        networks.append(f"{name}: {part} in {layers}")
    return "; ".join(dict.fromkeys(networks))


def _dense(plan: Plan) -> Iterator[str]:
    """A line for each network with large tensors that are never pruned."""
    for name, network in _networks(plan):
        pruned = {layer.name for layer in network.layers}
        large = [
            f"{parameter} ({_share(size, network)} of all parameters)"
            for parameter, size in network.sizes.items()
            if parameter not in pruned and size > _LARGE * network.parameters
        ]
        if large:
            yield f"{name}: {', '.join(large)}; `model.prunable` can name more"


def _share(size: int, network: Network) -> str:
    return f"{100 * size / network.parameters:.1f} %"
