"""Build a sweep's manifest from a plan: its cells, stages and packs, appended to earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lt_sweeps.config.call import Config
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import SHARED_KEYS
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.cost import kind
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Work, needs
from lt_sweeps.plan.unit import data_of
from lt_sweeps.storage.manifest import (
    FrozenCell,
    FrozenPack,
    FrozenStage,
    Launcher,
    Manifest,
    UnitName,
    cells_by_unit,
)


def manifest_of(
    plan: Plan,
    settings: RunSettings,
    packs: Sequence[Pack],
    before: Manifest | None,
    *,
    name: str,
    launcher: Launcher,
    jobs: Mapping[str, str],
) -> Manifest:
    """Return the manifest with `packs` appended to the packs of the manifest `before`.

    Earlier packs stay unchanged, except for their job.

    Args:
        before: the sweep's manifest so far; None for a new sweep.
        name: the name of the sweep.
        launcher: how the sweep was started.
        jobs: the job of each pack, by the pack's name.
    """
    cells = [frozen_cell(cell) for cell in plan.cells]
    kept = before or Manifest(name, "", "", (), search=settings.search)
    if before is not None and settings.search is not None:
        cells = _behind_earlier_trials(cells, before)
    numbers = cells_by_unit(cells)
    frozen = [replace(pack, job=jobs.get(pack.name, pack.job)) for pack in kept.packs]
    known = {pack.name for pack in frozen}
    new = [pack for pack in packs if pack.name not in known]
    return Manifest(
        name=name,
        experiment=plan.cells[0].experiment,
        content=content_of(cells),
        cells=cells,
        stages={**kept.stages, **{u.stage.key: _frozen_stage(u.stage) for u in plan.units}},
        packs=[*frozen, *(_frozen_pack(pack, plan, settings, numbers, jobs) for pack in new)],
        launcher=launcher,
        reports={**kept.reports, **reports_of(plan)},
        data={**kept.data, **data_of(plan.units)},
        search=kept.search,
        words=[*settings.words] or kept.words,
    )


def content_of(cells: Iterable[Planned | FrozenCell]) -> str:
    """The digest of the cells' names (signature and seed)."""
    return digest([[cell.signature, str(cell.seed)] for cell in cells])


def reports_of(plan: Plan) -> dict[str, Mapping[str, Any]]:
    """The keys under `report:` of each experiment."""
    return {cell.experiment: cell.cell.report for cell in plan.cells}


def frozen_cell(planned: Planned) -> FrozenCell:
    return FrozenCell(
        signature=planned.signature,
        seed=str(planned.seed),
        labels=planned.labels,
        config=planned.cell.config,
        stages=[stage.key for stage in planned.trainings],
        levels=planned.levels,
    )


def _behind_earlier_trials(cells: Sequence[FrozenCell], before: Manifest) -> list[FrozenCell]:
    """Return the cells of a search's earlier trials, followed by its new cells.

    Frozen packs refer to cells by number, so earlier cells keep their numbers. Settings that all
    cells of a sweep share, such as `workers`, are updated in earlier cells too.
    """
    known = {cell.name for cell in before.cells}
    shared = {key: value for key, value in cells[0].config.items() if key in SHARED_KEYS}
    earlier = [replace(c, config=Config({**c.config, **shared})) for c in before.cells]
    return [*earlier, *(cell for cell in cells if cell.name not in known)]


def _frozen_pack(
    pack: Pack,
    plan: Plan,
    settings: RunSettings,
    numbers: Mapping[UnitName, Sequence[int]],
    jobs: Mapping[str, str],
) -> FrozenPack:
    names = [unit.name for unit in pack.units]
    return FrozenPack(
        name=pack.name,
        level=pack.units[0].stage.level,
        units=names,
        machine=settings.machine,
        cells=sorted({number for name in names for number in numbers[name]}),
        moments={key: sorted(plan.moments.get(key, ()), key=str) for key, _ in names},
        job=jobs.get(pack.name),
    )


def _frozen_stage(stage: Work) -> FrozenStage:
    return FrozenStage(
        level=stage.level,
        start=stage.start.step,
        end=stage.step,
        kind=kind(stage),
        needs=sorted(need.key for need in needs(stage)),
    )
