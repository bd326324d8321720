"""`Competition`: layers whose weights compete to be kept, and the choice of those that stay.

In a `GroupCompetition` whole groups of weights are kept or pruned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.top_k import keep_top, keep_top_of_rows
from lt_sweeps.sparsity.weight_groups import WHOLE, Groups, counts
from lt_sweeps.storage.ticket import Mask, State


@dataclass(frozen=True)
class Competition:
    """Layers whose weights compete with each other, and the number of weights that stay."""

    layers: Sequence[Layer]
    count: int

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    @property
    def goal(self) -> int:
        """The number of weights to keep, before rounding to whole groups."""
        return self.count

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most weights that these layers can keep."""
        return self.count, self.count

    def left(self, values: State, kept: Mask) -> Tensor:
        """The `values` of the weights that `kept` keeps, both `[1, *shape]`, as one vector."""
        parts = (values[n].flatten().index_select(0, _positions(kept[n])) for n in self.names)
        return torch.cat([*parts])

    def mask_of(self, stays: Tensor, kept: Mask) -> dict[str, Tensor]:
        """Turn `stays` `[n]`, one bool for each weight that `kept` keeps, into a mask by layer."""
        positions = {name: _positions(kept[name]) for name in self.names}
        parts = zip(positions, stays.split([len(at) for at in positions.values()]), strict=True)
        mask = {name: torch.zeros(kept[name].shape, dtype=torch.bool) for name in positions}
        for name, part in parts:
            mask[name].view(-1).index_copy_(0, positions[name], part)
        return mask

    @property
    def shares_noise(self) -> bool:
        """Whether all weights of a group share one random number."""
        return False

    def shared(self, noise: State) -> State:
        """Noise by layer; if `shares_noise`, the weights of a group get the same number."""
        return noise

    @property
    def winners(self) -> str:
        """The weights or groups that stay, in words, for a message."""
        return f"the {self.count}"

    def keep_top(self, scores: Tensor, kept: Mask, ties: torch.Generator) -> Tensor:
        """Which of the `scores` `[n]` of the weights that `kept` keeps stay: bool `[n]`."""
        return keep_top(scores, self.count, ties)


