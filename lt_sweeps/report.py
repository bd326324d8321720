"""Report a sweep or a root: a table in the terminal, records.csv, summary.csv and a figure.

It reads manifest.json, config.yaml and records.jsonl, and nothing of the framework: it runs where
torch is not installed, while the sweep is still running, and on files copied from elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from lt_sweeps.curves import curves
from lt_sweeps.figure import draw
from lt_sweeps.points import BANDS
from lt_sweeps.reading import Reading, read
from lt_sweeps.table import heading, records, summary, tables

METRICS = (
    *(
        f"{when}{split}_{what}"
        for when in ("", "end_", "best_")
        for split in ("test", "val")
        for what in ("accuracy", "loss")
    ),
    *("reported_step", "best_step", "train_steps", "seconds"),
)


def report(
    where: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    band: str = "range",
    metric: str = "test_accuracy",
) -> Path:
    """Print and write the report of a sweep's folder or of a whole root; returns its folder.

    The folder is `out`, or `report/` inside `where`. What is unfinished is drawn as far as it goes,
    and said so.

    Raises: ValueError for a wrong argument, and for every file or line that cannot be read.
    """
    where = Path(where)
    _check("band", band, tuple(BANDS))
    _check("metric", metric, METRICS)
    reading = read(where, metric=metric)
    drawn = curves(reading.cells, metric=metric)
    folder = where / "report" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    picture = "accuracy.png" if metric == "test_accuracy" else f"{metric}.png"
    _write(folder / "records.csv", records(drawn).to_csv(index=False).encode())
    _write(folder / "summary.csv", summary(drawn, metric=metric).to_csv(index=False).encode())
    _write(folder / picture, draw(drawn, band=band, metric=metric, unfinished=reading.unfinished))
    console = Console() if console is None else console
    title = heading(reading.name, reading.unfinished, band=band, metric=metric)
    for table in tables(drawn, title=title, band=band, metric=metric, width=console.width):
        console.print(table)
    _print_rest(console, reading, empty="" if drawn else title)
    console.print(f"{folder}: records.csv, summary.csv, {picture}", markup=False, soft_wrap=True)
    return folder


def _check(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"report: `{what}` is {given!r}; allowed are {', '.join(allowed)}")


def _print_rest(console: Console, reading: Reading, *, empty: str) -> None:
    if empty:
        console.print(f"{empty}\nno records yet", markup=False, soft_wrap=True)
    for note in reading.notes:
        console.print(note, markup=False, soft_wrap=True)


def _write(path: Path, content: bytes) -> None:
    """Write whole: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
