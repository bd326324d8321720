"""`Groups`: the weights of a network in groups that stay whole or go."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.sparsity.granularity import Granularity

WHOLE = -1
"""The number of weights that are in no group: they all stay."""


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
        return {name: counts(numbers) for name, numbers in self.numbers.items()}

    @functools.cached_property
    def whole(self) -> Mapping[str, int]:
        """How many weights of each layer are in no group."""
        return {n: numbers.numel() - len(_grouped(numbers)) for n, numbers in self.numbers.items()}

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

    def split_layer(self, mask: Mapping[str, Tensor]) -> str:
        """The first layer of which a mask `[1, *shape]` splits a group; empty if none is split."""
        for name, numbers in self.numbers.items():
            kept = mask[name][0]
            if not bool(kept[numbers == WHOLE].all()):
                return name
            left = counts(torch.where(kept, numbers, WHOLE), like=numbers)
            if self.granularity.pattern:
                split = len(left) > 0 and int(left.min()) != int(left.max())
            else:
                split = bool(((left != 0) & (left != self.sizes[name])).any())
            if split:
                return name
        return ""

    def places(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """The first and last number of the groups of each layer; of an attention once for all."""
        return list(dict.fromkeys(self._ranges[name] for name in names if name in self._ranges))

    @functools.cached_property
    def _ranges(self) -> Mapping[str, tuple[int, int]]:
        grouped = {name: _grouped(numbers) for name, numbers in self.numbers.items()}
        return {n: (int(each.min()), int(each.max())) for n, each in grouped.items() if len(each)}

    def sizes_of(self, names: Sequence[str]) -> Tensor:
        """The sizes of all groups of some layers; a head has weights in several of them."""
        together: dict[tuple[int, int], Tensor] = {}
        for name in names:
            for place in self.places([name]):
                sizes = self.sizes[name]
                together[place] = together[place] + sizes if place in together else sizes
        return torch.cat([torch.zeros(0, dtype=torch.int64), *together.values()])


def counts(numbers: Tensor, like: Tensor | None = None) -> Tensor:
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
