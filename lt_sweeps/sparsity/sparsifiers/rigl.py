"""RigL: sparse training that drops small weights and grows those with large gradients.

(arXiv:1911.11134.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier, TrainingState, When
from lt_sweeps.sparsity.top_k import keep_top_of_layers, of_one_size


@dataclass(frozen=True)
class RigL(Sparsifier):
    """Replace part of each layer's kept weights every `every` steps, from `begin` to `end`.

    The number of kept weights does not change. The replaced part is `fraction` at first and falls
    to 0 along a cosine. The smallest weights are dropped. Among all weights outside the mask then,
    those with the largest gradients grow: from 0, unless they have just been dropped. Such a step
    replaces the optimizer's update.
    """

    fraction: float
    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.every < 1:
            raise ValueError(
                f"method: fraction={self.fraction:g}, every={self.every} steps; give a fraction "
                "in (0, 1] and 1 step or more"
            )

    @property
    def mask_updates(self) -> range:
        return range(self.begin, self.end, self.every)

    def acts(self, step: int, recipe: Recipe) -> When | None:
        return "instead" if step in self.mask_updates else None

    def moving(self, step: int) -> float:
        """The fraction of a layer's kept weights that is replaced at a step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        for layers in of_one_size(state.layers, len(state.seeds)):
            for layer, kept in zip(layers, self._moved(layers, state, step), strict=True):
                mask = state.mask[layer.name]
                mask.copy_(kept.view_as(mask))

    def _moved(self, layers: Sequence[Layer], state: TrainingState, step: int) -> Tensor:
        """The next masks of layers of one size: bool `[L, R, n]`."""
        mask, weights, grads = (
            torch.stack([named[layer.name].flatten(1) for layer in layers])
            for named in (state.mask, state.weights, state.grads)
        )
        # A replicate that diverged keeps its number of weights, no matter which ones.
        weights, grads = weights.nan_to_num().abs(), grads.nan_to_num().abs()
        counts = (mask != 0).sum(2)  # replicates may differ in sparsity
        moving = (self.moving(step) * counts.double()).long()
        active = torch.where(mask != 0, weights, -1.0)
        drop, grow = ([(way, step, layer.name) for layer in layers] for way in ("drop", "grow"))
        stay = keep_top_of_layers(active, counts - moving, state.seeds, drop)
        absent = torch.where(stay, -1.0, grads)
        return stay | keep_top_of_layers(absent, moving, state.seeds, grow)
