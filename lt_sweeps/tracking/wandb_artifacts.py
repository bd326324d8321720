"""What W&B keeps of a run's tickets: each whole, or its mask, as a version of one artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save

from lt_sweeps.storage.mask_bits import unpacked
from lt_sweeps.storage.ticket_file import MASK
from lt_sweeps.tracking.tracked_runs import Level, Run


def attach(mine: Any, run: Run, wanted: str, *, wait: float | None) -> None:
    """Log the tickets or masks of a run: a collection whose versions are the levels.

    A version that W&B has already gets no second one, so a repeated call adds nothing. The ticket
    that a level was pruned from is noted as used; offline W&B cannot, so the metadata name it too.

    Args:
        wanted: `tickets` or `masks`.
        wait: seconds that W&B has to take each; None offline.
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
        facts = ("cell", "seed", "stage", "level", "sparsity")
        artifact.metadata |= {name: getattr(record, name) for name in facts}
        metric = record.metric_of("test_metric").name
        artifact.metadata |= {metric: record.measured(metric)}
        artifact.metadata |= {"line": run.about["line"], "parent": parent}
        mine.log_artifact(artifact, aliases=["latest", alias])
        if wait is not None:
            artifact.wait(wait)
        logged[record.stage] = alias, artifact


def _artifact(key: str, level: Level, kind: str) -> Any:
    """The whole ticket under the path that it names itself by, or its mask alone."""
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
    """The mask of a ticket by the names of its parameters, as a safetensors file."""
    with safe_open(ticket, framework="numpy") as file:
        names = sorted(name for name in file.keys() if name.startswith(MASK))  # noqa: SIM118
        whole = unpacked({name: file.get_tensor(name) for name in names}, file.metadata())
        return save({name.removeprefix(MASK): mask for name, mask in whole.items()})
