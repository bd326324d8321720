"""A trial of a search: the cells of one job of a third-party sweeper, and their objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lt_sweeps.analysis.objective import Objective
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.storage.run_folder import RunFolder


class FailedTrial(ValueError):
    """A trial that has no objective: it is unfinished, has diverged, or lacks the metric."""


def by_seed(cell: Cell) -> list[Cell]:
    """Return the cells of a trial, one for each seed of `seed=[0,1,2]`."""
    seeds = cell.config["seed"]
    if not isinstance(seeds, list) or not seeds:
        return [cell]
    return [replace(cell, config=Config({**cell.config, "seed": seed})) for seed in seeds]


def objective_of(cells: Sequence[Cell], *, searched: bool) -> float:
    """Return the objective of a trial whose cells have been run: the mean over its seeds.

    Args:
        searched: whether the sweeper uses the objective. Optuna does not accept NaN, so then a
            trial without a number counts as failed. A grid ignores the objective and gets NaN.

    Raises: FailedTrial: the trial is unfinished, its records cannot be read, or, with `searched`,
        a seed has no number.
    """
    config, planned = cells[0].config, [planned_cell(cell) for cell in cells]
    objective, root = Objective.of(config["objective"]), Path(config["root"])
    seeds = [str(cell.seed) for cell in planned]
    signature = planned[0].signature
    folders = [RunFolder.of(root, cell.signature, cell.seed) for cell in planned]
    if left := sum(not folder.done.exists() for folder in folders):
        raise FailedTrial(f"objective: {left} of {len(folders)} cells of the trial are unfinished")
    try:
        values = objective.of_trial(root / "runs" / signature, seeds, cells[0].report)
    except ValueError as error:
        raise FailedTrial(str(error)) from None
    # A seed without a number makes the mean NaN: the mean of the other seeds would look too good.
    value = fmean(values.get(seed, math.nan) for seed in seeds)
    without = [seed for seed in seeds if not math.isfinite(values.get(seed, math.nan))]
    if searched and without:
        raise FailedTrial(
            f"objective: {objective} has no finite value for seed {', '.join(without)}: the "
            "training diverged, or did not measure it"
        )
    return value
