"""The cheap part of an audit: it reads text files and ticket headers, writes nothing (no torch).

It runs at the end of each job, in `report`, and as the first part of `audit`. If a file is missing,
its facts count as "not checked"; files that exist must agree.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.audit_findings import Findings, summary
from lt_sweeps.analysis.audited_files import Artifacts, AuditedCell, header_value, read_artifacts
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.spelling import paired
from lt_sweeps.storage.record import MEASURED, Record
from lt_sweeps.storage.ticket_file import ticket_path

CHEAP = (
    *("manifest", "records", "configs", "headers", "paths"),
    *("counts", "targets", "metrics", "seeds", "arms"),
)
"""The checks that the cheap part makes."""
_EMPTY = hashlib.sha256(b"").hexdigest()


def audit_records(
    where: Path, findings: Findings, *, cells: Collection[str] | None = None
) -> Artifacts:
    """Check a sweep's folder, a root or a cell's folder; return the input of the further checks.

    Args:
        cells: the names (`<signature>/<seed>`) of the cells to check; None checks all cells.

    Raises: ValueError: the folder has no results.
    """
    artifacts = read_artifacts(where, findings, cells=cells)
    for cell in artifacts.cells:
        place = str(cell.folder.records)
        for record in cell.records:
            _audit_record(record, f"{place} level {record.level}", artifacts, findings)
    equal = _audit_seeds(artifacts.tickets, findings)
    _audit_arms(artifacts.cells, findings)
    own = {path: about for path, about in artifacts.tickets.items() if path not in equal}
    return replace(artifacts, tickets=own)


def is_clean(line: str) -> bool:
    """Whether a line printed by an audit reports no faults."""
    return line.startswith("audit of records and headers: ") and "; the first of " not in line


def audited_cells(
    where: Path, *, cells: Collection[str] | None = None
) -> tuple[str, tuple[AuditedCell, ...]]:
    """Audit records and headers; return one line (the verdict and the first fault) and the cells.
    If the audit is not possible, the line says why, and no cells are returned.
    """
    findings = Findings()
    try:
        audited = audit_records(where, findings, cells=cells).cells
    except (OSError, ValueError) as error:
        return f"audit: not possible: {str(error).splitlines()[0]}", ()
    verdicts = findings.verdicts(CHEAP)
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    more = f"; the first of {len(faults)}: {faults[0]}" if faults else ""
    return f"audit of records and headers: {summary(verdicts)}{more}", audited


def _audit_record(record: Record, place: str, artifacts: Artifacts, findings: Findings) -> None:
    tickets = artifacts.tickets  # if no ticket is stored, no path has to be built for the lookup
    about = tickets.get(ticket_path(artifacts.root, record.stage, record.seed)) if tickets else None
    findings.compare("counts", place, _count_fault(record, about or {}))
    if about is None:
        findings.leave_out("metrics", "the ticket is not stored, or not whole")
    elif "metrics" not in about:
        findings.leave_out("metrics", "the ticket was imported, without measurements of ours")
    else:
        findings.compare("metrics", place, _metric_fault(record, about))
    # A learned mask keeps as many weights as it learns to keep, at any initial sparsity.
    if record.target_sparsity is None or record.is_hardened:
        findings.leave_out("targets", "no sparsity was asked for")
    else:
        asked = f"sparsity {record.sparsity:.4f} where {record.target_sparsity:.4f} was asked for"
        findings.compare("targets", place, asked if record.misses_target else "")


def _count_fault(record: Record, about: Mapping[str, Any]) -> str:
    """A fault if a record's layer counts are impossible or differ from the ticket's header.

    Sums over layers and sparsities are not checked here: reading records and headers checks them.
    """
    left, total = record.layers_remaining, record.layers_total
    if left.keys() != total.keys() or any(not 0 <= left[n] <= total[n] for n in left):
        return f"layers keep {paired(left)}, of {paired(total)}"
    stated = {name: header_value(about, name) for name in ("layers_remaining", "layers_total")}
    best = header_value(about, "best_layers_remaining") if record.report_at == "best" else None
    stated |= {"layers_remaining": best} if best else {}
    for name, counts in stated.items():
        if counts is not None and counts != dict(getattr(record, name)):
            own, said = paired(getattr(record, name)), paired(counts)
            return f"{name} is {own}; the ticket's header says {said}"
    return ""


def _metric_fault(record: Record, about: Mapping[str, Any]) -> str:
    """A fault if record and header disagree; non-finite numbers are null in records.

    Reading a header compares its metrics with its history.
    """
    metrics = header_value(about, "metrics")
    if record.finite and not metrics.get("finite"):
        return "finite is True; the ticket's header says otherwise"
    expected = Record.score_columns(metrics, record.report_at) | {"step": int(about["step"])}
    for column, value in expected.items():
        infinite = isinstance(value, float) and not math.isfinite(value)
        if getattr(record, column) != (None if infinite else value):
            return f"{column} is {getattr(record, column)}; the ticket's header says {value}"
    return ""


def _audit_seeds(tickets: Mapping[Path, Mapping[str, Any]], findings: Findings) -> set[Path]:
    """Check that no two seeds have equal tickets (one would be a copy); return the equal tickets.

    Seeds that share the seed of a role (`seeds.init=0`) may share a network, so they are left out.
    """
    seen: dict[tuple[str, str, str], Path] = {}
    equal: set[Path] = set()
    diverged = {
        (about["stage"], about["seed"])
        for about in tickets.values()
        if not (header_value(about, "metrics") or {}).get("finite", True)
    }
    for path, about in tickets.items():
        if about["body_sha256"] == _EMPTY:  # a score stores no weights
            continue
        if header_value(about, "same_for_seeds"):
            findings.leave_out("seeds", "every seed begins with the same pretrained weights")
            continue
        if (about["stage"], about["seed"]) in diverged:
            findings.leave_out(
                "seeds", "the training diverged; tickets full of NaN are always equal"
            )
            continue
        if not about["seed"].isdigit():
            findings.leave_out("seeds", "some of the seed's roles have their own seeds")
            continue
        first = seen.setdefault((about["stage"], about["moment"], about["body_sha256"]), path)
        equal |= {first, path} if first != path else set()
        fault = f"its tensors equal those of {first.name}" if first != path else ""
        findings.compare("seeds", path, fault)
    return equal


def _audit_arms(cells: Sequence[AuditedCell], findings: Findings) -> None:
    results: dict[str, dict[Place, Record]] = defaultdict(dict)
    for cell in cells:
        for record in cell.records:
            # With an empty layer only the biases affect the output, and arms may share biases.
            empty = 0 in record.layers_remaining.values()
            if not record.is_result or record.val_loss is None or empty:
                continue
            results[cell.signature][cell.seed, record.level] = record
    made = {
        signature: {at: (record.stage, _measured(record)) for at, record in own.items()}
        for signature, own in results.items()
    }
    for signature in results:
        findings.compare("arms", signature, "")
    for one, other, places in equal_arms(made):
        # If the remaining weights connect no input with an output, only the biases affect the
        # output, and arms may share biases. Such a network predicts a single class.
        if all(results[one][at].collapsed for at in places):
            continue
        how = difference(results[one][places[0]], results[other][places[0]])
        say = f"equal to {other} in all of {len(places)} results, {how}"
        findings.compare("arms", one, say)


Place = tuple[str, int]
"""A seed and a level."""


def equal_arms(
    made: Mapping[str, Mapping[Place, tuple[str, Any]]],
) -> Iterator[tuple[str, str, list[Place]]]:
    """Yield each pair of cells with equal contents at all places where their makers differ.

    A maker is, for example, the stage that computed a result. A pair comes with these places.

    Args:
        made: for each cell, the maker and the content at each place.
    """
    alike: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for signature, own in made.items():
        for place, (maker, content) in own.items():
            alike[place, content][maker].add(signature)
    for one, other in pairs_apart(alike.values()):
        mine, theirs = made[one], made[other]
        apart = [at for at in mine if at in theirs and mine[at][0] != theirs[at][0]]
        if apart and all(mine[at][1] == theirs[at][1] for at in apart):
            yield one, other, apart


def pairs_apart(alike: Iterable[Mapping[str, Collection[str]]]) -> list[tuple[str, str]]:
    """The pairs of cells that have some equal content that was made by different makers.

    Args:
        alike: for each content that several cells have, the cells by the maker of that content.
    """
    # Thousands of cells may share a dense training, which makes them equal in it. With one maker
    # they are not compared: otherwise there would be millions of pairs.
    sets = (pair for by in alike for pair in itertools.combinations(by.values(), 2))
    pairs = (pair for one, other in sets for pair in itertools.product(one, other))
    return sorted({(min(pair), max(pair)) for pair in pairs if len({*pair}) == 2})


def _measured(record: Record) -> tuple[Any, ...]:
    kept = tuple(sorted(record.layers_remaining.items()))
    return kept, *(getattr(record, name) for name in MEASURED)


def difference(one: Record, other: Record) -> str:
    """A phrase that names the options in which two cells differ, as far as records hold them."""
    columns = Record.option_columns(dict.fromkeys(GROUPS))
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in columns}
    texts = [f"{name} {a} and {b}" for name, (a, b) in pairs.items() if a != b]
    return f"with {', '.join(texts)}" if texts else "with the same options and other settings"
