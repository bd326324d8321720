"""The views of a sweep in a terminal: its status as a table, and the logs of a cell."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lt_sweeps.config.durations import readable
from lt_sweeps.config.spelling import nearest
from lt_sweeps.execution.slurm.squeue import Batch, batches, output
from lt_sweeps.execution.status import AT_WORK, STATES, Status
from lt_sweeps.storage.dropped_tickets import dropped_sentence
from lt_sweeps.storage.manifest import UnitName
from lt_sweeps.storage.record import ALL_DIVERGED
from lt_sweeps.storage.sweep_folder import SweepFolder

_COLOURS: dict[str, str] = dict(
    zip(STATES, ("green", "cyan", "yellow", "red", "magenta"), strict=True)
)
_MOST_SEEDS = 12  # columns; with more seeds only sums are shown
_MOST_CELLS = 40  # the most cells that are listed
_MOST_FAILURES = 20  # the most failures that are listed


def show_status(sweep: SweepFolder, console: Console, *, watch: float | None = None) -> int:
    """Print the status of a sweep; with `watch` (seconds), repeatedly while the sweep runs."""
    found, names = Status.of(sweep), cell_names(sweep)
    if watch is None:
        console.print(_shown(found, names))
        return found.exit_status
    with Live(_shown(found, names), console=console, auto_refresh=False) as live:
        while found.exit_status == AT_WORK:
            time.sleep(watch)
            found = Status.of(SweepFolder(sweep.folder))
            live.update(_shown(found, names), refresh=True)
    return found.exit_status


def read_logs(sweep: SweepFolder, cell: str) -> Iterator[str]:
    """Yield the logs of a cell: those of the packs that train it, and of their jobs.

    Raises:
        ValueError: the sweep has no such cell.
    """
    number = _cell(sweep, cell)
    wanted = set(sweep.manifest.cells[number].units)
    advancing = [pack for pack in sweep.manifest.packs if wanted.intersection(pack.units)]
    names = {pack.name for pack in advancing}
    paths = [sweep.log(pack.name) for pack in [*advancing, *sweep.packs(names)]]
    paths += [Path(note.log) for unit, note in sweep.failures().items() if unit in wanted]
    for batch in batches(sweep):
        tasks = [n for n, packs in enumerate(batch.tasks) if names.intersection(packs)]
        paths += [output(sweep, batch, task) for task in tasks]
    texts = {path: text for path in dict.fromkeys(paths) if (text := _log(path))}
    if not texts:
        yield f"{sweep.manifest.cells[number].name}: nothing was logged while it was trained"
    for path, text in texts.items():
        yield f"==> {path} <=="
        yield text


def cell_names(sweep: SweepFolder) -> list[str]:
    """The name of each cell in the report, with its seed."""
    from lt_sweeps.analysis.sweep_analysis import line_names  # needs a second: statistics

    pairs = zip(line_names(sweep), sweep.manifest.cells, strict=True)
    return [f"{line} seed {cell.seed}" for line, cell in pairs]


def _log(path: Path) -> str:
    """The text of a log without trailing blank lines; empty if it cannot be read."""
    with suppress(OSError):
        return path.read_text(errors="replace").rstrip()
    return ""


def _last_word(path: Path) -> str:
    """The last line of a job's output that may say why the job ended, or nothing.

    Slurm's own line comes before the lines that list unfinished packs.
    """
    lines = map(str.strip, reversed(_log(path).splitlines()))
    return next((line for line in lines if line and not line.endswith(": not done")), "")


def _cell(sweep: SweepFolder, cell: str) -> int:
    names = [cell.name for cell in sweep.manifest.cells]
    numbered = cell.isdigit() and len(cell) < 8  # a signature has 16 characters
    if numbered and int(cell) < len(names):
        return int(cell)
    found = [number for number, name in enumerate(names) if name.startswith(cell)]
    if found and cell and not numbered:
        return found[0]
    called = cell_names(sweep)
    if cell in called:
        return called.index(cell)
    last = len(names) - 1
    raise ValueError(
        f"logs: got {cell!r}; give a number or a name of a cell as `status` shows them for "
        f"{sweep.folder.name}: 0 to {last}, {called[0]!r}; or SIGNATURE/SEED, such as {names[0]}"
        f"{nearest(cell, called)}"
    )


def _shown(found: Status, names: Sequence[str]) -> Group:
    counts = Counter(found.states.values())
    head = Text(f"{found.sweep.folder.name}: ", style="bold")
    head.append(f"{len(found.finished)} of {len(found.cells)} cells done")
    for state in STATES:
        if counts[state]:
            head.append(f", {counts[state]} trainings ", style="").append(state, _COLOURS[state])
    if (left := found.seconds_left()) is not None and counts["running"]:
        head.append(f", about {readable(left)} to go")
    damaged = [Text(f"damaged: {fault}", "red") for fault in found.faults[:_MOST_FAILURES]]
    diverged = [Text(ALL_DIVERGED, "red")] if found.diverged else []
    units = [unit for cell in found.cells for unit in cell.units]
    gone = [Text(line) for line in [dropped_sentence(found.sweep.root, units)] if line]
    numbers = [Text(line, style="dim") for line in _numbered(names)]
    states = (*_at_work(found), *_waiting(found), *_failed(found), *_lost(found))
    notes = (*numbers, *gone, *diverged, *states, *damaged)
    return Group(head, _table(found), *notes)


def _numbered(names: Sequence[str]) -> Iterator[str]:
    """List the number and the name of each cell, up to a limit."""
    for number, name in list(enumerate(names))[:_MOST_CELLS]:
        yield f"cell {number}: {name}"
    if len(names) > _MOST_CELLS:
        last = len(names) - 1
        yield f"cells {_MOST_CELLS} to {last}: in the same order; `logs` accepts the name too"


def _table(found: Status) -> Table:
    grid, collapsed = found.grid(), found.collapsed()
    seeds = list(dict.fromkeys(seed for _, seed in grid))
    shown = seeds if len(seeds) <= _MOST_SEEDS else []
    table = Table(box=None, padding=(0, 1))
    counts = Counter(found.states.values())
    states = [state for state in STATES if counts[state] or state == STATES[0]]
    lost = ["collapsed"] if any(collapsed.values()) else []
    for name in ("level", *(f"s{seed}" for seed in shown), *states, *lost):
        table.add_column(name, justify="right", no_wrap=True)
    for level in sorted({level for level, _ in grid}):
        row = [_done_count(found, grid.get((level, seed), [])) for seed in shown]
        here = Counter(found.states[unit] for seed in seeds for unit in grid.get((level, seed), []))
        sums = [Text(str(here[state] or ""), _COLOURS[state]) for state in states]
        table.add_row(str(level), *row, *sums, *(str(collapsed.get(level) or "") for _ in lost))
    return table


def _done_count(found: Status, members: Sequence[UnitName]) -> Text:
    """The number of these units that are done, in the colour of the worst state."""
    states = [found.states[unit] for unit in members]
    worst = max(states, key=STATES.index, default=STATES[0])
    return Text(f"{states.count(STATES[0])}/{len(states)}", _COLOURS[worst])


def _at_work(found: Status) -> Iterator[Text]:
    stages = found.sweep.manifest.stages
    for worker, about in found.working.items():
        for name, pack in about.packs.items():
            end = stages[pack.units[0][0]].end
            at = f"step {pack.step:,} of {end:,}"
            yield Text(f"  {name} on {about.host} ({worker}): {at}", style="dim")


def _waiting(found: Status) -> Iterator[Text]:
    """Slurm's reasons for waiting jobs: a job that requests too much may never start."""
    if found.reasons:
        why = ", ".join(f"{number} for {reason}" for reason, number in found.reasons.items())
        yield Text(f"  jobs that wait in Slurm's queue: {why}", style="dim")


