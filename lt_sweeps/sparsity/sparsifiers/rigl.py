"""RigL: sparse from start to end, dropping small weights and growing where the gradient is large
(arXiv:1911.11134)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier, TrainingState, When
from lt_sweeps.sparsity.top_k import keep_top_of_each


@dataclass(frozen=True)
class RigL(Sparsifier):
    """Every so many steps up to `end`, move part of each layer's weights; their number stays.

    The part is `fraction` at first and falls to 0 along a cosine. The smallest weights drop out;
    of all that is not kept then, those with the largest gradient grow, from 0 unless they have
    just dropped out. Such a step takes the place of the optimizer's.
    """

    fraction: float
    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.every < 1:
            raise ValueError(
                f"method: fraction={self.fraction:g}, every={self.every} steps; a fraction lies "
                "in (0, 1], and there is a step at least in between"
            )

    def acts(self, step: int, recipe: Recipe) -> When | None:
        due = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        return "instead" if due else None

    def moving(self, step: int) -> float:
        """The part of a layer's weights that moves at a step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        for layer in state.layers:
            mask = state.mask[layer.name]
            kept = self._moved(layer, state, step)
            mask.copy_(kept.view_as(mask))

    def _moved(self, layer: Layer, state: TrainingState, step: int) -> Tensor:
        """A layer's next mask: bool `[R, n]`."""
        of = [each[layer.name].flatten(1) for each in (state.mask, state.weights, state.grads)]
        mask, weights, grads = of
        # A replicate that diverged keeps its count of weights, whichever they are.
        weights, grads = weights.nan_to_num().abs(), grads.nan_to_num().abs()
        counts = [int(count) for count in mask.sum(1)]  # replicates may differ in sparsity
        moving = [int(self.moving(step) * count) for count in counts]
        staying = [count - moved for count, moved in zip(counts, moving, strict=True)]
        active = torch.where(mask != 0, weights, -1.0)
        where = (step, layer.name)
        stay = keep_top_of_each(active, staying, state.seeds, "drop", *where)
        absent = torch.where(stay, -1.0, grads)
        return stay | keep_top_of_each(absent, moving, state.seeds, "grow", *where)
