"""Seeds and draws: randomness as a pure function of (seed, purpose, index).

Nothing random is saved or restored. A draw is made again from its seed, purpose and index, so
neither the pack nor a resume nor the device can change it.
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
    """One replicate's seed, with the roles that have another seed.

    `init` draws the weights, `order` the batches, `augment` the augmentation; `noise` is for
    criteria, ties and masks.
    """

    value: int
    apart: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, value: Any, apart: Mapping[str, Any] | None = None) -> Seed:
        """Raises: ValueError: a seed that is not a whole number from 0 up, or an unknown role."""
        if not isinstance(apart, Mapping | None):
            raise ValueError(f"seeds: got {apart!r}; give a seed by role: {', '.join(ROLES)}")
        roles = {role: seed for role, seed in (apart or {}).items() if seed is not None}
        for role, seed in {"seed": value, **roles}.items():
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise ValueError(f"{role}: got {seed!r}; give a whole number from 0 up")
        if unknown := sorted(set(roles) - set(ROLES)):
            raise ValueError(f"seeds: no role {unknown}; roles are {', '.join(ROLES)}")
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
