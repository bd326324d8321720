"""Gradual magnitude pruning: the mask shrinks while the network trains (arXiv:1710.01878)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier, TrainingState, When
from lt_sweeps.sparsity.top_k import keep_top_of_each


@dataclass(frozen=True)
class Gradual(Sparsifier):
    """Keep the largest weights, ever fewer, from step `begin` to `end`, where `keep` are left.

    The mask is found anew every so many steps among all weights: a pruned one has the value that
    it was pruned at, and returns if that has become large. It is fixed from `end` on. `keep` are
    counts by layer, or one over all layers, as in a schedule's target.
    """

    scope: str
    keep: tuple[int, ...]
    begin: int
    end: int
    every: int
    power: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise ValueError(f"method: it prunes from step {self.begin} to {self.end}; begin first")
        if self.every < 1 or not self.power > 0:
            raise ValueError(
                f"method: every={self.every} steps, power={self.power:g}; both are above 0"
            )

    @property
    def kept_at_end(self) -> int:
        return sum(self.keep)

    def acts(self, step: int, recipe: Recipe) -> When | None:
        due = (step - self.begin) % self.every == 0 or step == self.end
        return "before" if due and self.begin <= step <= self.end else None

    def done(self, step: int) -> float:
        """The fraction of the pruning that is done at a step: 0 to 1, fast and then slow."""
        left = (self.end - step) / (self.end - self.begin)
        return 1 - min(1.0, max(0.0, left)) ** self.power

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        groups = [state.layers] if self.scope == "global" else [[each] for each in state.layers]
        for group, final in zip(groups, self.keep, strict=True):
            flat = torch.cat([state.weights[layer.name].abs().flatten(1) for layer in group], 1)
            count = self.remaining(flat.shape[1], final, step)
            kept = keep_top_of_each(
                flat, [count] * len(flat), state.seeds, "gradual", step, group[0].name
            )
            _write(kept, state, group)

    def remembered(self, weights: Tensor, mask: Tensor) -> Tensor:
        return weights * (1 - mask)

    def remaining(self, size: int, final: int, step: int) -> int:
        """How many of `size` weights are left at a step, `final` at the end."""
        return size - round((size - final) * self.done(step))


def _write(kept: Tensor, state: TrainingState, group: Sequence[Layer]) -> None:
    parts = kept.split([layer.size for layer in group], 1)
    for layer, part in zip(group, parts, strict=True):
        state.mask[layer.name].copy_(part.view_as(state.mask[layer.name]))
