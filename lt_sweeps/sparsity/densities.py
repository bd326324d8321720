"""Densities: schedules of one level that give each layer a density of its own.

A density is the fraction of a layer's weights that is kept, in (0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lt_sweeps.config.spelling import listed, nearest
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.schedules import Target, checked_sparsity, rising_targets

FAMILY = "densities"  # the first part of these names in stage keys; never changes


def erk(layers: Sequence[Layer], *, sparsity: float) -> tuple[Target, ...]:
    """Erdos-Renyi-Kernel: a layer's density is proportional to (sum / product) of its dimensions.

    A layer whose density would exceed 1 is dense, and the other layers become sparser instead.
    The number of weights pruned in all is the sum of `sparsity` times each layer's size, rounded
    down for each layer (arXiv:1911.11134).
    """
    return _one_level(layers, _erk(layers, checked_sparsity(sparsity)), sparsity)


def uniform(
    layers: Sequence[Layer], *, sparsity: float, dense_first: bool = True
) -> tuple[Target, ...]:
    """The same density in all layers but the first, which stays dense (`dense_first`).

    The network as a whole then keeps more than 1 - `sparsity`; the target is its actual sparsity.
    """
    density = 1 - checked_sparsity(sparsity)
    shares = [1.0 if dense_first and not n else density for n in range(len(layers))]
    return _one_level(layers, shares, _sparsity_of(layers, shares))


def given(
    layers: Sequence[Layer],
    *,
    densities: Mapping[str, float] | Sequence[float] = (),
    file: str | None = None,
) -> tuple[Target, ...]:
    """A density for every layer, by name or in the network's order, as values or in a file.

    Args:
        file: a yaml or json file with the densities.

    Raises:
        ValueError: a layer's density is missing or outside (0, 1], or a name is not a layer's.
    """
    key = "schedule.densities"
    if bool(densities) == (file is not None):
        raise ValueError(
            f"{key}: give either densities or a file of them, got {densities!r} and file={file}"
        )
    shares = densities if file is None else _read(file)
    names = [layer.name for layer in layers]
    if not isinstance(shares, Mapping):
        if len(shares) != len(names):
            raise ValueError(
                f"{key}: {len(shares)} numbers for {len(names)} layers, {listed(names)}"
            )
        shares = dict(zip(names, shares, strict=True))
    for name, share in shares.items():
        if name not in names:
            near = nearest(str(name), names)
            raise ValueError(f"{key}: no layer `{name}`; layers are {listed(names)}{near}")
        if not isinstance(share, (int, float)) or not 0 < share <= 1:
            percent = isinstance(share, (int, float)) and 1 < share <= 100
            hint = f"; did you mean {share / 100:g}?" if percent else ""
            raise ValueError(f"{key}: {share!r} for {name} lies outside (0, 1]{hint}")
    if missing := [name for name in names if name not in shares]:
        raise ValueError(f"{key}: no density for {listed(missing)}; give one for every layer")
    shares = [float(shares[name]) for name in names]
    return _one_level(layers, shares, _sparsity_of(layers, shares))


def _sparsity_of(layers: Sequence[Layer], shares: Sequence[float]) -> float:
    """The sparsity of the network if each layer keeps its share."""
    kept = sum(layer.size * share for layer, share in zip(layers, shares, strict=True))
    return 1 - kept / sum(layer.size for layer in layers)


def _one_level(
    layers: Sequence[Layer], shares: Sequence[float], sparsity: float
) -> tuple[Target, ...]:
    keep = [round(layer.size * share) for layer, share in zip(layers, shares, strict=True)]
    return rising_targets([Target("layer", tuple(keep), float(sparsity))], layers)


def _erk(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """The density of each layer; the densest layer becomes dense until no density exceeds 1."""
    sizes = [layer.size for layer in layers]
    raw = [sum(layer.shape) / layer.size for layer in layers]
    # A product such as 0.29 * 100 is not exact; rounded to nine decimals, it has the right floor.
    zeros = [math.floor(round(sparsity * size, 9)) for size in sizes]
    sparse = set(range(len(layers)))
    while sparse:
        budget = sum(sizes[i] for i in sparse) - sum(zeros)
        scale = budget / sum(raw[i] * sizes[i] for i in sparse)
        largest = max(raw[i] for i in sparse)
        if scale * largest <= 1:
            return [scale * raw[i] if i in sparse else 1.0 for i in range(len(layers))]
        sparse -= {i for i in sparse if raw[i] == largest}
    return [1.0] * len(layers)


def _read(file: str) -> Mapping[str, float] | Sequence[float]:
    try:
        text = Path(file).read_text("utf-8")
        densities = OmegaConf.to_container(OmegaConf.create(text))  # 1e-3 is a number, as in Hydra
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"schedule.file: {file} cannot be read: {said}") from None
    if not isinstance(densities, (Mapping, list)):
        raise ValueError(f"schedule.file: {file} holds {densities!r}; give densities by layer")
    return densities
