"""`export SWEEP`: write a sweep as tidy tables for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from lt_sweeps.analysis.results import Results, read_results
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.config.trust import trusted_modules
from lt_sweeps.execution import materialize
from lt_sweeps.interchange.effective_size import Size, network_size
from lt_sweeps.interchange.followed_paths import Unfollowed
from lt_sweeps.interchange.stored_plan import CURE, planned_run, planned_works
from lt_sweeps.interchange.ticket_speed import measured_speeds
from lt_sweeps.models.network import Network
from lt_sweeps.reporting.csv_tables import records_table
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.dropped_tickets import dropped_sentence
from lt_sweeps.storage.measured_speeds import MeasuredSpeed, Speeds, add_speeds, read_speeds
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.tracking.tracked_sweep import history


def export_tables(
    where: Path,
    *,
    out: Path | None = None,
    effective: str = "true",
    trust: str | None = None,
    speed: str = "false",
    batch: str = "256",
    n: str = "15",
) -> Path:
    """Export a sweep's folder or a root as tables; returns the folder that they are written to.

    The tables are `records` (a row per cell, seed and level) and `curves` (a row per evaluation),
    each as CSV and as parquet. With `effective`, records also have the columns of `Size`; this
    reads every ticket and builds its network, by functions of ours or of the modules in `trust`.
    With `speed`, the forward passes of a ticket's compact and dense networks are timed on `batch`
    examples, `n` times, for one seed of each curve and level.

    Raises: ValueError: an argument is wrong, nothing can be exported, or a file cannot be read.
    """
    wants_sizes, wants_speeds = _is_true("effective", effective), _is_true("speed", speed)
    counts = {name: _count(name, text) for name, text in {"batch": batch, "n": n}.items()}
    results = read_results(where, metrics=())
    drawn = [curve for found in analyses(results, {}).values() for curve in found.every_curve]
    rows = records_table(drawn)
    if not len(rows):
        raise ValueError(f"export: {where} has no records yet")
    if wants_sizes:
        modules = trusted_modules(trust)
        rows = rows.join(pd.DataFrame(_sizes(rows, results.root, modules), index=rows.index))
    if wants_speeds:
        _measure(rows, results.root, trusted_modules(trust), **counts)
    speeds = read_speeds(results.root)
    if any(name in speeds for name in zip(rows["stage"], rows["seed"], strict=True)):
        rows = rows.join(pd.DataFrame(_speed_columns(rows, speeds), index=rows.index))
    folder = where / "export" if out is None else Path(out)
    _write_tables(rows, results, folder)
    return folder


def _is_true(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"export: {name}={text}; give true or false")
    return text == "true"


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"export: {name}={text}; give a whole number, 1 or more")
    return int(text)


def _write_tables(rows: pd.DataFrame, results: Results, folder: Path) -> None:
    """Write records and curves; prints which tickets were dropped and what is unfinished."""
    for name, frame in {"records": rows, "curves": evaluations_table(rows, results.root)}.items():
        write_whole(folder / f"{name}.csv", frame.to_csv(index=False).encode())
        write_whole(folder / f"{name}.parquet", frame.to_parquet(index=False))
    if gone := dropped_sentence(results.root, zip(rows["stage"], rows["seed"], strict=True)):
        print(gone)
    if results.unfinished:
        print(f"{results.name}: {results.unfinished}; exported as far as it goes")
    print(f"{folder}: records and curves as .csv and .parquet")


def evaluations_table(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Return a row for every evaluation of every training, with columns that name the training.

    Raises: ValueError: a ticket cannot be read.
    """
    names = ["curve", "cell", "seed", "level", "stage"]
    try:
        evaluations = [
            {**training, **evaluation}
            for training in rows.loc[:, names].to_dict(orient="records")
            for evaluation in history(root / "tickets" / training["stage"], training["seed"])
        ]
    except CorruptTicket as error:
        raise ValueError(f"{error}; {CURE}") from None
    return pd.DataFrame(evaluations, columns=None if evaluations else [*names, "step"])


def _sizes(rows: pd.DataFrame, root: Path, trust: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the columns of `Size` for each row; empty if the network or the ticket is missing."""
    empty = dict.fromkeys(Size.__dataclass_fields__)
    sizes: dict[tuple[str, str], dict[str, Any]] = {}  # by training, because cells may share one
    reasons: dict[str, None] = {}
    for row in _trainings(rows):
        training = row["stage"], row["seed"]
        if training not in sizes:
            network, ticket = _network_and_ticket(row, root, trust)
            sizes[training] = empty
            if ticket is not None and ticket.learned:
                reasons["effective size: left empty where a mask is learned, not yet fixed"] = None
            elif network is not None and ticket is not None:
                try:
                    sizes[training] = asdict(network_size(network, _present(ticket)))
                except Unfollowed as error:
                    reason = f"effective size: {network.net}: left empty, because {error}"
                    reasons[reason] = None
        yield sizes[training]
    for reason in reasons:
        print(reason)


def _present(ticket: Ticket) -> dict[str, Tensor]:
    """Return the prunable weights that take part: kept, or pinned to a value other than 0."""
    return {name: mask[0] | (ticket.state[name][0] != 0) for name, mask in ticket.mask.items()}


def _measure(rows: pd.DataFrame, root: Path, trust: tuple[str, ...], *, batch: int, n: int) -> None:
    """Measure the tickets of one seed of each curve and level; stores the speeds in `root`."""
    found: list[MeasuredSpeed] = []
    first = rows.loc[rows["level"] > 0].drop_duplicates(["curve", "stage"])
    for row in _trainings(first):
        network, ticket = _network_and_ticket(row, root, trust)
        if network is None or ticket is None:
            continue
        name = {"stage": row["stage"], "seed": row["seed"]}
        try:
            found += measured_speeds(ticket, network, **name, batch=batch, n=n)
        except ValueError as error:
            print(f"speed: {row['stage']}/{row['seed']}: not measured: {error}")
    add_speeds(root, found)


def _trainings(rows: pd.DataFrame) -> list[dict[str, str]]:
    return rows.loc[:, ["cell", "stage", "seed"]].to_dict(orient="records")


def _network_and_ticket(
    row: Mapping[str, str], root: Path, trust: tuple[str, ...]
) -> tuple[Network | None, Ticket | None]:
    """Return the network and the ticket of a row's training; None for either if missing.

    For a network that was only scored, the ticket is the one that it started from.
    """
    cell, stage, seed = row["cell"], row["stage"], row["seed"]
    work = planned_works(root, cell, trust).get(stage)
    if work is None:
        return None, None
    try:
        if work.stores_ticket:
            return work.network, Store(root).read(stage, seed)
        own = planned_run(root, cell, seed, trust).seed
        return work.network, materialize.ticket(work.start, own, Store(root))
    except (FileNotFoundError, materialize.Missing):
        return work.network, None
    except CorruptTicket as error:
        raise ValueError(f"{error}; {CURE}") from None


def _speed_columns(rows: pd.DataFrame, speeds: Speeds) -> Iterator[dict[str, Any]]:
    """Yield the columns of the speeds for each row, by form; empty if none was measured."""
    names = ("speedup", "dense_seconds", "seconds", "batch", "n", "threads", "device", "date")
    forms = sorted({speed.form for own in speeds.values() for speed in own})
    empty = {f"{form}_{name}": None for form in forms for name in names}
    for name in zip(rows["stage"], rows["seed"], strict=True):
        own = {f"{s.form}_{n}": getattr(s, n) for s in speeds.get(name, ()) for n in names}
        yield {**empty, **own}
