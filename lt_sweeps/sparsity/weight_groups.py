"""`Groups`: the weights of a network in groups that are kept or pruned as a whole."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_sweeps.sparsity.granularity import Granularity

WHOLE = -1
"""The group number of weights that are in no group: they all stay."""


@dataclass(frozen=True)
class Groups:
    """The group number of each weight of a network, or `WHOLE`: `numbers[layer]`, int32 `[*shape]`.

    Numbers increase from 0 without gaps, layer after layer. A head is one group across several
    layers; any other group is in one layer. For a pattern N:M a group is M weights, and N stay.
    """

    granularity: Granularity
    numbers: Mapping[str, Tensor]

    @functools.cached_property
    def sizes(self) -> Mapping[str, Tensor]:
        """The number of weights of each group within a layer: `[groups of the layer]`."""
        return {name: counts(numbers) for name, numbers in self.numbers.items()}

    @functools.cached_property
    def whole(self) -> Mapping[str, int]:
        """The number of weights of each layer that are in no group."""
        return {n: numbers.numel() - len(_grouped(numbers)) for n, numbers in self.numbers.items()}

    def one_of_each(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise by layer, in which all weights of a group get the number of its first weight.

        The mean of a hundred random numbers is near 1/2, and the mean of three is not. By means of
        independent noise, a random choice would prune large groups first at a high sparsity, and
        last at a low one.
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
        """The first layer in which a mask `[1, *shape]` splits a group; empty if none is split."""
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
        """The first and last group number of each layer; an attention is listed once."""
        return list(dict.fromkeys(self._ranges[name] for name in names if name in self._ranges))

    @functools.cached_property
    def _ranges(self) -> Mapping[str, tuple[int, int]]:
        grouped = {name: _grouped(numbers) for name, numbers in self.numbers.items()}
        return {n: (int(each.min()), int(each.max())) for n, each in grouped.items() if len(each)}

    def sizes_of(self, names: Sequence[str]) -> Tensor:
        """The sizes of all groups of some layers; a head's size is summed over its layers."""
        together: dict[tuple[int, int], Tensor] = {}
        for name in names:
            for place in self.places([name]):
                sizes = self.sizes[name]
                together[place] = together[place] + sizes if place in together else sizes
        return torch.cat([torch.zeros(0, dtype=torch.int64), *together.values()])


def counts(numbers: Tensor, like: Tensor | None = None) -> Tensor:
    """Count the weights of each group from the lowest in `like` to the highest: `[groups]`."""
    every = _grouped(numbers if like is None else like)
    if not len(every):
        return torch.zeros(0, dtype=torch.int64)
    low, high = int(every.min()), int(every.max())
    some = every if like is None else _grouped(numbers)
    return torch.bincount(some - low, minlength=high - low + 1)


def _grouped(numbers: Tensor) -> Tensor:
    """The group numbers of the weights that are in a group: `[n]`."""
    flat = numbers.flatten()
    return flat if int(flat.min()) != WHOLE else flat[flat != WHOLE]
