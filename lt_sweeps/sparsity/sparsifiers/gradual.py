"""Gradual magnitude pruning: the mask shrinks while the network trains (arXiv:1710.01878)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier, TrainingState, When
from lt_sweeps.sparsity.top_k import by_layer, keep_top_of_each


@dataclass(frozen=True)
class Gradual(Sparsifier):
    """Keep the largest weights, fewer at every pruning from step `begin` to `end`.

    Every `every` steps a pruning ranks all weights again: a pruned weight remembers the value that
    it had when it was pruned, and returns if this value is among the largest again. From step `end`
    on the mask is fixed. `keep` are the numbers of weights left then, by layer or over all layers,
    as in a `Target`.
    """

    scope: str
    keep: tuple[int, ...]
    begin: int
    end: int
    every: int
    power: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise ValueError(
                f"method: begin={self.begin}, end={self.end} steps; begin comes before end"
            )
        if self.every < 1 or not self.power > 0:
            raise ValueError(
                f"method: every={self.every} steps, power={self.power:g}; both are above 0"
            )

    @property
    def kept_at_end(self) -> int:
        return sum(self.keep)

    @property
    def mask_updates(self) -> tuple[int, ...]:
        # The pruning at `begin` keeps all weights.
        return (*range(self.begin + self.every, self.end, self.every), self.end)

    def acts(self, step: int, recipe: Recipe) -> When | None:
        due = (step - self.begin) % self.every == 0 or step == self.end
        return "before" if due and self.begin <= step <= self.end else None

    def done(self, step: int) -> float:
        """The fraction of the pruning done at a step: from 0 to 1, fast at first and slow later."""
        left = (self.end - step) / (self.end - self.begin)
        return 1 - min(1.0, max(0.0, left)) ** self.power

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        groups = [state.layers] if self.scope == "global" else [[layer] for layer in state.layers]
        for group, final in zip(groups, self.keep, strict=True):
            flat = torch.cat([state.weights[layer.name].abs().flatten(1) for layer in group], 1)
            count = self.remaining(flat.shape[1], final, step)
            counts = torch.full((len(flat),), count, device=flat.device)
            kept = keep_top_of_each(flat, counts, state.seeds, "gradual", step, group[0].name)
            for name, mask in by_layer(kept, group).items():
                state.mask[name].copy_(mask)

    def remembered(self, weights: Tensor, mask: Tensor) -> Tensor:
        return weights * (1 - mask)

    def remaining(self, size: int, final: int, step: int) -> int:
        """How many of `size` weights are left at a step, `final` at the end."""
        return size - round((size - final) * self.done(step))
