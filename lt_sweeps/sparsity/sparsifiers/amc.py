"""AMC: an agent searches for the densities of the layers within a budget (arXiv:1802.03494)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.sparsifiers.ddpg import Agent
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier, TrainingState

_REMEMBERED = 100  # episodes


@dataclass(frozen=True)
class Amc(Sparsifier):
    """Keep exactly `keep` weights, the largest of each layer; an agent chooses the densities.

    An episode goes through the layers and gives each a density. Its reward is the validation
    accuracy under the mask with these densities. The mask of the best episode is kept.

    Args:
        strides: the stride of each layer, one of the inputs of the agent.
        warmup: the number of first episodes in which the agent acts at random.
        lowest: the lowest density that a layer may have.
        recalibrate: the number of training batches from which batch-norm statistics are estimated
            before each reward.
    """

    keep: int
    strides: tuple[int, ...]
    episodes: int = 400
    warmup: int = 100
    lowest: float = 0.02
    recalibrate: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.warmup < 0 or self.recalibrate < 0:
            raise ValueError(
                f"method: episodes={self.episodes}, warmup={self.warmup}, "
                f"recalibrate={self.recalibrate}; give 1 episode or more, and no negative number"
            )
        if not 0 < self.lowest < 1:
            raise ValueError(f"method: lowest={self.lowest:g}; give a density between 0 and 1")

    @property
    def kept_at_end(self) -> int:
        return self.keep

    def identity(self) -> dict[str, Any]:
        # Before version 2 an episode was scored with some statistics of the previous one. Before
        # version 3 the agent learned from clipped actions, against the average of the episodes.
        return {**super().identity(), "version": 3}

    def search(self, state: TrainingState, score: Callable[[int], Sequence[float]]) -> None:
        walks = [Walk(self, state.layers, seed) for seed in state.seeds]
        ranks = {la.name: _ranks(state.weights[la.name], state.seeds, la) for la in state.layers}
        for _ in range(self.episodes):
            _write(state.mask, ranks, [walk.go() for walk in walks])
            for walk, reward in zip(walks, score(self.recalibrate), strict=True):
                walk.learn(reward)
        _write(state.mask, ranks, [walk.best for walk in walks])


class Walk:
    """The episodes of one replicate; each goes through the layers from first to last."""

    def __init__(self, amc: Amc, layers: Sequence[Layer], seed: Seed) -> None:
        self.amc, self.sizes = amc, [layer.size for layer in layers]
        self.fixed = _features(layers, amc.strides)
        self.least = [least(size, amc.lowest) for size in self.sizes]
        self.agent = Agent(
            self.fixed.shape[1] + 3,
            generator(seed.role("noise"), "amc"),
            warmup=amc.warmup,
            memory=_REMEMBERED * len(layers),
        )
        self.best: list[int] = []
        self._highest = -math.inf

    def go(self) -> list[int]:
        """Choose how many weights each layer keeps in an episode, `keep` in all.

        An action is clipped so that the layers after it can still meet the budget with densities
        between `lowest` and 1. The agent learns from its unclipped action, as in the released code:
        the clipping is part of its environment.
        """
        total, left, before = sum(self.sizes), self.amc.keep, 1.0
        self.states, self.actions, self.counts = [], [], []
        for n, size in enumerate(self.sizes):
            rest, floor = sum(self.sizes[n + 1 :]), sum(self.least[n + 1 :])
            reduced = sum(self.sizes[:n]) - sum(self.counts)
            now = torch.tensor([reduced / total, rest / total, before])
            state = torch.cat([self.fixed[n], now])
            low, high = max(self.least[n], left - rest), min(size, left - floor)
            action = self.agent.act(state)
            count = min(max(round(action * size), low), high)
            before, left = count / size, left - count
            self.states.append(state)
            self.actions.append(action)
            self.counts.append(count)
        return self.counts

    def learn(self, reward: float) -> None:
        """End the episode with its reward; a reward that is not finite teaches nothing."""
        if math.isfinite(reward):
            self.agent.learn(self.states, self.actions, reward)
        else:  # the network has diverged, or its metric is not defined on the validation set
            self.agent.episode += 1
        if not self.best or reward > self._highest:
            self.best = self.counts
            self._highest = reward if math.isfinite(reward) else -math.inf


def least(size: int, lowest: float) -> int:
    """The fewest weights that a layer may keep."""
    return max(1, round(lowest * size))


def _features(layers: Sequence[Layer], strides: Sequence[int]) -> Tensor:
    """The agent's inputs for each layer, each scaled to [0, 1] over the layers: `[L, 7]`.

    They are the layer's position, whether it is a convolution, its input channels, output channels,
    stride, kernel width and number of weights.
    """
    rows: list[list[int]] = []
    for layer, stride in zip(layers, strides, strict=True):
        outputs, inputs, *kernel = layer.shape if len(layer.shape) > 1 else (layer.size, 1)
        conv, width = int(layer.kind == "conv"), kernel[-1] if kernel else 1
        rows.append([len(rows), conv, inputs, outputs, stride, width, layer.size])
    table = torch.tensor(rows, dtype=torch.float32)
    low, high = table.amin(0), table.amax(0)
    return (table - low) / (high - low).clamp(min=1)


def _ranks(weights: Tensor, seeds: Sequence[Seed], layer: Layer) -> Tensor:
    """Each weight's rank by magnitude in its layer, 0 for the largest: `[R, n]`.

    Equal magnitudes are ordered at random, from each replicate's seed.
    """
    ranks = torch.empty(len(weights), layer.size, dtype=torch.long, device=weights.device)
    for row, sizes, seed in zip(ranks, weights.flatten(1).abs(), seeds, strict=True):
        ties = generator(seed.role("noise"), "ties", "amc", layer.name)
        order = torch.randperm(layer.size, generator=ties).to(weights.device)
        order = order[sizes[order].argsort(descending=True, stable=True)]
        row[order] = torch.arange(layer.size, device=weights.device)
    return ranks


def _write(
    mask: Mapping[str, Tensor], ranks: Mapping[str, Tensor], counts: Sequence[Sequence[int]]
) -> None:
    """Set the mask to the largest weights of each layer, by the counts of each replicate."""
    for (name, places), kept in zip(ranks.items(), zip(*counts, strict=True), strict=True):
        number = torch.tensor(kept, device=places.device)[:, None]
        mask[name].copy_((places < number).view_as(mask[name]))
