"""Records: one tidy row per evaluated ticket, which is all that report, status and tracker read.

A cell's rows are made from the metadata of its stored tickets, so they can be made again at any
time, and are the same whoever makes them.
"""

from __future__ import annotations

import json
from typing import Literal

from lt_sweeps.plan.planning import Planned, needs, trainings
from lt_sweeps.plan.stages import Init, Work, ancestors
from lt_sweeps.storage.record import MEASURED, Record, RunFolder
from lt_sweeps.storage.store import Store, set_aside


def record_cell(planned: Planned, store: Store) -> bool:
    """Write what is known of a cell; returns whether that is all of it.

    Records that do not match the checksum in `DONE` are set aside and written again.
    """
    folder = RunFolder.of(store.root, planned.signature, planned.seed)
    folder.write_config(planned.labels, dict(planned.cell.config))
    if folder.done.exists() and folder.records.exists():
        if folder.is_intact:
            return True
        set_aside(folder.records, "records that do not match their checksum")
        folder.done.unlink()
    known = [row for stage in planned.trainings if (row := _record(planned, stage, store))]
    complete = len(known) == len(planned.trainings)
    folder.write(known, complete=complete)
    return complete


def _record(planned: Planned, stage: Work, store: Store) -> Record | None:
    """The record of a training's ticket; None while it is not stored."""
    about = store.metadata(stage.key, planned.seed)
    if about is None:
        return None
    metrics, cost = json.loads(about["metrics"]), store.cost(stage.key, planned.seed)
    remaining = json.loads(about["layers_remaining"])
    total = json.loads(about["layers_total"])
    at = planned.report_at
    pruned = sum(total.values()) - sum(remaining.values())
    return Record(
        experiment=planned.labels["experiment"],
        cell=planned.signature,
        seed=str(planned.seed),
        **Record.option_columns(planned.labels),
        level=planned.levels.get(stage.key, stage.level),
        stage=stage.key,
        init=next(s.key for s in ancestors(stage) if isinstance(s, Init)),
        kind=_kind(planned, stage),
        step=stage.step,
        target_sparsity=stage.target_sparsity,
        sparsity=float(about["sparsity"]),
        sparsity_total=pruned / stage.network.parameters,
        **Record.weight_columns(remaining, total),
        report_at=at,
        reported_step=metrics["best_step"] if at == "best" else stage.step,
        **{name: metrics[f"{at}_{name}"] for name in MEASURED},
        **{f"end_{name}": metrics[f"end_{name}"] for name in MEASURED},
        best_step=metrics["best_step"],
        **{f"best_{name}": metrics[f"best_{name}"] for name in MEASURED},
        hard_val_accuracy=metrics.get("hard_val_accuracy"),
        hard_test_accuracy=metrics.get("hard_test_accuracy"),
        mask_chance=_mask_chance(stage),
        train_steps=stage.length,
        epochs=_epochs(stage),
        search_epochs=sum(_epochs(before) for before in trainings(stage)[:-1]),
        after=[before.key for before in needs(stage)],
        dense_resources=dense_resources(stage),
        finite=metrics["finite"],
        collapsed=metrics[f"{at}_one_class"] or 0 in remaining.values(),
        seconds=cost.get("seconds"),
        device=cost.get("device"),
        stack_size=cost.get("stack_size"),
        code_version=cost.get("code_version"),
    )


def dense_resources(stage: Work) -> bool:
    """Whether a training that led to a ticket held all weights, or more than the ticket keeps.

    What a gradient is taken of without training with it (before training, or to grow weights) is
    not held.
    """
    ways = trainings(stage)
    return stage.level == 0 or any(w.level < stage.level or not w.sparsifier.lean for w in ways)


def _epochs(stage: Work) -> float:
    return stage.length / stage.training.recipe.steps_per_epoch


def _mask_chance(stage: Work) -> list[float] | None:
    """Slope and shift of a learned mask at its last step: see `Sparsifier.chance`."""
    chance = stage.sparsifier.chance(max(stage.step - 1, 0), stage.training.recipe)
    return None if chance is None else list(chance)


def _kind(planned: Planned, stage: Work) -> Literal["train", "score", "search"]:
    """What a row tells of: a result of the cell (`train`, `score`), or the `search` for one."""
    if stage.key not in planned.levels:
        return "search"
    return "train" if stage.length else "score"
