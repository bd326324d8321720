"""The canary: train two steps of one pack of each kind, so that errors show within minutes.

The trainings that such a pack starts from are cut to two steps as well. Their weights after two
steps are used for all their snapshots, so that criteria, resets and freezes run on real tickets.
Only three results are kept: the failures, which packs had to be halved, and measured backends.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from lt_sweeps.execution.frozen_pack import thawed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.measured_backend import with_backend
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.stages import Work, ancestors
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import FrozenPack
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket import stack
from lt_sweeps.training.rehearsal import rehearse
from lt_sweeps.training.training_loop import TrainingLoop

_STEPS = 2


def chosen(packs: Sequence[Pack]) -> list[Pack]:
    """Return one pack of each kind, and the packs that it starts from.

    Packs of one kind differ only in seeds and levels, so if one of them fails, all of them do.
    """
    made_by = {(u.stage.key, u.seed): pack for pack in packs for u in pack.units}
    names: set[str] = set()
    seen: set[tuple[object, ...]] = set()
    for pack in packs:
        if (kind := _kind(pack)) in seen:
            continue
        seen.add(kind)
        for unit in pack.units:
            for stage in ancestors(unit.stage):
                if before := made_by.get((stage.key, unit.seed)):
                    names.add(before.name)
    return [pack for pack in packs if pack.name in names]


def two_steps(
    sweep: SweepFolder,
    pack: FrozenPack,
    scratch: Store,
    *,
    device: str,
    stopped: Callable[[], bool],
    check: Callable[[], None],
) -> None:
    """Train a frozen pack for two steps, and save the result under every snapshot it must have."""
    made, chosen = thawed(sweep, pack, check)
    for unit in chosen:
        _borrow(unit, Store(sweep.root), scratch)
    first = chosen[0].stage
    end = first.start.step + min(_STEPS, first.length)
    wanted = {unit: made.moments.get(unit.stage.key, frozenset()) for unit in chosen}
    machine = with_backend(sweep, chosen, replace(pack.machine, device=device))
    machine = replace(machine, checkpoint_every=0.0)
    moments = [frozenset({end}) | (wanted[unit] & {"start"}) for unit in chosen]
    loop = TrainingLoop(chosen, scratch, machine, moments=moments, stopped=stopped)
    loop.start(stack([ticket(unit.stage.start, unit.seed, scratch) for unit in chosen]))
    rehearse(loop)
    loop.run(end)
    loop.scorer.results(end)
    for unit in chosen:
        trained = scratch.read(unit.stage.key, unit.seed, end)
        for moment in {"end", *wanted[unit]} - {"start", end}:
            scratch.write(unit.stage.key, unit.seed, trained, {}, moment)
    check()


def _borrow(unit: Unit, store: Store, scratch: Store) -> None:
    """Copy the stored tickets that a unit starts from, unless the canary has trained its own."""
    for stage in ancestors(unit.stage.start):
        path = scratch.path(stage.key, unit.seed)
        folder = store.path(stage.key, unit.seed).parent
        for source in [*folder.glob(path.name), *folder.glob(f"{unit.seed}@*.safetensors")]:
            if not (target := path.with_name(source.name)).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}")
                shutil.copyfile(source, part)  # on a full disk it may fail halfway
                part.replace(target)


def _kind(pack: Pack) -> tuple[object, ...]:
    first = pack.units[0].stage
    return (
        *(part for part in first.group if part != str(first.depth)),
        first.start.step,
        str(first.network.identity()),
        len(pack.units),
        frozenset(_restart(unit.stage) for unit in pack.units),
    )


def _restart(stage: Work) -> tuple[str, ...]:
    """The functions that made a training's initial ticket: its criterion, reset and freeze."""
    calls = [before.calls for before in ancestors(stage.start) if before.calls]
    return tuple(str(call) for call in itertools.chain(*calls[-2:]))
