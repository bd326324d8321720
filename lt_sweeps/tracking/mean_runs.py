"""Runs with a cell's mean and interval over its seeds, which trackers cannot compute."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import compress

from lt_sweeps.analysis.labels import group_by
from lt_sweeps.analysis.stats import spread
from lt_sweeps.tracking.tracked_runs import AXES, Level, Row, Run, TrackedCell

KINDS = ("mean", "sd", "min", "max", "sd_low", "sd_high", "ci_low", "ci_high")


def runs_over_seeds(tracked: Iterable[TrackedCell]) -> list[Run]:
    """Return one mean run for each cell that has several seeds in this sweep.

    A level is added once every seed has finished it, because a row cannot change after it was sent.
    For the same reason, a cell that gets more seeds gets a new mean run.
    """
    cells = group_by(tracked, lambda cell: cell.signature)
    return [_mean_run(seeds) for seeds in cells.values() if len(seeds) > 1]


def _mean_run(seeds: Sequence[TrackedCell]) -> Run:
    first = seeds[0]
    digest = hashlib.sha256(" ".join(sorted(cell.seed for cell in seeds)).encode()).hexdigest()
    rows = tuple(row for levels in _levels(seeds) for row in _rows(levels))
    shared = {name: value for name, value in first.run.config.items() if name != "seed"}
    return Run(
        key=f"{first.signature}-mean-{digest[:8]}",
        name=f"{first.name}-mean-of-{len(seeds)}",
        group=first.group,
        kind="mean over seeds",
        tags=(*first.tags, "mean"),
        config={**shared, "over_seeds": [cell.seed for cell in seeds]},
        settings={**first.settings, "over_seeds": ",".join(cell.seed for cell in seeds)},
        about={**first.place, "cell": first.signature},
        rows=rows,
        summary={"seeds": len(seeds), **(dict(rows[-1]) if rows else {})},
        done=all(cell.done for cell in seeds),
        dropped=any(cell.run.dropped for cell in seeds),
    )


def _levels(seeds: Sequence[TrackedCell]) -> Iterator[tuple[Level, ...]]:
    """Each level that every seed has finished, with one entry per seed."""
    for levels in zip(*(cell.levels for cell in seeds), strict=False):
        if any(level.record is None for level in levels):
            return
        yield levels


def _rows(levels: Sequence[Level]) -> Iterator[Row]:
    finite = [level.record is not None and level.record.finite for level in levels]
    curves = [level.curve for level in levels]
    for at in zip(*curves, strict=False):
        if len({row["level_step"] for row in at}) == 1:
            yield _combined_row(at, finite)
    yield _combined_row([level.result for level in levels], finite)


def _combined_row(rows: Sequence[Row], are_finite: Sequence[bool]) -> Row:
    """Combine the rows of several seeds at one step: the first row's axes, statistics of the rest.

    A replicate whose level diverged is counted, but left out of the statistics, also at the
    evaluations before it diverged.
    """
    combined: dict[str, object] = {name: rows[0][name] for name in AXES}
    finite = list(compress(rows, are_finite))
    if "sparsity" in rows[0]:
        for name in ("sparsity", "percent_remaining"):
            combined[name] = math.fsum(row[name] for row in rows) / len(rows)
        combined |= {
            "ticket/seeds": len(rows),
            "ticket/finite_seeds": len(finite),
            "ticket/collapsed_seeds": sum(bool(row["ticket/collapsed"]) for row in rows),
        }
    for name in dict.fromkeys(name for row in finite for name in row if "/" in name):
        found = asdict(spread([row[name] for row in finite if _number(row.get(name))]))
        # The edges of the report's band `sd`: W&B does not document the divisor of its variance.
        found |= {"sd_low": found["mean"] - found["sd"], "sd_high": found["mean"] + found["sd"]}
        kinds = ("mean",) if name.startswith("layers/") else KINDS
        combined |= {f"{kind}/{name}": found[kind] for kind in kinds if _number(found[kind])}
    return combined


def _number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
