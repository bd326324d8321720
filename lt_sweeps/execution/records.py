"""Records: one tidy row per evaluated ticket, which is all that report, status and tracker read.

A cell's rows are made from the metadata of its stored tickets, so they can be made again at any
time, and are the same whoever makes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.plan.planning import Planned, needs, trainings
from lt_sweeps.plan.stages import Evaluate, Init, Prune, Stage, Train, ancestors
from lt_sweeps.plan.stages.transfer import Transfer
from lt_sweeps.sparsity.sparsifiers import Amc, Gradual, LearnedSparsifier
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.store import Store, set_aside

_HARD = ("val_accuracy", "test_accuracy")
_METRICS = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")


def write(planned: Planned, store: Store) -> bool:
    """Write what is known of a cell; returns whether that is all of it.

    `DONE` comes last and holds the records' checksum; records that do not match it are set aside
    and written again.
    """
    folder = store.root / "runs" / planned.signature / str(planned.seed)
    records, done, config = folder / "records.jsonl", folder / "DONE", folder / "config.yaml"
    if not config.exists() or config.read_bytes() != _config(planned):
        write_whole(config, _config(planned))
    if done.exists() and records.exists():
        if done.read_text().strip() == hashlib.sha256(records.read_bytes()).hexdigest():
            return True
        set_aside(records, "records that do not match their checksum")
        done.unlink()
    rows = [row for stage in planned.trainings if (row := _row(planned, stage, store))]
    complete = len(rows) == len(planned.trainings)
    put(folder, rows, complete=complete)
    return complete


def put(folder: Path, rows: Sequence[Mapping[str, Any]], *, complete: bool) -> None:
    """Write a cell's rows, and then `DONE` if they are all of them."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_whole(folder / "records.jsonl", content)
    if complete:
        write_whole(folder / "DONE", hashlib.sha256(content).hexdigest().encode() + b"\n")


def _config(planned: Planned) -> bytes:
    about = {
        "signature": planned.signature,
        "seed": str(planned.seed),
        "choices": dict(planned.cell.choices),
        "config": dict(planned.cell.config),
    }
    return yaml.safe_dump(about, sort_keys=False).encode()


def _row(planned: Planned, stage: Train, store: Store) -> dict[str, Any] | None:
    about = store.metadata(stage.key, planned.seed)
    if about is None:
        return None
    metrics, cost = json.loads(about["metrics"]), store.cost(stage.key, planned.seed)
    remaining = json.loads(about["layers_remaining"])
    total = json.loads(about["layers_total"])
    labels, at = planned.labels, planned.report_at
    pruned = sum(total.values()) - sum(remaining.values())
    reported = metrics["best_step"] if at == "best" else stage.step
    return {
        "experiment": labels["experiment"],
        "cell": planned.signature,
        "seed": str(planned.seed),
        **{name: labels.get(name) for name in ("model", "dataset", "method")},
        "criterion": labels.get("mask_criterion"),
        **{name: labels.get(name) for name in ("reset", "freeze", "schedule", "recipe")},
        "level": planned.levels.get(stage.key, stage.level),
        "stage": stage.key,
        "init": next(s.key for s in ancestors(stage) if isinstance(s, Init)),
        "kind": _kind(planned, stage),
        "step": stage.step,
        "target_sparsity": _target(stage),
        "sparsity": float(about["sparsity"]),  # of the prunable weights
        "sparsity_total": pruned / stage.network.parameters,  # of all parameters
        "weights_remaining": sum(remaining.values()),
        "weights_total": sum(total.values()),
        "layers_remaining": remaining,
        "layers_total": total,
        "report_at": at,
        "reported_step": reported,
        **{name: _finite(metrics[f"{at}_{name}"]) for name in _METRICS},
        **{f"end_{name}": _finite(metrics[f"end_{name}"]) for name in _METRICS},
        "best_step": metrics["best_step"],
        **{f"best_{name}": _finite(metrics[f"best_{name}"]) for name in _METRICS},
        **{f"hard_{name}": metrics.get(f"hard_{name}") for name in _HARD},
        "mask_chance": _chance(stage),
        "train_steps": stage.length,
        "epochs": _epochs(stage),
        # What had to be trained before it, each training once: what finding its ticket cost.
        "search_epochs": sum(_epochs(before) for before in trainings(stage)[:-1]),
        # The trainings that it starts from, of which the epochs of a search are made.
        "after": [before.key for before in needs(stage)],
        "dense_resources": dense_resources(stage),
        "finite": metrics["finite"],
        "collapsed": metrics[f"{at}_one_class"] or 0 in remaining.values(),
        **{name: cost.get(name) for name in ("seconds", "device", "stack_size", "code_version")},
    }


def dense_resources(stage: Train) -> bool:
    """Whether a training that led to a ticket held all weights, or more than the ticket keeps.

    What a gradient is taken of without training with it (before training, or to grow weights) is
    not held.
    """
    ways = trainings(stage)
    return stage.level == 0 or any(w.level < stage.level or not w.sparsifier.lean for w in ways)


def _epochs(stage: Train) -> float:
    return stage.length / stage.training.recipe.steps_per_epoch


def _chance(stage: Train) -> list[float] | None:
    """How a learned mask's final logits say what is kept: see `LearnedSparsifier.chance`."""
    if not isinstance(stage.sparsifier, LearnedSparsifier):
        return None
    last = stage.sparsifier.temperature(max(stage.step - 1, 0), stage.training.recipe)
    found = stage.sparsifier.chance(last)
    return None if found is None else list(found)


def _kind(planned: Planned, stage: Train) -> str:
    """What a row tells of: a result of the cell (`train`, `score`), or the `search` for one."""
    if stage.key not in planned.levels:
        return "search"
    return "score" if isinstance(stage, Evaluate) else "train"


def _target(stage: Stage) -> float | None:
    """The sparsity that was asked of a ticket, where anything asked for one."""
    while not isinstance(stage, Init):
        if isinstance(stage, Prune):
            return _finite(round(stage.target.sparsity, 10))
        if isinstance(stage, Train) and isinstance(stage.sparsifier, Gradual | Amc):
            keep, layers = stage.sparsifier.keep, stage.network.layers
            left = keep if isinstance(keep, int) else sum(keep)
            return round(1 - left / sum(layer.size for layer in layers), 10)
        stage = stage.found if isinstance(stage, Transfer) else stage.inputs[0]
    return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
