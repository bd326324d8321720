"""The files of a sweep that an audit reads: cells, records, configs, ticket headers (no torch).

A file that cannot be read is a fault in its check, and the audit continues with the others.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.config.call import Config
from lt_sweeps.config.identity import digest
from lt_sweeps.config.keys import MACHINE_KEYS
from lt_sweeps.storage.absent_tickets import DROPPED, why_absent
from lt_sweeps.storage.manifest import FrozenCell, Manifest, UnitName
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import CellRecords, RunFolder, is_run
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_file import OTHER_PATH, read_metadata, ticket_path
from lt_sweeps.storage.verified_files import verified_names

_IMPORTED = "imported"
_NOT_STORED = "the ticket is not stored"

Folders = list[tuple[RunFolder, Sequence[FrozenCell]]]
"""Each cell's folder, with the frozen cell from every sweep that contains it."""


@dataclass(frozen=True)
class AuditedCell:
    """A cell and seed as read from its files; `config` is None if no file has it."""

    folder: RunFolder
    records: tuple[Record, ...]
    choices: Mapping[str, str | None]
    config: Config | None
    stored: CellRecords | None = None  # its records; None if missing or unreadable
    written: Mapping[str, Any] | None = None  # its config.yaml; None if missing or unreadable

    @property
    def signature(self) -> str:
        return self.folder.path.parent.name

    @property
    def seed(self) -> str:
        return self.folder.path.name

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Artifacts:
    """The material of an audit: cells, and the headers of tickets that are whole and in place."""

    root: Path
    cells: tuple[AuditedCell, ...]
    tickets: Mapping[Path, Mapping[str, Any]]
    manifest: Manifest | None


def read_artifacts(
    where: Path, findings: Findings, *, cells: Collection[str] | None = None
) -> Artifacts:
    """Read a sweep's folder, a root or a cell's folder.

    Raises: ValueError: the folder has no results.
    """
    root, manifest, folders = _scope(where, findings)
    chosen = [
        (folder, frozen) for folder, frozen in folders if cells is None or folder.name in cells
    ]
    _audit_unfinished([folder for folder, _ in chosen], root, findings)
    audited = tuple(_cell(folder, frozen, findings) for folder, frozen in chosen)
    tickets = {
        path: about
        for path in _ticket_files(root, audited, findings, whole_root=where.resolve() == root)
        if (about := audit_head(path, findings)) is not None
    }
    return Artifacts(root, audited, tickets, manifest)


def audit_head(path: Path, findings: Findings) -> Mapping[str, Any] | None:
    """The metadata of a ticket; None if the file is missing, damaged or not in its own place."""
    if not os.path.lexists(path):
        findings.leave_out("headers", _NOT_STORED)
        return None
    about, fault = None, ""
    try:
        about = read_metadata(path)
    except (OSError, ValueError) as error:
        fault = without_path(path, error)
    moved = fault.endswith(OTHER_PATH)
    if findings.compare("headers", path, "" if moved else fault):
        findings.compare("paths", path, fault)
    return about


def without_path(path: Path, error: Exception) -> str:
    """The first line of a file's error, without the file's path: findings add the path."""
    return str(error).splitlines()[0].removeprefix(f"{path}: ")


def header_value(about: Mapping[str, Any], name: str) -> Any:
    """A JSON value in a ticket's metadata; None if it is missing or cannot be parsed."""
    try:
        return json.loads(about[name])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _scope(where: Path, findings: Findings) -> tuple[Path, Manifest | None, Folders]:
    """The root, the manifest (None if there is none) and the folders of all cells."""
    here, sweep = where.resolve(), SweepFolder(where)
    if sweep.exists:
        root, manifest = here.parent.parent, _manifest(sweep, findings)
        frozen = {cell.name: cell for cell in manifest.cells} if manifest else {}
        cells = frozen.values()
        return root, manifest, [(RunFolder.of(root, c.signature, c.seed), [c]) for c in cells]
    frozen_by = _frozen_by_name(here, findings)
    if here.parent.name == "runs":
        runs = _runs(here, "*", findings)
        return here.parent.parent, None, [(run, []) for run in runs]
    if not any((here / name).is_dir() for name in ("runs", "tickets")):
        raise ValueError(
            f"audit: {where} has no results; give a sweep's folder (it holds manifest.json), a "
            "root (it holds runs/ and tickets/) or a file of weights"
        )
    runs = {run.name: run for run in _runs(here, "runs/*/*", findings)}
    runs |= {name: RunFolder(here / "runs" / name) for name in frozen_by.keys() - runs.keys()}
    return here, None, [(runs[name], frozen_by.get(name, [])) for name in sorted(runs)]


