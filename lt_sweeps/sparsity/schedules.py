"""Schedules: how many weights are left at each level.

A schedule is a function of the network's prunable layers that returns one `Target` per level. A
rate is the fraction of the remaining weights that one level prunes; a sparsity is the fraction of
all prunable weights pruned so far, in [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import identity_of
from lt_sweeps.config.spelling import paired
from lt_sweeps.models.prunable import Layer

FAMILY = "schedules"  # the first part of these names in stage keys; never changes

Scope = Literal["layer", "global"]


@dataclass(frozen=True)
class Target:
    """How many weights a level keeps: one count per layer, or one for all layers together.

    `sparsity` is the requested one, NaN if there is none; `keep` are the counts it rounds to.
    """

    scope: Scope
    keep: tuple[int, ...]
    sparsity: float

    @classmethod
    def open(cls, layers: Sequence[Layer]) -> Target:
        """A target without a requested sparsity, for criteria that return a mask."""
        return cls("layer", tuple(layer.size for layer in layers), math.nan)

    def groups(self, layers: Sequence[Layer]) -> list[tuple[Sequence[Layer], int]]:
        """The layers that compete with each other, with the number of weights that they keep."""
        together = [layers] if self.scope == "global" else [[layer] for layer in layers]
        return list(zip(together, self.keep, strict=True))

    def identity(self) -> dict[str, Any]:
        """The counts alone, so that schedules with equal counts share their levels."""
        return {"scope": self.scope, "keep": list(self.keep), **identity_of(type(self))}


def geometric(
    layers: Sequence[Layer],
    *,
    levels: int | None = None,
    sparsity: float | None = None,
    conv: float = 0.2,
    hidden: float = 0.2,
    output: float = 0.2,
    scope: Scope = "layer",
) -> tuple[Target, ...]:
    """Prune a rate of the remaining weights per level, by the layer's kind.

    Ends after `levels`, or at `sparsity`; a level within 0.1 percent of the target density reaches
    it. If no level does, the last one prunes less than its rate. The levels before it do not depend
    on the target, so that cells with different targets share them. A global scope needs one rate.
    Counts are rounded as in arXiv:1905.01067: the number that a level prunes is rounded down. Only
    a last level that prunes less than its rate rounds the number it keeps to the nearest.
    """
    rates = {"conv": conv, "hidden": hidden, "output": output}
    for kind, rate in rates.items():
        if not 0 < rate < 1:
            raise ValueError(f"schedule: {kind}={rate}; a rate lies between 0 and 1")
    used = {layer.kind: rates[layer.kind] for layer in layers}
    if scope == "global" and len(set(used.values())) > 1:
        raise ValueError(f"schedule: a global scope needs one rate, got {paired(used)}")
    sizes = _sizes(layers, scope)
    bases = [1 - used[layer.kind] for layer in layers][: len(sizes)]

    def nominal(level: float) -> float:
        return 1 - sum(n * base**level for n, base in zip(sizes, bases, strict=True)) / sum(sizes)

    whole, last = _whole_and_last(levels, sparsity, nominal)
    targets, keep = [], sizes
    for level in range(1, whole + 1):
        keep = [n - int(n * ((1 - b) * 100.0) / 100) for n, b in zip(keep, bases, strict=True)]
        targets.append(Target(scope, tuple(keep), nominal(level)))
    if last is not None:
        keep = [round(n * base**last) for n, base in zip(sizes, bases, strict=True)]
        targets.append(Target(scope, tuple(keep), nominal(last)))
    return rising_targets(targets, layers)


def sparsities(
    layers: Sequence[Layer], *, sparsity: Sequence[float], scope: Scope = "layer"
) -> tuple[Target, ...]:
    """An explicit list of sparsities, one per level; each is per layer or over all layers."""
    if not sparsity:
        raise ValueError("schedule: sparsity=[]; give at least one sparsity")
    sizes = _sizes(layers, scope)
    targets = [
        Target(scope, tuple(round(n * (1 - checked_sparsity(s))) for n in sizes), float(s))
        for s in sparsity
    ]
    return rising_targets(targets, layers)


def one_shot(
    layers: Sequence[Layer], *, sparsity: float, scope: Scope = "layer"
) -> tuple[Target, ...]:
    """One level at one sparsity."""
    return sparsities(layers, sparsity=[sparsity], scope=scope)


def targets_of(schedule: Call, layers: Sequence[Layer]) -> tuple[Target, ...]:
    """Call a schedule. Raises: ValueError: it returns something other than targets."""
    targets = schedule(layers=layers)
    is_list = isinstance(targets, list | tuple) and len(targets) > 0
    if not is_list or not all(isinstance(target, Target) for target in targets):
        raise ValueError(
            f"schedule: `{schedule.target}` returned {targets!r}; give a Target for each level, as "
            "`lt_sweeps.sparsity.schedules.sparsities` does"
        )
    return tuple(targets)


def _sizes(layers: Sequence[Layer], scope: Scope) -> list[int]:
    sizes = [layer.size for layer in layers]
    return sizes if scope == "layer" else [sum(sizes)]


def _whole_and_last(
    levels: int | None, sparsity: float | None, nominal: Callable[[float], float]
) -> tuple[int, float | None]:
    """The number of whole levels, and the fractional level after them (or None)."""
    if (levels is None) == (sparsity is None):
        raise ValueError(
            f"schedule: got levels={levels} and sparsity={sparsity}; give one of them, and null "
            "for the other: schedule.levels=null schedule.sparsity=0.9"
        )
    if sparsity is not None:
        if sparsity == 0:
            raise ValueError("schedule: sparsity 0 prunes nothing; use method=dense")
        return _levels_to(checked_sparsity(sparsity), nominal)
    if levels is None or levels < 1:
        raise ValueError(f"schedule: levels={levels}; give 1 or more")
    return levels, None


def _levels_to(sparsity: float, nominal: Callable[[float], float]) -> tuple[int, float | None]:
    """The number of whole levels before `sparsity`, and the fractional level that reaches it.

    The fractional level is None if a whole level comes within 0.1 percent of the target density.
    """
    close = 1e-3 * (1 - sparsity)
    levels = 0
    while nominal(levels + 1) < sparsity + close:
        levels += 1
    if abs(nominal(levels) - sparsity) <= close:
        return levels, None
    low, high = float(levels), levels + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if nominal(middle) < sparsity else (low, middle)
    return levels, high


def checked_sparsity(sparsity: float) -> float:
    """Return `sparsity`. Raises: ValueError: it is not in [0, 1)."""
    if not 0 <= sparsity < 1:
        hint = f"; did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ValueError(f"schedule: sparsity {sparsity:g} lies outside [0, 1){hint}")
    return sparsity


def rising_targets(targets: list[Target], layers: Sequence[Layer]) -> tuple[Target, ...]:
    """Return the targets after checking that sparsity rises at every level and empties no layer.

    Raises:
        ValueError: sparsity does not rise, or a layer is emptied. In a global scope only the
            pruning itself shows whether a single layer is emptied.
    """
    full = Target(targets[0].scope, tuple(_sizes(layers, targets[0].scope)), 0.0)
    for level, (before, now) in enumerate(zip([full, *targets], targets, strict=False), 1):
        if (kept := sum(now.keep)) >= (earlier := sum(before.keep)):
            rises = now.sparsity > before.sparsity and level > 1  # but by less than one weight
            raise ValueError(
                f"schedule: sparsity must rise at every level, got {before.sparsity:.6g} at level "
                f"{level - 1} and {now.sparsity:.6g} at level {level}, which keep {earlier} and "
                f"{kept} weights" + f"; this network allows {level - 1} levels at most" * rises
            )
        if 0 in now.keep:
            layer = layers[now.keep.index(0)].name if now.scope == "layer" else "every layer"
            raise ValueError(
                f"schedule: level {level} (sparsity {now.sparsity:.6g}) leaves nothing of "
                f"{layer}; prune less, or exclude it"
            )
    return tuple(targets)
