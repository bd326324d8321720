"""Read what a sweep or a whole root has produced, from its plain-text files only (no torch).

A record line that cannot be read stops the report; the one line left out, and said so, is the
half-written last line of a cell that is not done: its writer is still at it, or will repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

Row = Mapping[str, Any]

# What the report cannot do without; the metric asked for joins them.
TYPES: dict[str, type | tuple[type, ...]] = {
    "cell": str,
    "seed": (str, int),
    "level": int,
    "stage": str,
    "target_sparsity": (float, int, type(None)),
    "sparsity": (float, int),
    "weights_remaining": int,
    "weights_total": int,
    "finite": bool,
    "collapsed": bool,
}
# Keys of a job config that say where and how fast, or which replicate; never what is computed.
ASIDE = frozenset(
    {
        *("seed", "seeds", "root", "data_dir", "device", "stack_size", "workers", "lowering"),
        *("checkpoint_every", "name", "dry_run", "tracker", "experiment", "hydra"),
    }
)


@dataclass(frozen=True)
class Cell:
    """One cell on disk: what was chosen, the rows it has so far, and whether it is done.

    `settings` is the resolved config with dotted keys, without the keys in `ASIDE`.
    """

    signature: str
    seed: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Reading:
    """Every cell of a sweep or of a root, and what the reader should know about the files."""

    name: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    @property
    def unfinished(self) -> str:
        """`3 of 15 cells unfinished`, or nothing when all are done."""
        left = sum(not cell.done for cell in self.cells)
        return f"{left} of {len(self.cells)} cells unfinished" if left else ""


def read(where: Path, *, metric: str) -> Reading:
    """Read the cells of a sweep folder (one with manifest.json) or of a whole root.

    Raises: ValueError with one line per thing that cannot be read.
    """
    faults: list[str] = []
    notes: list[str] = []
    cells = [
        _cell(folder, entry, metric=metric, faults=faults, notes=notes)
        for folder, entry in _folders(where)
    ]
    if faults:
        raise ValueError("\n".join(faults))
    known = list(_known(cells))
    if not (where / "manifest.json").is_file():
        # A sweep keeps the order in which it was written; a root's folders have only hashes.
        known.sort(key=lambda cell: (str(cell.choices), cell.signature))
    return Reading(where.resolve().name, tuple(known), tuple(notes))


def _folders(where: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The run folder of each cell, with what the manifest says of it."""
    if (where / "manifest.json").is_file():
        root = where.resolve().parent.parent
        entries = {(e["signature"], str(e["seed"])): e for e in _manifest(where / "manifest.json")}
        for (signature, seed), entry in entries.items():
            yield root / "runs" / signature / seed, entry
    elif where.is_dir() and (not any(where.iterdir()) or _is_root(where)):
        for folder in sorted(where.glob("runs/*/*")):
            if folder.is_dir():
                yield folder, {"signature": folder.parent.name, "seed": folder.name}
    else:
        raise ValueError(
            f"report: `{where}` is neither; allowed are a sweep's folder (it holds manifest.json) "
            "and a root (it holds runs/)"
        )


def _is_root(where: Path) -> bool:
    return any((where / name).is_dir() for name in ("runs", "sweeps", "tickets"))


def _manifest(path: Path) -> list[Mapping[str, Any]]:
    try:
        cells = json.loads(path.read_text())["cells"]
        if all({"signature", "seed"} <= set(cell) for cell in cells):
            return cells
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path}: not a sweep's manifest; it is a JSON object with `cells`, a list of objects with "
        "`signature` and `seed`"
    )


def _cell(
    folder: Path, entry: Mapping[str, Any], *, metric: str, faults: list[str], notes: list[str]
) -> Cell:
    signature, seed = entry["signature"], str(entry["seed"])
    done = (folder / "DONE").exists()
    rows = tuple(_rows(folder, metric=metric, done=done, faults=faults, notes=notes))
    path = folder / "config.yaml"
    # The manifest may hold a queued cell's choices before the cell has a folder.
    said: Any = entry
    if path.exists():
        try:
            said = yaml.safe_load(path.read_text())
        except yaml.YAMLError:
            said = None
        if not isinstance(said, dict) or not {"choices", "config"} <= set(said):
            faults.append(f"{path}: not a cell's config; it holds `choices` and `config`")
            said = {}
    elif rows and "choices" not in entry:
        faults.append(f"{path}: missing; records.jsonl beside it cannot be placed without it")
    choices = {
        group: option
        for group, option in (said.get("choices") or {}).items()
        if group not in ASIDE and not group.startswith("hydra")
    }
    return Cell(signature, seed, choices, _flat(said.get("config") or {}), rows, done)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key in ASIDE:
            continue
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _known(cells: list[Cell]) -> Iterator[Cell]:
    """What is known of a started cell holds for a queued one of its signature: all but the seed."""
    known = {cell.signature: cell for cell in cells if cell.choices}
    for cell in cells:
        like = known.get(cell.signature, cell)
        yield replace(cell, choices=like.choices, settings=cell.settings or like.settings)


def _rows(
    folder: Path, *, metric: str, done: bool, faults: list[str], notes: list[str]
) -> Iterator[Row]:
    path = folder / "records.jsonl"
    if not path.exists():
        if done:
            faults.append(f"{path}: missing, though the cell is DONE")
        return
    lines = path.read_bytes().decode(errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            return
        row, fault = _row(line, folder, metric)
        if row is not None:
            yield row
        elif number == len(lines) and not done and fault.startswith("not valid JSON"):
            notes.append(f"{path}:{number}: half-written line of an unfinished cell, left out")
        else:
            faults.append(f"{path}:{number}: {fault}")


def _row(line: str, folder: Path, metric: str) -> tuple[Row | None, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        return None, f"not valid JSON ({error})"
    fault = _fault(row, metric)
    if not fault and (row["cell"], str(row["seed"])) != (folder.parent.name, folder.name):
        fault = f"a record of cell {row['cell']} seed {row['seed']}; its folder says otherwise"
    return (None, fault) if fault else (row | {"seed": str(row["seed"])}, "")


def _fault(row: Any, metric: str) -> str:
    """What keeps a parsed line from being a record; nothing if it is one."""
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; a record is an object"
    if missing := sorted({*TYPES, metric} - set(row)):
        return f"no {missing}; a record has them all"
    for key, kind in TYPES.items():
        # bool is an int to Python, never to a record
        if not isinstance(row[key], kind) or (isinstance(row[key], bool) and kind is not bool):
            return f"`{key}` is {row[key]!r}"
    if not (0 <= row["weights_remaining"] <= row["weights_total"] and row["weights_total"]):
        return f"`weights_remaining` is {row['weights_remaining']} of {row['weights_total']}"
    value = row[metric]
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        return f"`{metric}` is {value!r}; a number or null"
    if value is None and row["finite"]:
        return f"`{metric}` is null though `finite` is true"
    if value is not None and metric.endswith("accuracy") and row["finite"] and not 0 <= value <= 1:
        return f"`{metric}` is {value}; an accuracy lies in [0, 1]"
    return ""
