"""`import`: what others have computed, as a sweep with the same tickets and records as ours."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from lt_sweeps.config.call import digest, nearest
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.execution.records import put
from lt_sweeps.interchange.importers.imported_level import ImportedLevel
from lt_sweeps.interchange.importers.mask_file import mask
from lt_sweeps.interchange.importers.open_lth_folder import open_lth
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import FORMAT, SweepFolder
from lt_sweeps.storage.ticket import Ticket, remaining, sparsity

KINDS = ("open_lth", "mask")
_METRICS = ("test_accuracy", "test_loss", "val_accuracy", "val_loss")


def import_(kind: str, path: Path, *, root: Path, name: str | None = None, **given: str) -> Path:
    """Import an `open_lth` folder or a `mask` as a sweep of `root`; returns the sweep's folder.

    `given` are names of options (`model=fc`, `mask_criterion=large_final`) by which it joins cells
    of ours in a figure; for a mask also `seed`, `level` and what was measured (`test_accuracy`).

    Raises: ValueError: an unknown kind or key, or nothing there that can be read.
    """
    if kind not in KINDS:
        raise ValueError(f"import: {kind}; it is one of {[*KINDS]}{nearest(kind, KINDS)}")
    numbers = ("seed", "level", *_METRICS) if kind == "mask" else ()
    for key in given:
        if key not in (*GROUPS, *numbers):
            allowed = [*GROUPS, *numbers, "root", "name"]
            raise ValueError(f"import: no key {key}; it has {allowed}{nearest(key, allowed)}")
    if not path.exists():
        raise ValueError(f"import: {path} is not there")
    found, notes = open_lth(path) if kind == "open_lth" else ([_mask(path, given)], [])
    named = {key: value for key, value in given.items() if key in GROUPS}
    found = [replace(each, choices={**each.choices, **named}) for each in found]
    sweep = _write(found, root, name or f"{kind}-{path.stem}")
    for note in notes:
        print(note)
    return sweep.folder


def _mask(path: Path, given: Mapping[str, str]) -> ImportedLevel:
    numbers: dict[str, Any] = {}
    for key in ("seed", "level", *_METRICS):
        if key in given:
            value = yaml.safe_load(given[key])
            whole = key in ("seed", "level")
            fine = isinstance(value, int) and value >= 0 if whole else _measured(key, value)
            if isinstance(value, bool) or not fine:
                raise ValueError(f"import: {key}={given[key]}; it is {'a count' if whole else key}")
            numbers[key] = value
    metrics = {key: float(numbers.pop(key)) for key in _METRICS if key in numbers}
    return mask(path, **numbers, metrics=metrics)


def _measured(key: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and math.isfinite(value)
    return number and (0 <= value <= 1 if key.endswith("accuracy") else True)


def _write(found: Sequence[ImportedLevel], root: Path, name: str) -> SweepFolder:
    """Tickets first, then records, then the manifest that names them."""
    cells: dict[tuple[str, int], list[ImportedLevel]] = {}
    for each in found:
        signature = digest(["imported", dict(each.choices), dict(each.config)])
        cells.setdefault((signature, each.seed), []).append(each)
    store, entries = Store(root), []
    for (signature, seed), levels in cells.items():
        levels.sort(key=lambda each: each.level)
        stages = [_ticket(each, store) for each in levels]
        rows = [_row(e, stage, signature) for e, stage in zip(levels, stages, strict=True)]
        config = {**levels[0].config, "seed": seed}
        about = {"signature": signature, "seed": str(seed), "choices": dict(levels[0].choices)}
        folder = root / "runs" / signature / str(seed)
        write_whole(folder / "config.yaml", yaml.safe_dump({**about, "config": config}).encode())
        put(folder, rows, complete=True)
        frozen = {stage: each.level for stage, each in zip(stages, levels, strict=True)}
        labels = {**levels[0].choices, "experiment": "imported"}
        entries.append({**about, "labels": labels, "stages": stages, "levels": frozen})
        entries[-1]["config"] = config
    return _sweep(entries, root, name)


def _sweep(entries: Sequence[Mapping[str, Any]], root: Path, name: str) -> SweepFolder:
    sweep = SweepFolder(root / "sweeps" / name)
    content = digest([dict(entry) for entry in entries])
    if sweep.exists and sweep.manifest["content"] != content:
        raise ValueError(f"name: {name!r} is taken by another sweep in {root}; choose another")
    frozen = {
        "format": FORMAT,
        "name": name,
        "experiment": "imported",
        "content": content,
        "cells": list(entries),
        "stages": {},
        "packs": [],
    }
    write_whole(sweep.folder / "manifest.json", json.dumps(frozen, indent=1).encode())
    return sweep


def _ticket(found: ImportedLevel, store: Store) -> str:
    """Store the ticket of a level under a key of its content; returns the key."""
    kept = {name: tensor[None] for name, tensor in found.mask.items()}
    ticket = Ticket({name: t[None] for name, t in found.state.items()}, kept, found.step)
    content = {name: _sum(t) for name, t in {**found.state, **_prefixed(found.mask)}.items()}
    key = digest(["imported", dict(found.config), found.level, content])
    about = {
        "level": found.level,
        "sparsity": float(sparsity(kept)),
        "layers_remaining": {name: int(n) for name, n in remaining(kept).items()},
        "layers_total": {name: tensor.numel() for name, tensor in found.mask.items()},
        "history": list(found.history),
    }
    store.write(key, found.seed, ticket, about)
    return key


def _prefixed(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"mask/{name}": tensor for name, tensor in named.items()}


def _sum(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _row(found: ImportedLevel, stage: str, signature: str) -> dict[str, Any]:
    """The record of a level: what is not known of it is null."""
    left = {name: int(tensor.sum()) for name, tensor in found.mask.items()}
    total = {name: tensor.numel() for name, tensor in found.mask.items()}
    measured = {name: found.metrics.get(name) for name in _METRICS}
    finite = all(tensor.isfinite().all() for tensor in found.state.values())
    choices = found.choices
    return {
        "experiment": "imported",
        "cell": signature,
        "seed": str(found.seed),
        **{name: choices.get(name) for name in ("model", "dataset", "method")},
        "criterion": choices.get("mask_criterion"),
        **{name: choices.get(name) for name in ("reset", "freeze", "schedule", "recipe")},
        "level": found.level,
        "stage": stage,
        "kind": "train" if measured["test_accuracy"] is not None else "mask",
        "step": found.step,
        "target_sparsity": found.target_sparsity,
        "sparsity": 1 - sum(left.values()) / sum(total.values()),
        "weights_remaining": sum(left.values()),
        "weights_total": sum(total.values()),
        "layers_remaining": left,
        "layers_total": total,
        "report_at": "end",
        "reported_step": found.step,
        **measured,
        **{f"end_{name}": value for name, value in measured.items()},
        "best_step": None,
        **{f"best_{name}": None for name in _METRICS},
        "train_steps": found.step,
        "finite": finite and all(map(math.isfinite, found.metrics.values())),
        "collapsed": 0 in left.values(),
        **dict.fromkeys(("seconds", "device", "stack_size")),
        "code_version": "imported",
    }