@dataclass(frozen=True)
class GroupCompetition(Competition):
    """A competition of whole groups: as many stay as come nearest to `count` weights.

    Weights that are in no group always stay.
    """

    groups: Groups

    @functools.cached_property
    def goal(self) -> int:
        """The number of weights that would stay if groups could be split (of a pattern: n of M)."""
        sizes = self._sizes
        total = self._fixed + int(sizes.sum())
        if self.groups.granularity.pattern and len(sizes):
            size = int(sizes[0])
            return self._fixed + len(sizes) * _nearest(self.count / total * size, size)
        return total if self._fixed == total else max(self._fixed, self.count)

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most weights that can stay after rounding to whole groups."""
        sizes, fixed, goal = self._sizes, self._fixed, self.goal
        if not len(sizes):
            return fixed, fixed
        if self.groups.granularity.pattern:
            return goal, goal
        least, largest = len(self._places), int(sizes.max())
        if int(sizes.min()) == largest:
            number = min(max((2 * (goal - fixed) + largest) // (2 * largest), least), len(sizes))
            return fixed + number * largest, fixed + number * largest
        half = (largest + 1) // 2
        return max(fixed, goal - half), max(goal + half, fixed + least * largest)

    @property
    def resolution(self) -> int:
        """The largest possible difference between the number of kept weights and the goal."""
        least, most = self.bounds
        return max(most - self.goal, self.goal - least)

    @property
    def falls_short(self) -> bool:
        """Whether the goal is out of reach, because no layer may be emptied. Needs groups."""
        return 2 * (self.bounds[1] - self.goal) > int(self._sizes.max()) + 1

    @property
    def number_kept(self) -> tuple[int, int]:
        """The approximate number of groups that stay, and of all groups; for a pattern: n and M."""
        sizes, goal = self._sizes, self.goal - self._fixed
        if not len(sizes):
            return 0, 0
        if self.groups.granularity.pattern:
            return goal // len(sizes), int(sizes[0])
        number = math.floor(goal / int(sizes.sum()) * len(sizes) + 0.5)
        return max(number, len(self._places)), len(sizes)

    @property
    def shares_noise(self) -> bool:
        """Whether groups differ in size: means of independent noise would favour one size."""
        sizes = self._sizes
        return bool(len(sizes)) and int(sizes.min()) != int(sizes.max())

    def shared(self, noise: State) -> State:
        return self.groups.one_of_each(noise) if self.shares_noise else noise

    @property
    def winners(self) -> str:
        return f"the {self.groups.granularity.noun}s"

    def keep_top(self, scores: Tensor, kept: Mask, ties: torch.Generator) -> Tensor:
        """Which of the `scores` `[n]` of the weights that `kept` keeps stay: bool `[n]`.

        A group's score is the mean score of its weights. The number of groups that stay is the one
        that comes nearest to the count (the larger number if two are equally near), but at least
        one group of each layer stays.
        """
        left = torch.cat([kept[name][0].flatten() for name in self.names])
        numbers = torch.cat([self.groups.numbers[name].flatten() for name in self.names])
        goal = self.goal - self._fixed
        scores = torch.where(scores.isnan(), -torch.inf, scores.double())
        if self.groups.granularity.pattern:
            return self._keep_pattern(scores, left, numbers, goal, ties)
        own = numbers[left]
        grouped = own != WHOLE
        ids, place = own[grouped].unique(return_inverse=True)
        if not len(ids):
            return torch.ones_like(own, dtype=torch.bool)
        sizes = torch.bincount(place, minlength=len(ids))
        means = torch.zeros(len(ids), dtype=torch.float64)
        means = means.index_add_(0, place, scores[grouped]) / sizes
        order = torch.randperm(len(ids), generator=ties)
        order = order[means[order].argsort(descending=True, stable=True)]
        order = self._one_of_each_first(order, ids)
        total = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)])
        miss = (total - goal).abs()
        number = int((miss == miss.min()).nonzero().max())
        chosen = torch.zeros(len(ids), dtype=torch.bool)
        chosen[order[: max(number, len(self._places))]] = True
        stays = torch.ones_like(own, dtype=torch.bool)
        stays[grouped] = chosen[place]
        return stays

    def _keep_pattern(
        self, scores: Tensor, left: Tensor, numbers: Tensor, goal: int, ties: torch.Generator
    ) -> Tensor:
        """Keep N of each M: within a group, the highest scores of the weights not yet pruned."""
        worst = torch.finfo(torch.float64).min
        full = torch.full(left.shape, -torch.inf, dtype=torch.float64)
        full[left] = scores.nan_to_num(neginf=worst)  # -inf marks pruned weights
        grouped = (numbers != WHOLE).nonzero().squeeze(1)
        sizes = counts(numbers)
        if not len(sizes):
            return torch.ones(int(left.sum()), dtype=torch.bool)
        rows = grouped[numbers[grouped].argsort(stable=True)].view(len(sizes), -1)
        number = torch.full((len(rows),), goal // len(rows))
        noise = torch.rand(rows.shape, generator=ties)
        stays = numbers == WHOLE
        stays[rows.flatten()] = keep_top_of_rows(full[rows], number, noise).flatten()
        return stays[left]

    def _one_of_each_first(self, order: Tensor, ids: Tensor) -> Tensor:
        """Put the best group of each layer first in `order`, so that no layer is emptied."""
        ranked, front = ids[order], torch.zeros(len(order), dtype=torch.bool)
        for low, high in self._places:
            inside = ((ranked >= low) & (ranked <= high)).nonzero()
            front[inside[:1, 0]] = True
        return torch.cat([order[front], order[~front]])

    @functools.cached_property
    def _sizes(self) -> Tensor:
        return self.groups.sizes_of(self.names)

    @functools.cached_property
    def _fixed(self) -> int:
        """The number of weights that are in no group."""
        return sum(self.groups.whole[name] for name in self.names)

    @property
    def _places(self) -> list[tuple[int, int]]:
        return self.groups.places(self.names)


def competitions(
    target: Target, layers: Sequence[Layer], groups: Groups | None
) -> Sequence[Competition]:
    """The layers that compete at a level: each layer by itself, or all layers together."""
    if groups is None:
        return [Competition(*run) for run in target.groups(layers)]
    return group_competitions(target, layers, groups)


def group_competitions(
    target: Target, layers: Sequence[Layer], groups: Groups
) -> list[GroupCompetition]:
    """The competitions of groups; layers that share a group, as in attention, compete together."""
    merged: dict[int | str, tuple[list[Layer], int]] = {}
    heads = groups.granularity.word == "head" and target.scope == "layer"
    for together, count in target.groups(layers):
        name = together[0].name
        numbers = groups.numbers[name]
        place = int(numbers.max()) if heads and (numbers != WHOLE).any() else name
        before, kept = merged.get(place, ([], 0))
        merged[place] = [*before, *together], kept + count
    return [GroupCompetition(*run, groups) for run in merged.values()]


def _positions(kept: Tensor) -> Tensor:
    """The positions of the kept weights; torch's own `nonzero` takes eight times as long."""
    return torch.from_numpy(np.flatnonzero(kept.numpy()))


def _nearest(number: float, most: int) -> int:
    """Round to the nearest integer in [1, `most`]; ties round up."""
    return min(max(math.floor(number + 0.5), 1), most)
