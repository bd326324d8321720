"""`Pack`: units that train stacked on one device, and the order in which packs can run."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lt_sweeps.config.identity import digest
from lt_sweeps.models.network import Network
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import pack_name


@dataclass(frozen=True)
class Pack:
    """Units that train together, stacked on one device."""

    units: tuple[Unit, ...]

    @functools.cached_property
    def name(self) -> str:
        return pack_name(self.units[0].stage.level, [unit.name for unit in self.units])

    @property
    def steps(self) -> int:
        """The number of optimizer steps; scoring without training counts as one."""
        return max(1, self.units[0].stage.length)


def packs(units: Iterable[Unit], *, stack_size: Mapping[str, int], workers: int) -> list[Pack]:
    """Group units that can train together into stacks of near equal size, enough for all workers.

    Units keep the order of their cells, so that the units of a pack stay together at the next
    level, and two workers can each go through the levels of their half without waiting.
    """
    kinds: dict[tuple[int | str | bool, ...], list[Unit]] = {}
    for unit in units:
        stage, start = unit.stage, unit.stage.start
        kind = (*stage.group, start.step, start.has_momentum, _network_key(stage.network))
        kinds.setdefault(kind, []).append(unit)
    stacks: list[Pack] = []
    for members in kinds.values():
        largest = stack_size[members[0].stage.key]
        count = max(math.ceil(len(members) / largest), min(workers, len(members)))
        edges = [len(members) * i // count for i in range(count + 1)]
        stacks += [Pack(tuple(members[first:last])) for first, last in itertools.pairwise(edges)]
    return stacks


def dependencies(members: Mapping[str, Sequence[Unit]]) -> dict[str, set[str]]:
    """For each pack or job, the names of those that must finish before it.

    Args:
        members: the units of each pack or job, by its name.
    """
    names = {unit: name for name, units in members.items() for unit in units}
    before: dict[str, set[str]] = {}
    for name, units in members.items():
        needed = {need for unit in units for need in unit.needs}
        before[name] = {names[need] for need in needed if need in names} - {name}
    return before


@functools.cache
def _network_key(network: Network) -> str:
    return digest({**network.identity(), **network.told_kinds})
