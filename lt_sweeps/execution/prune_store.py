"""`drop_unneeded`: delete the tickets that no sweep of a root needs any more (without torch).

The `keep` of a sweep says which tickets it needs: `all` of them; `reported`, those that a report
reads (results, the learned masks that these were cut from, and initial weights); or `records`, no
tickets. A sweep that is unfinished, running or imported needs all of its tickets, regardless of its
`keep`. A file is deleted only if no sweep under the root needs it. Tickets that belong to no sweep
are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.config.durations import readable
from lt_sweeps.config.keys import KEEPS
from lt_sweeps.config.quantities import check_name
from lt_sweeps.storage.checked_read import DamagedFile, NewerFormat
from lt_sweeps.storage.dropped_tickets import note_dropped
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import UnitName
from lt_sweeps.storage.run_folder import CellRecords
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_file import identity_in_path, ticket_path
from lt_sweeps.storage.unit_costs import read_cost


@dataclass(frozen=True)
class Removable:
    """The files that can be deleted, by unit, and how many files of the same sweeps are needed."""

    root: Path
    files: Mapping[UnitName, Sequence[Path]]
    needed: int

    @property
    def bytes(self) -> int:
        return sum(_size(path) for paths in self.files.values() for path in paths)

    def sentences(self, name: str) -> Iterator[str]:
        """Describe the files that can be deleted, and the time to compute them again."""
        count, size = sum(map(len, self.files.values())), self.bytes / 2**20
        many = len(self.files)
        yield f"{name}: {count:,} files of {many:,} trainings can be removed, {size:,.1f} MiB"
        ended = [unit for unit, paths in self.files.items() if self._end(unit) in paths]
        costs = [read_cost(self.root / "tickets" / key, seed).seconds for key, seed in ended]
        known = [seconds for seconds in costs if seconds is not None]
        if ended:
            yield (
                f"computing them again would take {readable(sum(known))}, the recorded time of "
                f"{len(known):,} of {len(ended):,} tickets; initial weights take no time"
            )
        if self.needed:
            yield f"{self.needed:,} files stay: a sweep under {self.root} needs them"

    def drop(self) -> int:
        """Delete the files; return how many. Files of a unit that a process has claimed stay."""
        names: dict[str, list[str]] = {}
        for (key, _), paths in self.files.items():
            stems = [path.name.removesuffix(".safetensors") for path in paths]
            names.setdefault(key, []).extend(stems)
        if names:
            # Record first, then delete: a file that is recorded but still exists does no harm.
            note_dropped(self.root, names)
        return sum(self._drop(unit, paths) for unit, paths in self.files.items())

    def _drop(self, unit: UnitName, paths: Sequence[Path]) -> int:
        with locked(self._end(unit).with_suffix(".lock"), wait=0) as held:
            for path in paths if held else ():
                path.unlink(missing_ok=True)
        return len(paths) if held else 0

    def _end(self, unit: UnitName) -> Path:
        return ticket_path(self.root, *unit)


def drop_unneeded(where: Path, *, keep: str | None = None, apply: bool) -> list[str]:
    """Find the tickets that one sweep, or all sweeps of a root, can do without.

    Args:
        where: the folder of a sweep, or a root.
        keep: which tickets of these sweeps stay; None: each sweep's own `keep`, but `reported` for
            a sweep with `keep=all`.
        apply: delete the files; otherwise only describe them.

    Returns:
        The lines to print.

    Raises:
        ValueError: `keep` is unknown, the folder is neither a sweep nor a root, or the manifest of
            a sweep cannot be read, so that its needs are unknown.
    """
    if keep is not None:
        check_name("keep", keep, KEEPS)
    one = SweepFolder(where.resolve())
    root = one.root if one.exists else where.resolve()
    if not (root / "sweeps").is_dir():
        raise ValueError(f"prune-store: {where} is not a sweep or a root; a root holds sweeps/")
    removable = _removable(root, only=one.folder if one.exists else None, keep=keep)
    lines = list(removable.sentences(where.name or str(where)))
    if not removable.files:
        return lines
    if not apply:
        return [*lines, "nothing was removed; --yes removes them"]
    return [*lines, f"removed {removable.drop():,} files"]


def keep_only(sweep: SweepFolder, keep: str) -> list[str]:
    """Delete the tickets that a finished sweep does not keep; return the lines to print."""
    if keep == "all":
        return []
    if others := sweep.running():  # may include a process that was killed a moment ago
        say = f"nothing is removed, because {', '.join(others)} may still run the sweep"
        return [f"keep={keep}: {say}; the same command removes it later"]
    removable = _removable(sweep.root, only=sweep.folder.resolve(), keep=keep)
    return [f"keep={keep}: removed {removable.drop():,} files"] if removable.files else []


def _removable(root: Path, *, only: Path | None, keep: str | None) -> Removable:
    needed, units = set[tuple[str, str, str]](), set[UnitName]()
    for path in sorted((root / "sweeps").glob("*/manifest.json")):
        sweep = SweepFolder(path.parent)
        chosen = only is None or sweep.folder == only
        records = _records(sweep)
        own = str(sweep.manifest.cells[0].config.get("keep", "all"))
        policy = (keep or (own if own != "all" else "reported")) if chosen else own
        needs_all = policy == "all" or not _has_ended(sweep, records)
        mine = {unit for cell in sweep.manifest.cells for unit in cell.units}
        mine |= {(r.init, r.seed) for cell in records for r in cell.records if r.init}
        units |= mine if chosen else set()
        if needs_all:
            needed |= {(*unit, "") for unit in mine}
        elif policy == "reported":
            needed |= set(_reported(records))
    return _found(root, units, needed)


def _records(sweep: SweepFolder) -> list[CellRecords]:
    try:
        return sweep.records()
    except (DamagedFile, NewerFormat) as error:
        raise ValueError(
            f"prune-store: nothing is removed, because a sweep's needs are unknown: {error}"
        ) from None


def _has_ended(sweep: SweepFolder, records: Sequence[CellRecords]) -> bool:
    """Whether all cells are recorded and no process is running on the sweep.

    Never for an imported sweep, whose tickets cannot be computed again.
    """
    done = all(cell.done and not cell.faults for cell in records)
    return done and sweep.manifest.experiment != "imported" and not sweep.running()


def _reported(records: Sequence[CellRecords]) -> Iterator[tuple[str, str, str]]:
    """The tickets that a report reads, by stage, seed and moment."""
    for row in (row for cell in records for row in cell.records):
        if row.is_result or row.mask_chance is not None:
            yield row.stage, row.seed, "end"
            yield row.stage, row.seed, "best"  # stored only if a row reports these weights
        if row.init is not None:
            yield row.init, row.seed, "end"


def _found(root: Path, units: set[UnitName], needed: set[tuple[str, str, str]]) -> Removable:
    """Find the files of these units; each stage's folder is listed once."""
    files, stay = dict[UnitName, list[Path]](), 0
    for key in sorted({key for key, _ in units}):
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(root / "tickets" / key)):
                path = root / "tickets" / key / name
                about = identity_in_path(path)
                unit = key, about["seed"]
                if path.suffix != ".safetensors" or unit not in units:
                    continue
                if {(*unit, ""), (*unit, about["moment"])} & needed:
                    stay += 1
                else:
                    files.setdefault(unit, []).append(path)
    return Removable(root, files, stay)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
