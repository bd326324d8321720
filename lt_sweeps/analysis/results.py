"""Read what a sweep or a whole root has produced, from its plain-text files only (no torch).

A record line that cannot be read stops the report; the one line left out, and said so, is the
half-written last line of a cell that is not done: its writer is still at it, or will repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.keys import MACHINE_KEYS
from lt_sweeps.config.report_config import METRICS

Row = Mapping[str, Any]
_OF_A_RUN = ("config.yaml", "records.jsonl", "DONE")

# What the report cannot do without; the metrics asked for join them.
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
# Keys and groups of a config that change no result.
ASIDE = {*MACHINE_KEYS, "experiment", "hydra"}


@dataclass(frozen=True)
class CellResults:
    """One cell on disk: what was chosen, the rows it has so far, and whether it is done.

    `settings` is the resolved config with dotted keys, without the keys in `ASIDE`. `rows` are its
    results; `search` are the trainings that it took to find them, where they are none themselves.
    """

    signature: str
    seed: str
    choices: Mapping[str, str | None]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...] = ()
    search: tuple[Row, ...] = ()
    done: bool = False
    experiment: str = "default"


@dataclass(frozen=True)
class Results:
    """Every cell of a sweep or of a root, and what the reader should know about the files.

    `layouts` is what each experiment's yaml says of its report; a root has none.
    """

    name: str
    cells: tuple[CellResults, ...]
    notes: tuple[str, ...] = ()
    root: Path = Path()
    layouts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def unfinished(self) -> str:
        """`3 of 15 cells unfinished`, or nothing when all are done."""
        left = sum(not cell.done for cell in self.cells)
        return f"{left} of {len(self.cells)} cells unfinished" if left else ""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of the code that made the rows."""
        found = {
            row.get("code_version") for cell in self.cells for row in (*cell.rows, *cell.search)
        }
        return tuple(sorted(str(version) for version in found if version))


def read(where: Path, *, metrics: Collection[str]) -> Results:
    """Read the cells of a sweep folder (one with manifest.json) or of a whole root.

    Raises: ValueError with one line per thing that cannot be read.
    """
    faults: list[str] = []
    notes: list[str] = []
    cells = [
        _cell(folder, entry, metrics=metrics, faults=faults, notes=notes)
        for folder, entry in _folders(where)
    ]
    if faults:
        raise ValueError("\n".join(faults))
    known = list(_known(cells))
    here = where.resolve()
    if (where / "manifest.json").is_file():
        return Results(here.name, tuple(known), tuple(notes), here.parent.parent, layouts(where))
    # A sweep keeps the order in which it was written; a root's folders have only hashes.
    known.sort(key=lambda cell: (str(cell.choices), cell.signature))
    root = here.parent.parent if _is_cell(where) else here
    return Results(here.name, tuple(known), tuple(notes), root)


def layouts(where: Path) -> Mapping[str, Mapping[str, Any]]:
    """What each experiment of a sweep says of its report; nothing where `where` is a root."""
    path = where / "manifest.json"
    return _manifest(path).get("reports", {}) if path.is_file() else {}


