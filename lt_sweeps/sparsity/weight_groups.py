"""`Groups`: the weights of a network in groups that stay whole or go, and how many stay."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.granularity import Granularity
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.top_k import keep_top_of_rows

WHOLE = -1
"""The number of weights that are in no group: they all stay."""
Run = tuple[Sequence[Layer], int]
"""Layers that compete with each other, and how many weights they were asked to keep."""


@dataclass(frozen=True)
class Groups:
    """The group of each weight of a network: `numbers[layer]` is int32 `[*shape]`, or `WHOLE`.

    Numbers go up from 0 without gaps, layer after layer; a head is one group in several layers, any
    other lies in one. Of a pattern N:M a group is M weights of which N stay.
    """

    granularity: Granularity
    numbers: Mapping[str, Tensor]

    @functools.cached_property
    def sizes(self) -> Mapping[str, Tensor]:
        """How many weights of a layer each of its groups has: `[groups of the layer]`."""
        return {name: _counts(numbers) for name, numbers in self.numbers.items()}

    @functools.cached_property
    def whole(self) -> Mapping[str, int]:
        """How many weights of each layer are in no group."""
        return {n: numbers.numel() - len(_grouped(numbers)) for n, numbers in self.numbers.items()}

    def runs(self, target: Target, layers: Sequence[Layer]) -> list[Run]:
        """The layers that compete, and their counts: those that share a group compete together."""
        runs: list[Run] = target.groups(layers)
        if self.granularity.word != "head" or target.scope == "global":
            return runs
        merged: dict[int | str, Run] = {}
        for group, count in runs:
            numbers = self.numbers[group[0].name]
            place = int(numbers.max()) if (numbers != WHOLE).any() else group[0].name
            before, kept = merged.get(place, ([], 0))
            merged[place] = [*before, *group], kept + count
        return list(merged.values())

    def goal(self, run: Run) -> int:
        """How many weights a run keeps if groups could be split: what is in none always stays."""
        layers, count = run
        sizes = self._sizes([layer.name for layer in layers])
        fixed = sum(self.whole[layer.name] for layer in layers)
        total = fixed + int(sizes.sum())
        if self.granularity.pattern and len(sizes):
            return fixed + len(sizes) * _nearest(count / total * int(sizes[0]), int(sizes[0]))
        return total if fixed == total else max(fixed, count)

    def bounds(self, run: Run) -> tuple[int, int]:
        """The fewest and the most weights that a run can keep, by rounding to whole groups."""
        layers, goal = run[0], self.goal(run)
        names = [layer.name for layer in layers]
        sizes, fixed = self._sizes(names), sum(self.whole[n] for n in names)
        if not len(sizes):
            return fixed, fixed
        if self.granularity.pattern:
            return goal, goal
        least, largest = len(self._places(names)), int(sizes.max())
        if int(sizes.min()) == largest:
            number = min(max((2 * (goal - fixed) + largest) // (2 * largest), least), len(sizes))
            return fixed + number * largest, fixed + number * largest
        half = (largest + 1) // 2
        return max(fixed, goal - half), max(goal + half, fixed + least * largest)

    def differ(self, names: Sequence[str]) -> bool:
        """Whether the groups of some layers, which compete, differ in size."""
        sizes = self._sizes(names)
        return bool(len(sizes)) and int(sizes.min()) != int(sizes.max())

    def one_of_each(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise by layer, in which all weights of a group have the number of its first one.

        The mean of a hundred random numbers is near 1/2 and that of three is not: by such means a
        random choice would prune the large groups first at a high sparsity, and last at a low one.
        """
        numbers = torch.cat([self.numbers[name].flatten() for name in noise])
        flat = torch.cat([each.flatten() for each in noise.values()])
        ordered, order = numbers.sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        flat[order] = flat[order[first]][first.cumsum(0) - 1]
        parts = flat.split([each.numel() for each in noise.values()])
        return {n: part.view_as(noise[n]) for n, part in zip(noise, parts, strict=True)}

    def resolution(self, run: Run) -> int:
        """By how many weights a run may keep more or fewer than it was asked to."""
        (least, most), goal = self.bounds(run), self.goal(run)
        return max(most - goal, goal - least)

    def falls_short(self, run: Run) -> bool:
        """Whether a run cannot come near its count, because no layer is emptied."""
        sizes = self._sizes([layer.name for layer in run[0]])
        if not len(sizes):
            return False
        return 2 * (self.bounds(run)[1] - self.goal(run)) > int(sizes.max()) + 1

    def number_kept(self, run: Run) -> tuple[int, int]:
        """About how many groups of a run stay, of how many; of a pattern how many of M inputs."""
        names = [layer.name for layer in run[0]]
        sizes, goal = self._sizes(names), self.goal(run) - sum(self.whole[n] for n in names)
        if not len(sizes):
            return 0, 0
        if self.granularity.pattern:
            return goal // len(sizes), int(sizes[0])
        number = math.floor(goal / int(sizes.sum()) * len(sizes) + 0.5)
        return max(number, len(self._places(names))), len(sizes)

    def split_layer(self, mask: Mapping[str, Tensor]) -> str:
        """The first layer of which a mask `[1, *shape]` splits a group; empty if none is split."""
        for name, numbers in self.numbers.items():
            kept = mask[name][0]
            if not bool(kept[numbers == WHOLE].all()):
                return name
            left = _counts(torch.where(kept, numbers, WHOLE), like=numbers)
            if self.granularity.pattern:
                split = len(left) > 0 and int(left.min()) != int(left.max())
            else:
                split = bool(((left != 0) & (left != self.sizes[name])).any())
            if split:
                return name
        return ""

    def keep_top(
        self,
        scores: Tensor,
        kept: Mapping[str, Tensor],
        run: Run,
        ties: torch.Generator,
    ) -> Tensor:
        """Which of the `scores` `[n]` of the weights that `kept` keeps stay: bool `[n]`.

        The score of a group is the mean of its weights'. As many groups stay as come nearest to
        the count, the more of two that are equally near, and of each layer at least one.
        """
        names = [layer.name for layer in run[0]]
        left = torch.cat([kept[name][0].flatten() for name in names])
        numbers = torch.cat([self.numbers[name].flatten() for name in names])
        goal = self.goal(run) - sum(self.whole[name] for name in names)
        scores = torch.where(scores.isnan(), -torch.inf, scores.double())
        if self.granularity.pattern:
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
        order = self._one_of_each_first(order, ids, names)
        total = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)])
        miss = (total - goal).abs()
        number = int((miss == miss.min()).nonzero().max())
        chosen = torch.zeros(len(ids), dtype=torch.bool)
        chosen[order[: max(number, len(self._places(names)))]] = True
        stays = torch.ones_like(own, dtype=torch.bool)
        stays[grouped] = chosen[place]
        return stays

    def _keep_pattern(
        self, scores: Tensor, left: Tensor, numbers: Tensor, goal: int, ties: torch.Generator
    ) -> Tensor:
        """N of each M: within a group the highest scores that are left."""
        worst = torch.finfo(torch.float64).min
        full = torch.full(left.shape, -torch.inf, dtype=torch.float64)
        full[left] = scores.nan_to_num(neginf=worst)  # above what is pruned already
        grouped = (numbers != WHOLE).nonzero().squeeze(1)
        sizes = _counts(numbers)
        if not len(sizes):
            return torch.ones(int(left.sum()), dtype=torch.bool)
        rows = grouped[numbers[grouped].argsort(stable=True)].view(len(sizes), -1)
        counts = torch.full((len(rows),), goal // len(rows))
        noise = torch.rand(rows.shape, generator=ties)
        stays = numbers == WHOLE
        stays[rows.flatten()] = keep_top_of_rows(full[rows], counts, noise).flatten()
        return stays[left]

    def _one_of_each_first(self, order: Tensor, ids: Tensor, names: Sequence[str]) -> Tensor:
        """The order with the best group of each place in front, so that no layer is emptied."""
        ranked, front = ids[order], torch.zeros(len(order), dtype=torch.bool)
        for low, high in self._places(names):
            inside = ((ranked >= low) & (ranked <= high)).nonzero()
            front[inside[:1, 0]] = True
        return torch.cat([order[front], order[~front]])

    def _places(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """The first and last number of the groups of each layer; of an attention once for all."""
        return list(dict.fromkeys(self._ranges[name] for name in names if name in self._ranges))

    @functools.cached_property
    def _ranges(self) -> Mapping[str, tuple[int, int]]:
        grouped = {name: _grouped(numbers) for name, numbers in self.numbers.items()}
        return {n: (int(each.min()), int(each.max())) for n, each in grouped.items() if len(each)}

    def _sizes(self, names: Sequence[str]) -> Tensor:
        """The sizes of all groups of some layers; a head has weights in several of them."""
        together: dict[tuple[int, int], Tensor] = {}
        for name in names:
            for place in self._places([name]):
                sizes = self.sizes[name]
                together[place] = together[place] + sizes if place in together else sizes
        return torch.cat([torch.zeros(0, dtype=torch.int64), *together.values()])


def _nearest(number: float, most: int) -> int:
    """The whole number from 1 to `most` that is nearest, the larger of two."""
    return min(max(math.floor(number + 0.5), 1), most)


def _counts(numbers: Tensor, like: Tensor | None = None) -> Tensor:
    """How many weights have each number from the lowest of `like` to its highest: `[groups]`."""
    every = _grouped(numbers if like is None else like)
    if not len(every):
        return torch.zeros(0, dtype=torch.int64)
    low, high = int(every.min()), int(every.max())
    some = every if like is None else _grouped(numbers)
    return torch.bincount(some - low, minlength=high - low + 1)


def _grouped(numbers: Tensor) -> Tensor:
    """The numbers of the weights that are in a group: `[n]`."""
    flat = numbers.flatten()
    return flat if int(flat.min()) != WHOLE else flat[flat != WHOLE]
