"""The cheap part of an audit: plain text and the heads of tickets, without torch and read only.

It runs at the end of each job, in `report`, and as the first part of `audit`. A missing file makes
facts "not checked"; what is there must agree.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.analysis.audit_findings import Findings, summary
from lt_sweeps.config.call import Config, digest
from lt_sweeps.config.keys import GROUPS, MACHINE_KEYS
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.record import MEASURED, Record, RunFolder
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.storage.ticket_file import CorruptTicket, misplaced, read_metadata

CHEAP = (
    *("manifest", "records", "configs", "headers", "paths", "counts", "targets", "metrics"),
    *("seeds", "arms"),
)
"""The checks that this part makes."""
_EMPTY = hashlib.sha256(b"").hexdigest()
_IMPORTED = "imported"
# Weights of a layer by which its count may differ from the schedule's formula. Each level rounds by
# less than one, and the next level prunes its part of that: at a rate r the sum stays below 1 / r.
_ROUNDING = 10


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


def audit_records(
    where: Path, findings: Findings, *, cells: Collection[str] | None = None
) -> Artifacts:
    """Check a sweep's folder, a root or a cell's folder; returns what the other checks go on with.

    Args:
        cells: names of cells, `<signature>/<seed>`, where only some are to be checked.

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
    for cell in audited:
        for record in cell.records:
            _audit_record(record, cell, root, tickets, findings)
    equal = _audit_seeds(tickets, findings)
    _audit_arms(audited, findings)
    own = {path: about for path, about in tickets.items() if path not in equal}
    return Artifacts(root, audited, own, manifest)


def audit_line(where: Path, *, cells: Collection[str] | None = None) -> str:
    """The verdict of the cheap part in one line, with the first fault if there is one."""
    findings = Findings()
    try:
        audit_records(where, findings, cells=cells)
    except (OSError, ValueError) as error:
        return f"audit: not possible: {str(error).splitlines()[0]}"
    verdicts = findings.verdicts(CHEAP)
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    more = f"; the first of {len(faults)}: {faults[0]}" if faults else ""
    return f"audit of records and headers: {summary(verdicts)}{more}"


Folders = list[tuple[RunFolder, FrozenCell | None]]


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


def _audit_record(
    record: Record,
    cell: AuditedCell,
    root: Path,
    tickets: Mapping[Path, Mapping[str, Any]],
    findings: Findings,
) -> None:
    place = f"{cell.folder.records} level {record.level}"
    about = tickets.get(root / "tickets" / record.stage / f"{record.seed}.safetensors")
    findings.compare("counts", place, _count_fault(record, about or {}))
    if about is None:
        findings.leave_out("metrics", "the ticket is not stored, or not whole")
    elif "metrics" not in about:
        findings.leave_out("metrics", "the ticket was imported, without measurements of ours")
    else:
        findings.compare("metrics", place, _metric_fault(record, about))
    # A learned mask keeps as many weights as it learns to, whatever it starts from.
    if record.target_sparsity is None or record.hard_test_accuracy is not None:
        findings.leave_out("targets", "no sparsity was asked for")
    else:
        findings.compare("targets", place, _target_fault(record))


def _count_fault(record: Record, about: Mapping[str, Any]) -> str:
    left, total = record.layers_remaining, record.layers_total
    if left.keys() != total.keys() or any(not 0 <= left[n] <= total[n] for n in left):
        return f"layers keep {dict(left)} of {dict(total)}"
    sums = sum(left.values()), sum(total.values())
    if sums != (record.weights_remaining, record.weights_total):
        return f"{record.weights_remaining} of {record.weights_total} weights; layers sum to {sums}"
    if not math.isclose(record.sparsity, 1 - sums[0] / sums[1], abs_tol=1e-9):
        return f"sparsity {record.sparsity:.6g}; its counts give {1 - sums[0] / sums[1]:.6g}"
    stated = {name: _json(about.get(name)) for name in ("layers_remaining", "layers_total")}
    for name, counts in stated.items():
        if counts is not None and counts != dict(getattr(record, name)):
            return f"{name} is {dict(getattr(record, name))}; the ticket's header says {counts}"
    sparsity = _json(about.get("sparsity"))
    if sparsity is not None and not math.isclose(sparsity, record.sparsity, abs_tol=1e-9):
        return f"sparsity {record.sparsity:.6g}; the ticket's header says {sparsity:.6g}"
    return ""