def _folders(where: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The run folder of each cell, with what the manifest says of it."""
    if (where / "manifest.json").is_file():
        root = where.resolve().parent.parent
        entries = {
            (e["signature"], str(e["seed"])): e for e in _manifest(where / "manifest.json")["cells"]
        }
        for (signature, seed), entry in entries.items():
            yield root / "runs" / signature / seed, entry
    elif where.is_dir() and (not any(where.iterdir()) or _is_root(where) or _is_cell(where)):
        for folder in sorted(where.glob("*" if _is_cell(where) else "runs/*/*")):
            if any((folder / name).is_file() for name in _OF_A_RUN):  # and not a cell's report
                yield folder, {"signature": folder.parent.name, "seed": folder.name}
    else:
        raise ValueError(
            f"report: `{where}` is neither; allowed are a sweep's folder (it holds manifest.json), "
            "a root (it holds runs/) and a cell's folder in runs/"
        )


def _is_cell(where: Path) -> bool:
    return where.resolve().parent.name == "runs"


def _is_root(where: Path) -> bool:
    return any((where / name).is_dir() for name in ("runs", "sweeps", "tickets"))


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads(path.read_text())
        if all({"signature", "seed"} <= set(cell) for cell in manifest["cells"]):
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path}: not a sweep's manifest; it is a JSON object with `cells`, a list of objects with "
        "`signature` and `seed`"
    )


def _cell(
    folder: Path,
    entry: Mapping[str, Any],
    *,
    metrics: Collection[str],
    faults: list[str],
    notes: list[str],
) -> CellResults:
    signature, seed = entry["signature"], str(entry["seed"])
    done = (folder / "DONE").exists()
    rows = tuple(_rows(folder, metrics=metrics, done=done, faults=faults, notes=notes))
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
    chosen = said.get("choices") or {}
    choices = {
        group: option
        for group, option in chosen.items()
        if group not in ASIDE and not group.startswith("hydra")
    }
    settings = _flat(said.get("config") or {})
    experiment = chosen.get("experiment") or "default"
    results = tuple(row for row in rows if row.get("kind") != "search")
    search = tuple(row for row in rows if row.get("kind") == "search")
    return CellResults(signature, seed, choices, settings, results, search, done, experiment)


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


def _known(cells: list[CellResults]) -> Iterator[CellResults]:
    """What is known of a started cell holds for a queued one of its signature: all but the seed."""
    known = {cell.signature: cell for cell in cells if cell.choices}
    for cell in cells:
        like = known.get(cell.signature, cell)
        yield replace(cell, choices=like.choices, settings=cell.settings or like.settings)


def _rows(
    folder: Path, *, metrics: Collection[str], done: bool, faults: list[str], notes: list[str]
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
        row, fault = _row(line, folder, metrics)
        if row is not None:
            yield row
        elif number == len(lines) and not done and fault.startswith("not valid JSON"):
            notes.append(f"{path}:{number}: half-written line of an unfinished cell, left out")
        else:
            faults.append(f"{path}:{number}: {fault}")


def _row(line: str, folder: Path, metrics: Collection[str]) -> tuple[Row | None, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        return None, f"not valid JSON ({error})"
    fault = _fault(row, metrics)
    if not fault and (row["cell"], str(row["seed"])) != (folder.parent.name, folder.name):
        fault = f"a record of cell {row['cell']} seed {row['seed']}; its folder says otherwise"
    return (None, fault) if fault else (row | {"seed": str(row["seed"])}, "")


def _fault(row: Any, metrics: Collection[str]) -> str:
    """What keeps a parsed line from being a record; nothing if it is one."""
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}; a record is an object"
    if missing := sorted({*TYPES, *metrics} - set(row)):
        return f"no {missing}; a record has them all"
    for key, kind in TYPES.items():
        # bool is an int to Python, never to a record
        if not isinstance(row[key], kind) or (isinstance(row[key], bool) and kind is not bool):
            return f"`{key}` is {row[key]!r}"
    if not (0 <= row["weights_remaining"] <= row["weights_total"] and row["weights_total"]):
        return f"`weights_remaining` is {row['weights_remaining']} of {row['weights_total']}"
    present = [metric for metric in METRICS if metric in row]
    return next(filter(None, (_odd(row, m, needed=m in metrics) for m in present)), "")


def _odd(row: Row, metric: str, *, needed: bool) -> str:
    """What is wrong with a metric's value; nothing if it may be one."""
    value = row[metric]
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        return f"`{metric}` is {value!r}; a number or null"
    if value is None and row["finite"] and needed and row.get("kind") != "mask":
        return f"`{metric}` is null though `finite` is true"
    if value is not None and metric.endswith("accuracy") and row["finite"] and not 0 <= value <= 1:
        return f"`{metric}` is {value}; an accuracy lies in [0, 1]"
    return ""
