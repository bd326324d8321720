"""`import`: write results of other code as a sweep with tickets and records like ours."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.errors import yaml_value
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.option_files import read_option
from lt_sweeps.config.spelling import listed, nearest
from lt_sweeps.interchange.importers.imported_level import ImportedLevel
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.record import MEASURED, Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder, is_folder_name
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_file import MASK


def import_(
    kind: str,
    path: Path,
    *,
    root: Path,
    name: str | None = None,
    config_dir: str | None = None,
    **options: str,
) -> Path:
    """Import results of other code as a sweep of `root`; returns the sweep's folder.

    `kind` is an option of `conf/importer`, or of that folder in `config_dir`. Its function gets
    `path` and, if it names it, `choices`; it returns an `ImportedLevel`, a list of them, or such a
    list and a list of lines to print. `options` are keys of the importer, and option names
    (`model=fc`) that let a figure compare imported cells with ours.

    Raises: ValueError: the kind or a key is unknown, or `path` holds nothing that can be read.
    """
    read = read_option("importer", kind, where="import", config_dir=config_dir)
    allowed = [*GROUPS, *(key for key in read if key != "_target_"), "root", "name"]
    for key in options:
        if key not in allowed:
            raise ValueError(
                f"import: no key {key}; it has {listed(allowed)}{nearest(key, allowed)}"
            )
    if name is not None and not is_folder_name(name):
        raise ValueError(f"name: {name!r} cannot name a folder; use letters, digits, . - and _")
    if not path.exists():
        raise ValueError(f"import: {path} does not exist")
    named = {key: option for key, option in options.items() if key in GROUPS}
    given = {key: yaml_value(key, text) for key, text in options.items() if key not in GROUPS}
    call = Call.of({**read, **given}, where="import", supplied=("path", "choices"))
    levels, notes = _levels(call(path=path, choices=named), call)
    levels = [
        replace(level, choices={**level.choices, **named}, state=_for_numpy(level.state))
        for level in levels
    ]
    named_after = re.sub(r"[^\w.-]", "_", path.absolute().stem) or "import"
    sweep = _write(levels, root, name or f"{kind}-{named_after}")
    for note in notes:
        print(note)
    return sweep.folder


def _for_numpy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert weights to types that reports can read without torch, so not bfloat16."""
    known = (torch.float16, torch.float32, torch.float64)
    return {
        name: t.float() if t.is_floating_point() and t.dtype not in known else t
        for name, t in state.items()
    }


def _levels(returned: Any, call: Call) -> tuple[list[ImportedLevel], list[str]]:
    """Split an importer's result into levels and lines to print."""
    levels, notes = returned if isinstance(returned, tuple) else (returned, [])
    levels = [levels] if isinstance(levels, ImportedLevel) else levels
    if not (isinstance(levels, list) and all(isinstance(n, ImportedLevel) for n in levels)):
        raise ValueError(
            f"import: `{call.target}` returned {type(returned).__name__}; give an ImportedLevel "
            "or a list of them"
        )
    if not levels:
        raise ValueError(f"import: `{call.target}` returned no levels")
    return levels, notes


def _write(imported: Sequence[ImportedLevel], root: Path, name: str) -> SweepFolder:
    """Write tickets first, then records, then the manifest that names them.

    Raises: ValueError: another sweep has this name, or other results for one of the cells.
    """
    by_cell = group_by(sorted(imported, key=lambda level: level.level), _signature_and_seed)
    store, cells, records = Store(root), list[FrozenCell](), dict[RunFolder, list[Record]]()
    for (signature, seed), levels in by_cell.items():
        stages = {_store_ticket(level, store): level for level in levels}
        cells.append(_frozen_cell(signature, stages))
        folder = RunFolder.of(root, signature, seed)
        records[folder] = [_record(level, stage, signature) for stage, level in stages.items()]
    sweep = SweepFolder(root / "sweeps" / name)
    content = digest([vars(cell) for cell in cells])
    previous = sweep.usable_manifest
    if previous is not None and previous.content != content:
        raise ValueError(f"name: {name!r} is taken by another sweep in {root}; choose another")
    _check_other_sweeps(records, root, name)
    for (folder, rows), levels in zip(records.items(), by_cell.values(), strict=True):
        folder.write_config(levels[0].choices, _config(levels[0]))
        folder.write(rows, complete=True)
    Manifest(name, "imported", content, tuple(cells)).write(sweep.path)
    return sweep


