"""Top k: select the highest scores, exactly as many as requested."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, draw, generator
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.counter_noise import Noise

_TOGETHER = 2**24  # the most scores that are ranked at once; ranking makes several copies


def keep_top(scores: Tensor, count: int, ties: torch.Generator) -> Tensor:
    """Which of `scores` `[n]` are the `count` highest: bool `[n]`, exactly `min(count, n)` True.

    Ties at the lowest kept score are broken at random. NaN counts as -inf.
    """
    if count >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    scores = _numbers(scores)
    boundary = scores.kthvalue(len(scores) - count + 1).values
    keep = scores > boundary
    tied = (scores == boundary).nonzero().squeeze(1)
    need = count - int(keep.sum())
    # A threshold alone would keep all tied scores, and so more than `count`: thousands more after
    # pruning to 0, or if a criterion has few distinct values. So only as many tied scores stay as
    # are still needed. Drawing a random order takes time, so it is done only if some must go.
    if need < len(tied):
        tied = tied[torch.randperm(len(tied), generator=ties)[:need]]
    keep[tied] = True
    return keep


def keep_top_of_each(
    scores: Tensor, counts: Tensor, seeds: tuple[Seed, ...], *index: int | str
) -> Tensor:
    """`keep_top` for every replicate: bool `[R, n]` from scores `[R, n]` and counts `[R]`.

    The replicate's seed and `index` break ties: on the CPU as in `keep_top`, on a device by
    counter-based noise, because the host does not know there how many scores are tied.
    """
    return keep_top_of_layers(scores[None], counts[None], seeds, [index])[0]


def keep_top_of_layers(
    scores: Tensor,
    counts: Tensor,
    seeds: tuple[Seed, ...],
    indices: Sequence[tuple[int | str, ...]],
) -> Tensor:
    """`keep_top_of_each` for L layers of equal size, each with its own index: bool `[L, R, n]`.

    Scores are `[L, R, n]`, counts `[L, R]`. A device runs only as many kernels as for one layer.
    """
    if host_reads(scores):
        layers = zip(scores, counts, indices, strict=True)
        return torch.stack([_keep_top_on_host(*layer, seeds) for layer in layers])
    rows = scores.flatten(0, 1)
    noise = Noise(len(rows), rows.shape[1], rows.device)
    # One number for all replicates of a layer, passed as a kernel argument: no copy is needed.
    numbers = [draw(0, "ties", *index) & 0x7FFFFFFF for index in indices]
    noise.seed(torch.cat([_keys(seeds, rows.device) + number for number in numbers]))
    return keep_top_of_rows(rows, counts.flatten(), noise.draw()).view_as(scores)


def _keep_top_on_host(
    scores: Tensor, counts: Tensor, index: tuple[int | str, ...], seeds: tuple[Seed, ...]
) -> Tensor:
    ties = [generator(seed.role("noise"), "ties", *index) for seed in seeds]
    rows = zip(scores, counts.tolist(), ties, strict=True)
    return torch.stack([keep_top(*row) for row in rows])


def keep_top_of_rows(scores: Tensor, counts: Tensor, noise: Tensor) -> Tensor:
    """Select the `counts` `[R]` highest scores of each row `[R, n]`; does not wait for the device.

    Ties at the lowest kept score are broken by the highest `noise` `[R, n]`, and then by position:
    noise has only 2^24 different values, so in a large layer a few are equal.
    """
    missing, keep = counts[:, None], torch.zeros_like(scores, dtype=torch.bool)
    among = ~keep
    for values in (_numbers(scores), noise):
        lowest = _lowest_kept(values.masked_fill(~among, -torch.inf), missing)
        higher, among = among & (values > lowest), among & (values == lowest)
        keep, missing = keep | higher, missing - higher.sum(1, keepdim=True)
    return keep | (among & (among.cumsum(1, dtype=torch.int32) <= missing))


def increasing(scores: Tensor) -> Tensor:
    """`scores.argsort(stable=True)`, in an eighth of the time for float32 on a CPU.

    Torch sorts integers by their digits (radix sort), and floats by comparing them.
    """
    if scores.dtype != torch.float32:
        return scores.argsort(stable=True)
    # Read as integers, the bits of positive floats increase with the float, and those of negative
    # floats decrease. Both zeros get one pattern, and all NaN one pattern above infinity.
    bits = torch.where(scores.isnan(), torch.nan, scores + 0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).argsort(stable=True)


def host_reads(tensor: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for a device."""
    return tensor.device.type == "cpu"


def by_layer(flat: Tensor, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Split `flat` `[..., n]`, several layers one after another, into `[..., *shape]` by layer."""
    parts = zip(layers, flat.split([layer.size for layer in layers], -1), strict=True)
    return {layer.name: part.view(*flat.shape[:-1], *layer.shape) for layer, part in parts}


def of_one_size(layers: Sequence[Layer], replicates: int) -> list[list[Layer]]:
    """Group layers that are ranked together: of equal size, and few enough to fit in memory."""
    groups: dict[tuple[int, int], list[Layer]] = {}
    counts: dict[int, int] = {}
    for layer in layers:
        number = counts[layer.size] = counts.get(layer.size, -1) + 1
        together = max(1, _TOGETHER // (layer.size * replicates))
        groups.setdefault((layer.size, number // together), []).append(layer)
    return list(groups.values())


def _numbers(scores: Tensor) -> Tensor:
    return torch.where(scores.isnan(), -torch.inf, scores)


def _lowest_kept(scores: Tensor, counts: Tensor) -> Tensor:
    """The lowest of the `counts` `[R, 1]` highest scores of each row: `[R, 1]`.

    `topk` needs one k for all rows, and the host must know it. So each row is padded to 2n numbers,
    with n - count that are higher than any score and count that are lower, and k is n. (`kthvalue`
    is not deterministic on a GPU, and sorting takes longer.)
    """
    size = scores.shape[1]
    higher = torch.arange(size, device=scores.device) < size - counts
    padding = torch.where(higher, torch.inf, -torch.inf).to(scores.dtype)
    padded = torch.cat([scores, padding], 1)
    return padded.topk(size, dim=1, sorted=False).values.amin(1, keepdim=True)


@functools.lru_cache(maxsize=4)
def _keys(seeds: tuple[Seed, ...], device: torch.device) -> Tensor:
    """A key for each replicate, sent to the device once: int32 `[R]`."""
    numbers = [draw(seed.role("noise"), "ties") & 0x7FFFFFFF for seed in seeds]
    return torch.tensor(numbers, dtype=torch.int32, device=device)
