"""The tickets of a run, or only their masks, as versions of one W&B artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save

from lt_sweeps.storage.mask_bits import unpacked
from lt_sweeps.storage.ticket_file import MASK
from lt_sweeps.tracking.tracked_runs import Level, Run


def attach(mine: Any, run: Run, wanted: str, *, wait: float | None) -> None:
    """Log the tickets or masks of a run as a collection with a version per level.

    W&B does not store an equal version twice, so a repeated call adds nothing. The ticket that a
    level was pruned from is marked as used. Offline W&B cannot do that, so the metadata name that
    ticket too.

    Args:
        wanted: `tickets` or `masks`.
        wait: seconds in which W&B must accept each ticket; None offline.
    """
    logged: dict[str, tuple[str, Any]] = {}
    for level in run.tickets:
        record = level.record
        assert record is not None
        before = [logged[stage] for stage in logged if stage in (record.after or ())]
        parent, used = before[-1] if before else (None, None)
        if used is not None and wait is not None:
            mine.use_artifact(used)
        alias = f"{'level' if level.is_result else 'search'}-{level.number}"
        artifact = _artifact(run.key, level, wanted.removesuffix("s"))
        facts = ("cell", "seed", "stage", "level", "sparsity", "finite")
        artifact.metadata |= {name: getattr(record, name) for name in facts}
        if record.finite:
            metric = record.metric_of("test_metric").name
            artifact.metadata |= {metric: record.measured(metric)}
        artifact.metadata |= {"line": run.about["line"], "parent": parent}
        mine.log_artifact(artifact, aliases=["latest", alias])
        if wait is not None:
            artifact.wait(wait)
        logged[record.stage] = alias, artifact


def _artifact(key: str, level: Level, kind: str) -> Any:
    """An artifact with the whole ticket, as `<stage>/<file>` like in the store, or its mask."""
    import wandb

    ticket = level.ticket
    assert ticket is not None
    artifact = wandb.Artifact(f"{kind}-{key}", type=kind)
    if kind == "ticket":
        name = f"{ticket.parent.name}/{ticket.name}"
        artifact.add_file(str(ticket), name=name, policy="immutable", skip_cache=True)
    else:
        with artifact.new_file("mask.safetensors", mode="wb") as file:
            file.write(_mask(ticket))
    return artifact


def _mask(ticket: Path) -> bytes:
    """The mask of a ticket as the bytes of a safetensors file, by parameter name."""
    with safe_open(ticket, framework="numpy") as file:
        names = sorted(name for name in file.keys() if name.startswith(MASK))  # noqa: SIM118
        whole = unpacked({name: file.get_tensor(name) for name in names}, file.metadata())
        return save({name.removeprefix(MASK): mask for name, mask in whole.items()})
