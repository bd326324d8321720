"""Seeds and draws: randomness as a pure function of (seed, purpose, index).

Nothing random is ever saved or restored. The same draw is made again from its name, so neither the
pack, nor a resume, nor the device can change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

ROLES = ("init", "order", "augment", "noise")


@dataclass(frozen=True, order=True)
class Seed:
    """One replicate's seed, with the roles that are set apart from it.

    `init` draws the weights, `order` the batches, `augment` the augmentation, `noise` whatever a
    criterion, a tie or a mask draws.
    """

    value: int
    apart: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, value: Any, apart: Mapping[str, Any] | None = None) -> Seed:
        """Raises: ValueError: a seed that is no non-negative integer, or an unknown role."""
        if not isinstance(apart, Mapping | None):
            raise ValueError(f"seeds: {apart!r}; give a seed by role, roles are {list(ROLES)}")
        roles = {role: given for role, given in (apart or {}).items() if given is not None}
        for role, given in {"seed": value, **roles}.items():
            if isinstance(given, bool) or not isinstance(given, int) or given < 0:
                raise ValueError(f"{role}: {given!r} is no seed; give an integer from 0 up")
        if unknown := sorted(set(roles) - set(ROLES)):
            raise ValueError(f"seeds: no role {unknown}; roles are {list(ROLES)}")
        return cls(value, tuple(sorted((r, s) for r, s in roles.items() if s != value)))

    def role(self, role: str) -> int:
        assert role in ROLES, role
        return dict(self.apart).get(role, self.value)

    def __str__(self) -> str:
        return "-".join([str(self.value), *(f"{role}{seed}" for role, seed in self.apart)])


def draw(seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit number that depends on its arguments alone."""
    text = "/".join(map(str, (seed, purpose, *index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on its arguments alone."""
    return torch.Generator().manual_seed(draw(seed, purpose, *index))
