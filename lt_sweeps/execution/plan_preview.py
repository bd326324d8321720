"""The preview: what a multirun would compute, before anything starts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lt_sweeps.config.durations import readable
from lt_sweeps.plan.cost import Speeds
from lt_sweeps.plan.planning import Pack, Plan, dependencies


@dataclass(frozen=True)
class Estimate:
    """What packs will take, if each starts as soon as it can."""

    packs: int
    units: int
    seconds: float  # until the last one ends
    busy: float  # of all devices together
    chain: float  # of the longest chain of packs that wait for one another
    measured: bool  # rather than guessed from shapes
    device: str
    at_once: int

    @classmethod
    def of(
        cls, todo: Sequence[Pack], speeds: Speeds, *, device: str, at_once: int, share: int = 1
    ) -> Estimate:
        """For `at_once` processes, of which `share` have one device together."""
        needs, ends, chain = dependencies(todo), {}, {}
        free, busy, known = [0.0] * at_once, 0.0, True
        for pack in todo:
            took, measured = speeds.seconds(pack.units[0].stage, len(pack.units), device)
            known &= measured
            before = [name for name in needs[pack.name] if name in ends]
            free[0] = ends[pack.name] = max([free[0], *(ends[n] for n in before)]) + took
            chain[pack.name] = max((chain[n] for n in before), default=0.0) + took
            busy += took / share
            free.sort()
        units = sum(len(pack.units) for pack in todo)
        longest = max(chain.values(), default=0.0)
        return cls(len(todo), units, max(free), busy, longest, known, device, at_once)

    @property
    def hours(self) -> float:
        return self.busy / 3600

    @property
    def noun(self) -> str:
        return "CPU" if self.device == "cpu" else "GPU"


def within_budget(estimate: Estimate, budget: float | None) -> None:
    """Raises: ValueError: the packs would take more than the budget."""
    if budget is not None and estimate.hours > budget:
        raise ValueError(
            f"budget.gpu_hours: this takes about {estimate.hours:.2g} {estimate.noun}-hours"
            f"{'' if estimate.measured else ' (a guess from shapes)'}; allowed are {budget:g}"
        )


def preview(
    made: Plan, todo: Sequence[Pack], estimate: Estimate, *, sweep: Path, **more: str
) -> Group:
    """Cells, distinct trainings, what is cached, packs, time and disk, and what is prunable."""
    stages = len({unit.stage.key for unit in made.units})
    guess = "" if estimate.measured else " (a guess from shapes)"
    rows = [
        ("sweep", str(sweep)),
        ("cells", f"{len(made.cells)}"),
        (
            "trainings",
            f"{len(made.units)} distinct ({stages} stages), where each cell alone would take "
            f"{made.asked}",
        ),
        ("cached", f"{len(made.units) - estimate.units}"),
        (
            "to run",
            f"{estimate.units} in {estimate.packs} packs, {estimate.at_once} at once on "
            f"{estimate.device.removeprefix('NVIDIA ')}",
        ),
        *more.items(),
        (
            "time",
            f"about {readable(estimate.seconds)}, {estimate.hours:.2g} {estimate.noun}-hours, "
            f"longest chain {readable(estimate.chain)}{guess}",
        ),
        ("disk", f"{_bytes(made, todo) / 2**20:,.0f} MiB of tickets"),
        ("prunable", _prunable(made)),
    ]
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return Group(table, *_levels(made))


def _levels(made: Plan) -> list[Text]:
    """What is trained at which levels; neighbours that do the same share a line."""
    units = Counter((unit.stage.level, str(unit.stage)) for unit in made.units)
    rows = [(count, name, level) for (level, name), count in units.items()]
    lines = []
    for (count, name), group in itertools.groupby(rows, key=lambda row: row[:2]):
        levels = [level for _, _, level in group]
        which = f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]}-{levels[-1]}"
        lines.append(Text(f"{which}: {count} x {name}", style="dim"))
    return lines


def _bytes(made: Plan, todo: Sequence[Pack]) -> int:
    """Four bytes a weight and one a mask entry, for every ticket and snapshot."""
    total = 0
    for pack in todo:
        for unit in pack.units:
            weights = sum(layer.size for layer in unit.stage.network.layers)
            total += 5 * weights * (1 + len(made.moments.get(unit.stage.key, ())))
    return total


def _prunable(made: Plan) -> str:
    nets = {str(cell.labels["model"]): cell.last.network.layers for cell in made.cells}
    return "; ".join(
        f"{name}: {sum(layer.size for layer in layers):,} weights in "
        + ", ".join(f"{layer.name} ({layer.kind})" for layer in layers)
        for name, layers in nets.items()
    )