def _target_fault(record: Record) -> str:
    assert record.target_sparsity is not None
    allowed = _ROUNDING * len(record.layers_total) / record.weights_total
    if abs(record.sparsity - record.target_sparsity) <= allowed + 1e-9:
        return ""
    return f"sparsity {record.sparsity:.4f} where {record.target_sparsity:.4f} was asked for"


def _metric_fault(record: Record, about: Mapping[str, Any]) -> str:
    """Where record, header and history disagree; a number that is not finite is null in records."""
    metrics, history = _json(about["metrics"]), _json(about.get("history"))
    if not isinstance(metrics, dict):
        return "the ticket's header holds no metrics that can be read"
    stated = {f"{at}_{name}": f"{at}_{name}" for at in ("end", "best") for name in MEASURED}
    stated |= {name: f"{record.report_at}_{name}" for name in MEASURED}
    stated |= {name: name for name in ("best_step", "finite")}
    stated |= {name: name for name in ("hard_val_accuracy", "hard_test_accuracy")}
    for column, name in stated.items():
        value = metrics.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        if getattr(record, column) != value:
            return f"{column} is {getattr(record, column)}; the ticket's header says {value}"
    for at, step in (("end", record.step), ("best", metrics.get("best_step"))):
        rows = [row for row in history or () if row.get("step") == step]
        if history and not rows:
            return f"the history has no evaluation at step {step}"
        for name in ("val_loss", "val_accuracy"):
            if rows and _differ(rows[-1].get(name), metrics.get(f"{at}_{name}")):
                return f"{at}_{name} is {metrics.get(f'{at}_{name}')}; the history says otherwise"
    return ""


def _differ(one: Any, other: Any) -> bool:
    return one != other and not (one != one and other != other)  # NaN is equal to nothing


def _json(text: Any) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _audit_seeds(tickets: Mapping[Path, Mapping[str, Any]], findings: Findings) -> set[Path]:
    """Tickets that two seeds have alike, one of which must be a copy; returns their paths.

    Seeds that share a role (`seeds.init=0`) may share a network, and are left out.
    """
    seen: dict[tuple[str, str, str], Path] = {}
    equal: set[Path] = set()
    for path, about in tickets.items():
        if about["body_sha256"] == _EMPTY:  # a score stores no weights
            continue
        if not about["seed"].isdigit():
            findings.leave_out("seeds", "roles of the seed have seeds of their own")
            continue
        first = seen.setdefault((about["stage"], about["moment"], about["body_sha256"]), path)
        equal |= {first, path} if first != path else set()
        fault = f"it has the tensors of {first.name}" if first != path else ""
        findings.compare("seeds", path, fault)
    return equal


def _audit_arms(cells: Sequence[AuditedCell], findings: Findings) -> None:
    results: dict[str, dict[tuple[str, int], Record]] = defaultdict(dict)
    alike: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for cell in cells:
        for record in cell.records:
            # With an empty layer all that counts are the biases, which arms may well share.
            empty = 0 in record.layers_remaining.values()
            if not record.is_result or record.val_loss is None or empty:
                continue
            results[cell.signature][cell.seed, record.level] = record
            alike[cell.seed, record.level, _measured(record)].add(cell.signature)
    for signature in results:
        findings.compare("arms", signature, "")
    pairs = {p for names in alike.values() for p in itertools.combinations(sorted(names), 2)}
    for one, other in sorted(pairs):
        differ = [
            (results[one][at], results[other][at])
            for at in results[one].keys() & results[other].keys()
            if results[one][at].stage != results[other][at].stage
        ]
        if differ and all(_measured(a) == _measured(b) for a, b in differ):
            say = f"equal to {other} in all of {len(differ)} results, {difference(*differ[0])}"
            findings.compare("arms", one, say)


def _measured(record: Record) -> tuple[Any, ...]:
    kept = tuple(sorted(record.layers_remaining.items()))
    return kept, *(getattr(record, name) for name in MEASURED)


def difference(one: Record, other: Record) -> str:
    """In which options two cells differ, as far as records say."""
    columns = Record.option_columns(dict.fromkeys(GROUPS))
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in columns}
    texts = [f"{name} {a} and {b}" for name, (a, b) in pairs.items() if a != b]
    return f"with {', '.join(texts)}" if texts else "with the same options and other settings"
