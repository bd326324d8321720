"""Explain why cells are computed although the root has their results: what has changed since.

A stage key does not show what it was made from. Manifests do, with the code recorded next to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lt_sweeps.analysis.cell_settings import taken_settings
from lt_sweeps.config.user_code import code_named
from lt_sweeps.execution.run_settings import code_version
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Moment
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.plan.unit import data_of
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder

_MOST = 3 << 19  # bytes of manifests to read at most; reading them takes about half a second
_PER_CELL = 50  # comparing a cell with a manifest takes about as long as reading this many bytes
_Settings = Mapping[str, str]
_Asked = list[tuple[_Settings, Planned]]


def why_anew(plan: Plan, todo: Iterable[Pack], root: Path) -> list[str]:
    """Return a line for each reason why cells are computed that an earlier sweep has computed."""
    paths = sorted(path for path in root.glob("sweeps/*/manifest.json") if path.is_file())
    if not paths:
        return []
    missing = {unit for pack in todo for unit in pack.units}
    cells = [cell for cell in plan.cells if not missing.isdisjoint(cell.units)]
    left, reasons = [(_settings(c.cell.config, c.labels), c) for c in cells], Counter[str]()
    room = _MOST
    for path in sorted(paths, key=lambda path: -path.stat().st_mtime_ns):
        if left and (size := path.stat().st_size) <= room:
            room -= size + _PER_CELL * len(left)
            with suppress(ValueError, OSError):  # a damaged manifest explains nothing
                left = _compared(left, SweepFolder(path.parent), reasons)
    return [f"{n} of {len(plan.cells)} cells have {reason}" for reason, n in reasons.items()]


def lost_snapshots(plan: Plan, todo: Iterable[Pack], root: Path) -> list[str]:
    """Return a line for each moment whose weights stored trainings lack, so they train again."""
    tickets, lacking = StoredTickets(Store(root), thorough=False), Counter[Moment]()
    for unit in (unit for pack in todo for unit in pack.units):
        key = unit.stage.key
        for moment in plan.wanted.get(key, ()) if tickets.holds_unit(unit, {}) else ():
            lacking[moment] += not tickets.holds_unit(unit, {key: frozenset({moment})})
    best = "of the best evaluation (`@best`), which `report_at=best` reports"
    names: dict[Moment, str] = {"reported": best}
    start = f"of {len(plan.units)} trainings, stored without the weights"
    return [f"{n} {start} {names.get(at, f'`@{at}`')}" for at, n in lacking.items() if n]


def edited_keys(before: Manifest, plan: Plan) -> list[str]:
    """Return the keys that have one value in all cells of a sweep, and another in all of a plan."""
    old = [dict(_settings(cell.config, cell.labels)) for cell in before.cells]
    return [*_edits(old, [dict(_settings(c.cell.config, c.labels)) for c in plan.cells]).values()]


def _compared(new: _Asked, sweep: SweepFolder, reasons: Counter[str]) -> _Asked:
    """Count why a sweep's results cannot be used for cells; return the cells that it lacks."""
    old = [(_settings(cell.config, cell.labels), cell) for cell in sweep.manifest.cells]
    edits = _edits([dict(settings) for settings, _ in old], [dict(settings) for settings, _ in new])

    def name(settings: _Settings, cell: Planned | FrozenCell) -> object:
        rest = frozenset(item for item in settings.items() if item[0] not in edits)
        return str(cell.seed), frozenset(cell.labels.items()), rest

    before, left = {name(*each): each for each in old}, _Asked()
    for settings, cell in new:
        was, earlier = before.get(name(settings, cell), (settings, None))
        if not (earlier and (sweep.root / "runs" / earlier.name / "DONE").exists()):
            left.append((settings, cell))
        elif not {*earlier.stages} <= {stage.key for stage in cell.trainings}:
            changed = [text for key, text in edits.items() if was.get(key) != settings.get(key)]
            if said := ", ".join(changed + _code_or_data(cell, sweep, bool(changed))):
                reasons[f"results in {sweep.folder.name}; since then {said}"] += 1
    return left


def _settings(config: Mapping[str, object], labels: Mapping[str, str | None]) -> _Settings:
    return {key: json.dumps(value) for key, value in taken_settings(config, labels).items()}


def _edits(*sides: list[dict[str, str]]) -> _Settings:
    """The keys with one value in all old cells and another in all new ones, as `key old -> new`."""
    pairs = [{item for settings in side for item in settings.items()} for side in sides]
    counts, (one, two) = [Counter(key for key, _ in side) for side in pairs], map(dict, pairs)
    keys = (key for key in sorted(one) if counts[0][key] == counts[1][key] == 1)
    return {key: f"{key} {one[key]} -> {two[key]}" for key in keys if one[key] != two[key]}


def _code_or_data(cell: Planned, sweep: SweepFolder, explained: bool) -> list[str]:
    """The changes besides a cell's settings; data and version only if nothing else changed."""
    now = code_named(cell.cell.config)
    edited = [f"{name} changed" for name in sweep.edited(now)]
    if explained or edited or (now and not sweep.code):
        return edited
    then, data = data_of(cell.units), sweep.manifest.data
    other = [f"the data of {name} changed" for name in then if data.get(name, "") != then[name]]
    versions = {pack.machine.code_version for pack in sweep.manifest.packs[:1]} - {code_version()}
    return other or [f"lt_sweeps {version} became {code_version()}" for version in versions]