def _failed(found: Status) -> Iterator[Text]:
    broken = found.broken_cells()
    for unit, cells in list(broken.items())[:_MOST_FAILURES]:
        note, stage = found.failures[unit], found.sweep.manifest.stages[unit[0]]
        which = ", ".join(map(str, cells[:5])) + (", ..." if len(cells) > 5 else "")
        labels = found.cells[cells[0]].labels
        science = labels.get("mask_criterion") or labels.get("method")
        about = " ".join(filter(None, [labels.get("model"), science]))
        where = f"({about}, seed {unit[1]}) at level {stage.level}"
        yield Text(f"failed: cell {which} {where}", style="red")
        last_line = _log(Path(note.log)).rpartition("\n")[2].strip()
        yield Text(f"  {last_line or note.reason}")
        yield Text(f"  {note.log}", style="dim")
    if len(broken) > _MOST_FAILURES:
        yield Text(f"  and {len(broken) - _MOST_FAILURES} more", style="red")


def _lost(found: Status) -> Iterator[Text]:
    """The lost jobs, grouped by their last words: hundreds may depend on one that failed."""
    alike: dict[tuple[bool, str], list[tuple[Batch, int, str]]] = {}
    for batch, task in found.lost():
        said = _last_word(output(found.sweep, batch, task))
        reason = re.sub(r"\d+", "", said)  # ignore ids and times
        alike.setdefault((batch.canary, reason), []).append((batch, task, said))
    for (canary, _), jobs in list(alike.items())[:_MOST_FAILURES]:
        batch, task, said = jobs[0]
        which = f"{'canary' if canary else 'job'} {batch.id}_{task}"
        others = f" and {len(jobs) - 1} more have" if len(jobs) > 1 else " has"
        yield Text(f"lost: {which}{others} left the queue unfinished", "magenta")
        if said:
            yield Text(f"  {said}")
            yield Text(f"  {output(found.sweep, batch, task)}", style="dim")
        else:
            yield Text("  no output: an earlier job failed, or this job was cancelled")
    if len(alike) > _MOST_FAILURES:
        yield Text(f"  and {len(alike) - _MOST_FAILURES} more", style="magenta")