def _runs(where: Path, pattern: str, findings: Findings) -> list[RunFolder]:
    """The runs among the folders with a config; the others, such as backups, are counted."""
    folders = [path for path in where.glob(pattern) if os.path.lexists(path / "config.yaml")]
    runs = [RunFolder(path) for path in sorted(folders) if is_run(path)]
    findings.leave_out("records", "not named as a cell and seed", len(folders) - len(runs))
    return runs


def _frozen_by_name(root: Path, findings: Findings) -> Mapping[str, Sequence[FrozenCell]]:
    """The cells of all sweeps of a root, by name; sweeps may share a cell."""
    folders = map(SweepFolder, sorted(root.glob("sweeps/*")))
    sweeps = [sweep for sweep in folders if sweep.exists]
    if not sweeps:
        findings.leave_out("manifest", "no manifest.json here")
    frozen: dict[str, list[FrozenCell]] = defaultdict(list)
    for manifest in filter(None, [_manifest(sweep, findings) for sweep in sweeps]):
        for name, cell in {cell.name: cell for cell in manifest.cells}.items():
            frozen[name].append(cell)
    return frozen


def _manifest(sweep: SweepFolder, findings: Findings) -> Manifest | None:
    """The manifest of a sweep; None if it cannot be read."""
    try:
        manifest = sweep.manifest
    except ValueError as error:
        findings.compare("manifest", sweep.path, without_path(sweep.path, error))
        return None
    findings.compare("manifest", sweep.path, _content_fault(manifest))
    return manifest


def _content_fault(manifest: Manifest) -> str:
    if manifest.experiment == _IMPORTED:
        content = digest([vars(cell) for cell in manifest.cells])
    else:
        content = digest([[cell.signature, cell.seed] for cell in manifest.cells])
    return "" if content == manifest.content else "its cells do not match `content`, their hash"


def _cell(folder: RunFolder, frozen: Sequence[FrozenCell], findings: Findings) -> AuditedCell:
    choices, config, written = _config(folder, frozen, findings)
    stored = _records(folder, frozen, findings)
    records = () if stored is None or stored.faults else stored.records
    return AuditedCell(folder, records, choices, config, stored, written)


def _audit_unfinished(folders: Sequence[RunFolder], root: Path, findings: Findings) -> None:
    """Count the cells without DONE; if a cell was complete before, its files are lost."""
    unfinished = [folder for folder in folders if not os.path.lexists(folder.done)]
    once = verified_names(root) if unfinished else frozenset[str]()
    for folder in unfinished:
        begun = not _has_no_records(folder)
        if f"runs/{folder.name}" in once:
            fault = f"lost, though the cell was complete; {folder.cure()}"
            findings.compare("records", folder.done if begun else folder.records, fault)
        else:
            why = "has no DONE, with a checksum, yet" if begun else "is not computed yet"
            findings.leave_out("records", f"the cell {why}")


def _has_no_records(folder: RunFolder) -> bool:
    return not any(map(os.path.lexists, (folder.records, folder.done)))


def _records(
    folder: RunFolder, frozen: Sequence[FrozenCell], findings: Findings
) -> CellRecords | None:
    """The records of a cell's folder; None if there are none or they cannot be read."""
    if _has_no_records(folder):
        return None
    try:
        # If several sweeps share the cell, one may have computed more stages than another.
        stored = folder.read(stages=frozen[0].stages if len(frozen) == 1 else None)
    except (OSError, ValueError) as error:
        findings.compare("records", folder.records, without_path(folder.records, error))
        return None
    for fault in stored.faults:
        place, _, reason = fault.partition(": ")
        findings.compare("records", place, reason)
    if not stored.faults and stored.done:
        findings.compare("records", folder.records, "")
    return stored