def _signature_and_seed(level: ImportedLevel) -> tuple[str, int]:
    return digest(["imported", dict(level.choices), dict(level.config)]), level.seed


def _config(level: ImportedLevel) -> dict[str, Any]:
    return {**level.config, "seed": level.seed}


def _frozen_cell(signature: str, stages: Mapping[str, ImportedLevel]) -> FrozenCell:
    """Return the cell of these levels, given by stage key."""
    first = next(iter(stages.values()))
    return FrozenCell(
        signature=signature,
        seed=str(first.seed),
        labels={**first.choices, "experiment": "imported"},
        config=Config(_config(first)),
        stages=tuple(stages),
        levels={stage: level.level for stage, level in stages.items() if level.mask},
    )


def _check_other_sweeps(
    records: Mapping[RunFolder, Sequence[Record]], root: Path, name: str
) -> None:
    """Raises: ValueError: a cell of another sweep holds other records than these."""
    others = _cells_of_others(root, name)
    for folder, rows in records.items():
        stored = folder.read().records
        if (owner := others.get(folder.path)) and stored and [*stored] != rows:
            raise ValueError(
                f"import: sweep {owner} has different results for seed {folder.path.name} of a "
                "file with this name; rename the file, or give another seed, model, dataset or "
                "method"
            )


def _cells_of_others(root: Path, name: str) -> dict[Path, str]:
    """Return the run folders of all other sweeps' cells, each with its sweep's name."""
    sweeps = [SweepFolder(path.parent) for path in root.glob("sweeps/*/manifest.json")]
    return {
        RunFolder.of(root, cell.signature, cell.seed).path: sweep.folder.name
        for sweep in sweeps
        if sweep.folder.name != name and (manifest := sweep.usable_manifest) is not None
        for cell in manifest.cells
    }


def _store_ticket(level: ImportedLevel, store: Store) -> str:
    """Store a level's ticket, if it has one, under a hash of its content; returns the key."""
    if not level.mask:
        content = [dict(level.choices), dict(level.config), level.seed, dict(level.metrics)]
        return digest(["imported", level.level, dict(level.left), *content])
    state = {name: tensor[None] for name, tensor in level.state.items()}
    ticket = Ticket(state, {name: tensor[None] for name, tensor in level.mask.items()}, level.step)
    masks = {MASK + name: tensor for name, tensor in level.mask.items()}
    content = {name: _checksum(tensor) for name, tensor in {**level.state, **masks}.items()}
    key = digest(["imported", dict(level.config), level.level, content])
    kept = _kept(level)
    about = {name: kept[name] for name in ("sparsity", "layers_remaining", "layers_total")}
    store.write(key, level.seed, ticket, {"level": level.level, "history": level.history, **about})
    return key


def _checksum(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _kept(level: ImportedLevel) -> dict[str, Any]:
    """Return the columns of a record that describe what a level's mask keeps."""
    left = {name: int(tensor.sum()) for name, tensor in level.mask.items()} or level.left
    total = {name: tensor.numel() for name, tensor in level.mask.items()} or level.total
    return {
        **Record.weight_columns(left, total),
        "sparsity": 1 - sum(left.values()) / sum(total.values()),
        "collapsed": 0 in left.values(),
    }


def _record(level: ImportedLevel, stage: str, signature: str) -> Record:
    """Return the record of a level; unknown fields are None."""
    measured: dict[str, Any] = {name: level.metrics.get(name) for name in MEASURED}
    finite = all(tensor.isfinite().all() for tensor in level.state.values())
    return Record(
        experiment="imported",
        cell=signature,
        seed=str(level.seed),
        **Record.option_columns(level.choices),
        level=level.level,
        stage=stage,
        kind=_kind(level),
        step=level.step,
        target_sparsity=level.target_sparsity,
        **_kept(level),
        report_at=level.report_at,
        reported_step=level.step,
        **measured,
        **{f"{level.report_at}_{name}": value for name, value in measured.items()},
        train_steps=level.step,
        finite=finite and all(map(math.isfinite, level.metrics.values())),
        code_version="imported",
    )


def _kind(level: ImportedLevel) -> Literal["train", "score", "mask"]:
    if level.metrics.get("test_accuracy") is None:
        return "mask"
    return "score" if level.choices.get("method") == "supermask" else "train"
