"""What an audit reads of a sweep: cells, records, configs, and the heads of tickets (no torch).

What cannot be read is a fault of its check, and the audit goes on with the rest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.config.call import Config, digest
from lt_sweeps.config.keys import MACHINE_KEYS
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.record import Record, RunFolder
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_file import CorruptTicket, misplaced, read_metadata

_IMPORTED = "imported"

Folders = list[tuple[RunFolder, FrozenCell | None]]


@dataclass(frozen=True)
class AuditedCell:
    """A cell and seed as its files hold it; `config` is None where no file has it."""

    folder: RunFolder
    records: tuple[Record, ...]
    choices: Mapping[str, str]
    config: Config | None

    @property
    def signature(self) -> str:
        return self.folder.path.parent.name

    @property
    def seed(self) -> str:
        return self.folder.path.name


@dataclass(frozen=True)
class Artifacts:
    """What an audit looks at: cells, and the heads of those tickets that are whole and in place."""

    root: Path
    cells: tuple[AuditedCell, ...]
    tickets: Mapping[Path, Mapping[str, Any]]
    manifest: Manifest | None


def read_artifacts(
    where: Path, findings: Findings, *, cells: Collection[str] | None = None
) -> Artifacts:
    """Read a sweep's folder, a root or a cell's folder.

    Raises: ValueError: there are no results.
    """
    root, manifest, folders = _scope(where, findings)
    chosen = [
        (folder, frozen)
        for folder, frozen in folders
        if cells is None or f"{folder.path.parent.name}/{folder.path.name}" in cells
    ]
    audited = tuple(_cell(folder, frozen, findings) for folder, frozen in chosen)
    tickets = {
        path: about
        for path in _ticket_files(root, audited, whole_root=where.resolve() == root)
        if (about := audit_head(path, findings)) is not None
    }
    return Artifacts(root, audited, tickets, manifest)


def audit_head(path: Path, findings: Findings) -> Mapping[str, Any] | None:
    """The metadata of a ticket that is whole and in its place."""
    if not path.exists() and not path.is_symlink():
        findings.leave_out("headers", "the ticket is not stored")
        return None
    about: Mapping[str, Any] | None = None
    try:
        # Opening a pipe would wait for somebody to write into it.
        fault = "" if path.is_file() else "not a file"
        about = None if fault else read_metadata(path)
    except (OSError, CorruptTicket, ValueError, RecursionError) as error:
        fault = str(error)
    if not findings.compare("headers", path, fault) or about is None:
        return None
    return about if findings.compare("paths", path, misplaced(path, about)) else None


def header_value(about: Mapping[str, Any], name: str) -> Any:
    """A JSON value in a ticket's metadata; None if there is none, or none that can be read."""
    try:
        return json.loads(about[name])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _scope(where: Path, findings: Findings) -> tuple[Path, Manifest | None, Folders]:
    """The root, the manifest if there is one, and the folders of all cells."""
    here, sweep = where.resolve(), SweepFolder(where)
    if sweep.exists:
        root = here.parent.parent
        try:
            manifest = sweep.manifest
        except ValueError as error:
            findings.compare("manifest", sweep.path, str(error))
            return root, None, []
        findings.compare("manifest", sweep.path, _content_fault(manifest))
        frozen = {cell.name: cell for cell in manifest.cells}.values()
        return root, manifest, [(RunFolder.of(root, c.signature, c.seed), c) for c in frozen]
    findings.leave_out("manifest", "no manifest.json here")
    if here.parent.name == "runs":
        return here.parent.parent, None, [(RunFolder(path), None) for path in _folders(here, "*")]
    if not any((here / name).is_dir() for name in ("runs", "tickets")):
        raise ValueError(
            f"audit: {where} has no results; give a sweep's folder (it holds manifest.json), a "
            "root (it holds runs/ and tickets/) or a file of weights"
        )
    return here, None, [(RunFolder(path), None) for path in _folders(here, "runs/*/*")]


