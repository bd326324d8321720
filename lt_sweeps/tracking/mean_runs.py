"""Aggregates: a cell over its seeds as a run of its own, since trackers cannot compute it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from lt_sweeps.analysis.stats import spread
from lt_sweeps.tracking.tracked_runs import Level, Row, Run, Source

_OVER = ("mean", "sd", "min", "max", "ci_low", "ci_high")


def aggregates(sources: Iterable[Source]) -> list[Run]:
    """One run per cell that has several seeds in this sweep.

    A level is in it once every seed has it: a row that is there never changes. More seeds are
    another mean, and so another run.
    """
    cells: dict[str, list[Source]] = {}
    for source in sources:
        cells.setdefault(source.signature, []).append(source)
    return [_aggregate(seeds) for seeds in cells.values() if len(seeds) > 1]


def _aggregate(seeds: Sequence[Source]) -> Run:
    first = seeds[0]
    named = hashlib.sha256(" ".join(sorted(source.seed for source in seeds)).encode()).hexdigest()
    rows = tuple(row for levels in _levels(seeds) for row in _rows(levels))
    alike = {name: value for name, value in first.run.config.items() if name != "seed"}
    done = all(source.done for source in seeds)
    return Run(
        key=f"{first.signature}-mean-{named[:8]}",
        name=f"{first.name}-mean-of-{len(seeds)}",
        group=first.run.group,
        kind="mean over seeds",
        tags=(*first.tags, "mean"),
        config={**alike, "over_seeds": [source.seed for source in seeds]},
        rows=rows,
        summary={"seeds": len(seeds), **(dict(rows[-1]) if rows else {})},
        done=done,
    )


def _levels(seeds: Sequence[Source]) -> Iterator[tuple[Level, ...]]:
    """The levels that every seed has been through."""
    for levels in zip(*(source.levels for source in seeds), strict=False):
        if any(level.record is None for level in levels):
            return
        yield levels


def _rows(levels: Sequence[Level]) -> Iterator[Row]:
    curves = [level.curve for level in levels]
    for at in zip(*curves, strict=False):
        if len({row["level_step"] for row in at}) == 1:
            yield _over(at)
    yield _over([level.result for level in levels])


def _over(rows: Sequence[Row]) -> Row:
    """Means and intervals of what the rows measure, over the finite ones; the axes are theirs."""
    over: dict[str, object] = {name: rows[0][name] for name in ("step", "level", "level_step")}
    finite = [row for row in rows if row.get("ticket/finite", row.get("search/finite", True))]
    if "sparsity" in rows[0]:
        for name in ("sparsity", "percent_remaining"):
            over[name] = math.fsum(row[name] for row in rows) / len(rows)
        over |= {
            "ticket/seeds": len(rows),
            "ticket/finite_seeds": len(finite),
            "ticket/collapsed_seeds": sum(bool(row["ticket/collapsed"]) for row in rows),
        }
    for name in dict.fromkeys(name for row in finite for name in row if "/" in name):
        numbers = asdict(spread([row[name] for row in finite if _number(row.get(name))]))
        kinds = _OVER if name.startswith(("ticket/test", "ticket/val", "val/")) else ("mean",)
        over |= {f"{kind}/{name}": numbers[kind] for kind in kinds if _number(numbers[kind])}
    return over


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
