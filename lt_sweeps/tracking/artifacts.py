"""Tickets and masks as artifacts for a tracker, named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save

from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.ticket_file import MASK, read_metadata


def artifact_of(ticket: Path, kind: str, masks: Path) -> tuple[str, Path]:
    """Name and file of an artifact: a whole `ticket`, or its `mask`, written under `masks`.

    The name is a hash of the content, so a tracker stores a ticket that two cells share once, and
    so a mask that two tickets share.
    """
    if kind == "ticket":
        return read_metadata(ticket)["body_sha256"][:16], ticket
    with safe_open(ticket, framework="numpy") as file:
        names = sorted(name for name in file.keys() if name.startswith(MASK))  # noqa: SIM118
        blob = save({name.removeprefix(MASK): file.get_tensor(name) for name in names})
    name = hashlib.sha256(blob).hexdigest()[:16]
    path = masks / f"{name}.safetensors"
    if not path.exists():
        write_whole(path, blob, first_wins=True)
    return name, path