def _folders(where: Path, pattern: str) -> list[Path]:
    return sorted(path for path in where.glob(pattern) if (path / "config.yaml").is_file())


def _content_fault(manifest: Manifest) -> str:
    if manifest.experiment == _IMPORTED:
        content = digest([vars(cell) for cell in manifest.cells])
    else:
        content = digest([[cell.signature, cell.seed] for cell in manifest.cells])
    return "" if content == manifest.content else "its cells are not those it was written for"


def _cell(folder: RunFolder, frozen: FrozenCell | None, findings: Findings) -> AuditedCell:
    choices, config = _config(folder, frozen, findings)
    return AuditedCell(folder, _records(folder, findings), choices, config)


def _records(folder: RunFolder, findings: Findings) -> tuple[Record, ...]:
    """The records of a folder, or none of them if one is wrong."""
    if not folder.records.exists() and not folder.done.exists():
        findings.leave_out("records", "the cell is not computed yet")
        return ()
    try:
        stored = folder.read()
        faults = list(stored.faults)
        if not faults and stored.done and not folder.is_intact:
            faults = [f"{folder.records}: not the records that DONE was written for"]
    except (OSError, RecursionError) as error:
        faults, stored = [f"{folder.records}: cannot be read: {error}"], None
    if stored is not None and not stored.done:
        findings.leave_out("records", "the cell has no DONE, with a checksum, yet")
    elif stored is not None and not faults:
        findings.compare("records", folder.records, "")
    for fault in faults:
        place, _, reason = fault.partition(": ")
        findings.compare("records", place, reason)
    return () if faults or stored is None else stored.records


def _config(
    folder: RunFolder, frozen: FrozenCell | None, findings: Findings
) -> tuple[Mapping[str, str], Config | None]:
    """What was chosen and the resolved config, from the cell's folder or from the manifest."""
    path = folder.path / "config.yaml"
    known = ({}, None) if frozen is None else (frozen.choices, frozen.config)
    if not path.is_file():
        findings.leave_out("configs", "the cell has no config.yaml")
        return known
    content: Any = None
    try:
        content = yaml.safe_load(path.read_text())
        well_formed = all(isinstance(content[key], dict) for key in ("choices", "config"))
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, RecursionError):
        well_formed = False
    if not well_formed:
        findings.compare("configs", path, "not a cell's config; it holds `choices` and `config`")
        return known
    named = content.get("signature"), str(content.get("seed"))
    fault = ""
    if named != (folder.path.parent.name, folder.path.name):
        fault = f"it is of cell {named[0]} seed {named[1]}; its folder says otherwise"
    elif frozen is not None and (other := _differing(content["config"], frozen.config)):
        fault = f"{', '.join(other)} differ from what the manifest holds"
    if not findings.compare("configs", path, fault):
        return known
    return content["choices"], Config(content["config"])


def _differing(config: Mapping[str, Any], frozen: Mapping[str, Any]) -> list[str]:
    keys = sorted({*config, *frozen} - {*MACHINE_KEYS})
    return [key for key in keys if _text(config.get(key)) != _text(frozen.get(key))]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _ticket_files(root: Path, cells: Sequence[AuditedCell], *, whole_root: bool) -> Iterator[Path]:
    """The tickets and snapshots of these cells, or of a whole root; no checkpoints."""
    if whole_root:
        paths = root.glob("tickets/*/*.safetensors")
    else:
        units = {
            (key, record.seed)
            for cell in cells
            for record in cell.records
            for key in (record.stage, record.init, *(record.after or ()))
            if key
        }
        paths = itertools.chain.from_iterable(
            [
                root / "tickets" / key / f"{seed}.safetensors",
                *(root / "tickets" / key).glob(f"{seed}@*.safetensors"),
            ]
            for key, seed in units
        )
    for path in sorted(set(paths)):
        if ".partial-" not in path.name and not path.name.startswith("."):
            yield path
