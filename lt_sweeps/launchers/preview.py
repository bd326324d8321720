"""The preview: what a multirun would compute, before anything starts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lt_sweeps.cost import Speeds
from lt_sweeps.plan import Pack, Plan, dependencies


def preview(
    made: Plan,
    todo: Sequence[Pack],
    speeds: Speeds,
    *,
    devices: Sequence[str],
    sweep: Path,
) -> Group:
    """Cells, distinct trainings, what is cached, packs, time and disk, and what is prunable."""
    missing = sum(len(pack.units) for pack in todo)
    seconds, measured = _seconds(todo, speeds, devices)
    stages = len({unit.stage.key for unit in made.units})
    rows = [
        ("sweep", str(sweep)),
        ("cells", f"{len(made.cells)}"),
        (
            "trainings",
            f"{len(made.units)} distinct ({stages} stages), where each cell alone would take "
            f"{made.asked}",
        ),
        ("cached", f"{len(made.units) - missing}"),
        ("to run", f"{missing} in {len(todo)} packs, {len(devices)} at once on {devices[0][:4]}"),
        ("time", f"about {_duration(seconds)}" + ("" if measured else " (a guess from shapes)")),
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


def _seconds(todo: Sequence[Pack], speeds: Speeds, devices: Sequence[str]) -> tuple[float, bool]:
    """The time until the last pack ends, if each starts as soon as it can."""
    device = "cpu" if devices[0] == "cpu" else torch.cuda.get_device_name(0)
    needs, ends = dependencies(todo), {}
    free = [0.0] * len(devices)
    known = True
    for pack in todo:
        took, measured = speeds.seconds(pack.units[0].stage, len(pack.units), device)
        known &= measured
        start = max([free[0], *(ends[name] for name in needs[pack.name] if name in ends)])
        free[0] = ends[pack.name] = start + took
        free.sort()
    return max(free), known


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


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