def _config(
    folder: RunFolder, frozen: Sequence[FrozenCell], findings: Findings
) -> tuple[Mapping[str, str | None], Config | None, Mapping[str, Any] | None]:
    """The choices and the resolved config, from the cell's folder or from the manifest.

    The third value is the content of the cell's config.yaml; None if it cannot be read.
    """
    content: Mapping[str, Any] | None = None
    path, fault = folder.path / "config.yaml", ""
    choices, config = (frozen[0].labels, frozen[0].config) if frozen else ({}, None)
    try:
        content = folder.read_config()
        differing = [_differing(content["config"], cell.config) for cell in frozen]
        if [] in differing:
            cell = frozen[differing.index([])]
            choices, config = cell.labels, cell.config
        elif differing:
            fault = f"{', '.join(differing[0])} differ from the manifest"
        else:
            choices, config = content["choices"], Config(content["config"])
    except FileNotFoundError:
        findings.leave_out("configs", "the cell has no config.yaml")
        return choices, config, None
    except (OSError, ValueError) as error:
        fault = without_path(path, error)
    findings.compare("configs", path, fault)
    return choices, config, content


def _differing(config: Mapping[str, Any], frozen: Mapping[str, Any]) -> list[str]:
    keys = sorted({*config, *frozen} - {*MACHINE_KEYS})
    return [key for key in keys if _text(config.get(key)) != _text(frozen.get(key))]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _ticket_files(
    root: Path, cells: Sequence[AuditedCell], findings: Findings, *, whole_root: bool
) -> Iterator[Path]:
    """The tickets and snapshots of these cells, or of a whole root; no checkpoints."""
    if whole_root:
        files = [p for p in sorted(root.glob("tickets/*/*.safetensors")) if not _is_passing(p)]
        yield from filter(_is_ticket, files)
        if others := [path for path in files if not _is_ticket(path)]:
            reason = f"not named as a ticket, so not written by lt_sweeps, such as {others[0]}"
            findings.leave_out("headers", reason, len(others))
    named: dict[str, dict[str, str]] = defaultdict(dict)  # a cell of each file, by stage
    for cell in cells:
        for record in cell.records:
            for key in filter(None, (record.stage, record.init, *(record.after or ()))):
                named[key].setdefault(record.seed, cell.name)
            if record.reports_snapshot:
                named[record.stage].setdefault(f"{record.seed}@best", cell.name)
    absent: dict[UnitName, str] = {}
    # A folder is listed once for all of its seeds: a path for each of 65,000 records takes seconds.
    for key, seeds in sorted(named.items()):
        folder = root / "tickets" / key
        there = set(_listed(folder))
        snapshots = {name for name in there if name.rpartition("@")[0] in seeds}
        wanted = {f"{seed}.safetensors" for seed in seeds}
        for name in () if whole_root else sorted((wanted & there) | snapshots):
            if _is_ticket(folder / name):
                yield folder / name
        absent |= {(key, s): cell for s, cell in seeds.items() if f"{s}.safetensors" not in there}
    drawn = {record.init for cell in cells for record in cell.records}  # can be drawn again
    findings.leave_out("headers", _NOT_STORED, sum(key in drawn for key, _ in absent))
    _leave_out(root, {unit: c for unit, c in absent.items() if unit[0] not in drawn}, findings)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_ticket(path: Path) -> bool:
    """Whether a file has the name of a ticket or snapshot, in a folder with that of a stage."""
    seed, _, moment = path.stem.partition("@")
    named = is_run(path.with_name(seed)) and (not moment or moment.isalnum())
    return path.suffix == ".safetensors" and named


def _is_passing(path: Path) -> bool:
    """Whether a file is a checkpoint, or a temporary file."""
    return ".partial-" in path.name or path.name.startswith(".")


def _leave_out(root: Path, absent: Mapping[UnitName, str], findings: Findings) -> None:
    """Count the absent tickets; a ticket that is lost, not dropped on purpose, is a fault."""
    # A root that was copied without its tickets has no `tickets` folder.
    reasons = why_absent(root, absent) if (root / "tickets").is_dir() else {}
    for unit in absent:
        reason = reasons.get(unit, _NOT_STORED)
        if unit not in reasons or reason.startswith(DROPPED):
            findings.leave_out("headers", reason.partition(";")[0])
        else:
            findings.compare("headers", ticket_path(root, *unit), reason)
