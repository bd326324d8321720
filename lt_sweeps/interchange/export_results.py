"""`export`: a sweep as tidy tables, a ticket in the forms that other code reads."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lt_sweeps.analysis.results import read
from lt_sweeps.analysis.sweep_analysis import findings
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.interchange import ticket_formats as forms
from lt_sweeps.interchange.effective_size import Size, size
from lt_sweeps.models.network import Network
from lt_sweeps.plan.planning import planned_cell
from lt_sweeps.reporting.result_tables import records
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.store import CorruptTicket, Store
from lt_sweeps.tracking.tracked_runs import history


def export(
    where: Path, *, out: Path | None = None, form: str = "", effective: str = "true"
) -> Path:
    """Export a sweep's folder or a root as tables, or a ticket's file in a form.

    Tables are `records` (a row per cell, seed and level) and `curves` (a row per evaluation), each
    as CSV and as parquet, in the folder `out`; `effective` counts what lies on live paths, which
    takes every ticket into the hand. Returns where it is.

    Raises: ValueError: a wrong argument, nothing to export, or files that cannot be read.
    """
    where = Path(where)
    if where.is_file():
        return _ticket(where, form or "state_dict", out)
    if form:
        raise ValueError(f"export: form={form} is for a ticket; {where} is a folder")
    if effective not in ("true", "false"):
        raise ValueError(f"export: effective={effective}; it is true or false")
    reading = read(where, metrics=())
    drawn = [curve for found in findings(reading, {}).values() for curve in found.curves]
    rows = records(drawn)
    if not len(rows):
        raise ValueError(f"export: {where} has no records yet")
    root = where.resolve().parent.parent if (where / "manifest.json").exists() else where
    if effective == "true":
        rows = rows.join(pd.DataFrame(_sizes(rows, root), index=rows.index))
    folder = where / "export" if out is None else Path(out)
    for name, frame in {"records": rows, "curves": _curves(rows, root)}.items():
        write_whole(folder / f"{name}.csv", frame.to_csv(index=False).encode())
        write_whole(folder / f"{name}.parquet", frame.to_parquet(index=False))
    if reading.unfinished:
        print(f"{reading.name}: {reading.unfinished}; exported as far as it goes")
    print(f"{folder}: records and curves as .csv and .parquet")
    return folder


def _ticket(path: Path, form: str, out: Path | None) -> Path:
    seed, _, moment = path.stem.partition("@")
    key, root = path.parent.name, path.resolve().parent.parent.parent
    if path.suffix != ".safetensors" or path.parent.parent.name != "tickets":
        raise ValueError(f"export: {path} is no ticket; it is ROOT/tickets/STAGE/SEED.safetensors")
    place = Path(out) if out is not None else Path(f"{key}-{path.stem}-{form}.pt")
    try:
        forms.write(Store(root).read(key, seed, moment or "end"), form, place)
    except CorruptTicket as error:
        raise ValueError(f"{path}: {error}; it has been set aside, run the sweep again") from None
    print(f"{place}: {form}")
    return place


def _curves(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Every evaluation of every training, with what tells the trainings apart."""
    about = ["curve", "cell", "seed", "level", "stage"]
    found = [
        {**place, **at}
        for place in rows.loc[:, about].to_dict(orient="records")
        for at in history(root / "tickets" / place["stage"], place["seed"])
    ]
    return pd.DataFrame(found, columns=None if found else [*about, "step"])


def _sizes(rows: pd.DataFrame, root: Path) -> Iterator[dict[str, Any]]:
    """The columns of `Size` for each row; empty where the network or the ticket is not there."""
    store, empty = Store(root), dict.fromkeys(Size.__dataclass_fields__)

    @functools.cache
    def of(cell: str, stage: str, seed: str) -> Mapping[str, Any]:
        network = _networks(root, cell).get(stage)
        if network is None or not store.has(stage, seed):
            return empty
        ticket = store.read(stage, seed)
        # A weight that is pruned but pinned to a value is there.
        there = {n: mask[0] | (ticket.state[n][0] != 0) for n, mask in ticket.mask.items()}
        return size(network, there).columns()

    for place in rows.loc[:, ["cell", "stage", "seed"]].to_dict(orient="records"):
        yield dict(of(**place))


@functools.cache
def _networks(root: Path, cell: str) -> Mapping[str, Network]:
    """The network of each training of a cell that was planned here; imported ones have none."""
    for path in sorted(root.glob(f"runs/{cell}/*/config.yaml")):
        said = yaml.safe_load(path.read_text())
        if "method" in said["config"]:
            planned = planned_cell(Cell(Config(said["config"]), said["choices"], ()))
            return {stage.key: stage.network for stage in planned.trainings}
    return {}
