"""`AuditedStore`: a read-only store of tickets for an audit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.storage.store import Store, ticket_in
from lt_sweeps.storage.ticket import Ticket


@dataclass(frozen=True)
class AuditedStore(Store):
    """A store in which only the tickets that an audit found undamaged (`whole`, by path) exist."""

    whole: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def metadata(self, key: str, seed: object, moment: int | str = "end") -> dict[str, Any] | None:
        about = self.whole.get(self.path(key, seed, moment))
        return None if about is None else dict(about)

    def read(self, key: str, seed: object, moment: int | str = "end") -> Ticket:
        path = self.path(key, seed, moment)
        if path not in self.whole:
            raise FileNotFoundError(path)  # never sets a damaged file aside, as a run does
        return ticket_in(path.read_bytes(), step=int(self.whole[path]["step"]))

    def write(self, *_: Any, **__: Any) -> None:
        """Write nothing: a missing initialisation is drawn again but not stored."""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash that is equal if names and tensors are equal, bit by bit."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        bits = tensors[name].contiguous().reshape(-1).view(torch.uint8)
        content.update(name.encode() + bits.numpy().tobytes())
    return content.hexdigest()


def differ(one: Tensor, other: Tensor) -> Tensor:
    """Mark the entries in which two tensors of one shape differ; NaN equals only NaN."""
    return (one != other) & ~(one.isnan() & other.isnan())


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that differ, or that only one of the two has."""
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    same = {name for name in shared if not differ(one[name], other[name]).any()}
    return sorted({*one, *other} - same)
