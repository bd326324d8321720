"""Weights and masks of stored tickets as numpy arrays, for figures that need more than records.

Tickets are found by the stage keys in the records and read without torch. A missing ticket (records
were copied, or the store was cleared) is None. A ticket that does not match its checksum is an
error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import scipy.special
from numpy.typing import NDArray

from lt_sweeps.analysis.curve import Curve, Point
from lt_sweeps.analysis.results import CellResults
from lt_sweeps.storage import ticket_file
from lt_sweeps.storage.mask_bits import unpacked
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.ticket_file import LEARNED, MASK, CorruptTicket

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Weights:
    """One seed's ticket, by parameter name: tensors, mask, and the logits of a learned mask."""

    values: Arrays
    kept: Arrays
    logits: Arrays


@dataclass(frozen=True)
class Pruning:
    """One pruning of one layer: flat arrays over the weights that were unpruned before it."""

    init: NDArray[Any]  # in units of the standard deviation of the layer's initial weights
    final: NDArray[Any]
    kept: NDArray[Any]


@dataclass(frozen=True)
class MaskChances:
    """A learned mask at the end of its training, by weight: the chance to be kept, or soft mask.

    `chances` is sigmoid(slope * logit + shift); the slope of an annealed mask is its last beta.
    """

    stage: str
    slope: float
    chances: NDArray[Any]


def weights(root: Path, stage: str, seed: str) -> Weights | None:
    """Read the ticket of a stage and a seed; None if it is not stored.

    Raises: ValueError: the file differs from what was written.
    """
    path = ticket_file.ticket_path(root, stage, seed)
    try:
        metadata, content = ticket_file.read_content(path)
    except FileNotFoundError:
        return None
    except CorruptTicket as error:
        raise ValueError(f"{path}: {error}; `resume` computes it again") from None
    tensors = unpacked(safetensors.numpy.load(content), metadata)
    named = ticket_file.split_by_prefix(dict(sorted(tensors.items())))
    return Weights(named[""], named[MASK], named[LEARNED])


def masks(root: Path, curve: Curve, point: Point) -> dict[str, Arrays]:
    """The masks of a point's tickets, by seed and layer; only for seeds whose mask is stored.

    A mask that is drawn anew from learned probabilities has none.
    """
    rows = {seed: found[1] for seed in curve.seeds if (found := _row(curve, point, seed))}
    tickets = {seed: weights(root, row.stage, seed) for seed, row in rows.items()}
    # The ticket of a network that was only scored has metrics and no tensors. While a mask is
    # learned, the ticket keeps every weight, and the logits say how often each is used.
    return {
        seed: ticket.kept
        for seed, ticket in tickets.items()
        if ticket and ticket.kept and not (ticket.logits and _is_whole(ticket.kept))
    }


def _is_whole(kept: Arrays) -> bool:
    return all(mask.all() for mask in kept.values())


def learned_masks(root: Path, curve: Curve, point: Point) -> dict[str, MaskChances]:
    """The learned mask of a point, by seed; only for seeds that have a stored learned mask.

    It is the mask that the point itself learned, or otherwise that of the last search before it.
    """
    learned = {}
    for seed in curve.seeds:
        if (found := _row(curve, point, seed)) is None:
            continue
        cell, own = found
        searches = [(r.stage, r.mask_chance) for r in (*cell.search, own) if r.mask_chance]
        if not searches:
            continue
        stage, (slope, shift) = searches[-1]
        ticket = weights(root, stage, seed)
        if ticket is not None and ticket.logits:
            logits = np.concatenate([layer.ravel() for layer in ticket.logits.values()])
            chances = scipy.special.expit(slope * logits.astype(np.float64) + shift)
            learned[seed] = MaskChances(stage, slope, chances)
    return learned


def prunings(root: Path, curve: Curve, point: Point, seed: str) -> Iterator[Pruning]:
    """Yield the pruning that led to a point, layer by layer; nothing if a ticket is not stored.

    `init` is from the network's first initialization and `final` from the end of the training
    before the pruning, both only for weights that this training still had. Nothing is yielded for a
    mask that was learned, or that grew while its network trained: it has no such pruning.
    """
    found = _row(curve, point, seed)
    if found is None:
        return
    cell, row = found
    # Not the previous row of the table: IMP-Continued prunes weights of a training that is not in
    # the table, and continues in parallel.
    starts = [other for other in (*cell.search, *cell.rows) if other.stage in (row.after or ())]
    before = [other for other in starts if other.level == row.level - 1]
    if not before or row.init is None or any(other.level >= row.level for other in starts):
        return
    first = weights(root, row.init, seed)
    last = weights(root, before[-1].stage, seed)
    after = weights(root, row.stage, seed)
    if first is None or last is None or after is None:
        return
    for layer, kept in after.kept.items():
        left = last.kept[layer].astype(bool)
        start = first.values[layer]
        scale = float(start.std()) or 1.0
        yield Pruning(start[left] / scale, last.values[layer][left] / scale, kept[left])


def points_near(curves: Iterable[Curve], sparsities: Iterable[float]) -> list[tuple[Curve, Point]]:
    """The pruned points nearest to the sparsities, with their curves, each point once."""
    pairs = [(curve, point_near(curve, at)) for at, curve in product(sparsities, curves)]
    # A point may be the nearest to two sparsities. Drawn twice, its seeds would count twice.
    once = {(id(curve), id(point)): (curve, point) for curve, point in pairs if point is not None}
    return list(once.values())


def point_near(curve: Curve, sparsity: float) -> Point | None:
    """The pruned point with the nearest density, in ratio; None if none is within exp(0.25)."""
    density = 100 * (1 - sparsity)
    pruned = [point for point in curve.points if point.pruned and point.percent > 0]
    near = min(pruned, key=lambda p: abs(np.log(p.percent / density)), default=None)
    return near if near is not None and abs(np.log(near.percent / density)) < 0.25 else None


def _row(curve: Curve, point: Point, seed: str) -> tuple[CellResults, Record] | None:
    """The record of a point and seed, with its cell; None if the seed has none."""
    pairs = ((cell, row) for cell in curve.by_seed.get(seed, ()) for row in cell.rows)
    return next((pair for pair in pairs if pair[1].stage in point.stages), None)
