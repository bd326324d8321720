"""`audit`: recompute stored results from their files alone, with one verdict per check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from lt_sweeps.analysis.audit_findings import CheckVerdict, Findings, summary
from lt_sweeps.analysis.record_audit import audit_records
from lt_sweeps.config.trust import trusted_modules
from lt_sweeps.interchange.auditing.network_audit import audit_networks, is_of_other_code
from lt_sweeps.interchange.auditing.sweep_audit import audit_sweep
from lt_sweeps.interchange.auditing.ticket_audit import audit_ticket, is_ticket
from lt_sweeps.storage.atomic_write import write_whole

FORMAT = "lt_sweeps.audit/1"
_SHOWN = 5  # most faults per check shown in the terminal
_COLOURS = {"pass": "green", "FAIL": "bold red", "not checked": "yellow"}
T = TypeVar("T")


def audit(
    where: Path,
    *,
    sample: str = "8",
    repeat: str = "0",
    trust: str = "",
    out: Path | None = None,
    console: Console | None = None,
) -> bool:
    """Audit a sweep's folder, a root, a cell, a weight file, or an open_lth folder.

    Nothing in `where` is changed, and no code stored in it runs. Prints a table; if `out` is given,
    also writes all verdicts to that file as JSON. Returns True if no check failed.

    Args:
        sample: how many trainings to evaluate again, or `all`.
        repeat: how many trainings to train again and compare bit by bit, or `all`.
        trust: comma-separated modules whose functions a stored config may name.

    Raises: ValueError: an argument is wrong, or `where` holds nothing that can be audited.
    """
    where, console = Path(where), console or Console()
    modules = trusted_modules(trust)
    count, again = _count("sample", sample), _count("repeat", repeat)
    if is_ticket(where):
        verdicts = audit_ticket(where)
    elif is_of_other_code(where):
        verdicts, networks = audit_networks(where)
        for line in networks:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        verdicts = _audit_ours(where, count, again, modules, console)
    _print(verdicts, console)
    if out is not None:
        write_whole(Path(out), _as_json(where, verdicts))
    return all(verdict.state != "FAIL" for verdict in verdicts)


def _count(key: str, value: str) -> int | None:
    if value == "all":
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError(f"audit: {key}={value}; give a number of trainings, or all")
    return int(value)


def _audit_ours(
    where: Path, sample: int | None, repeat: int | None, trust: Sequence[str], console: Console
) -> list[CheckVerdict]:
    """Audit results that lt_sweeps wrote, with a progress bar, and return the verdicts."""
    findings = Findings()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True) as progress:

        def track(items: Sequence[T], what: str) -> Iterable[T]:
            return progress.track(items, description=what)

        artifacts = audit_records(where, findings)
        audit_sweep(artifacts, findings, sample=sample, repeat=repeat, trust=trust, track=track)
    return findings.verdicts()


def _print(verdicts: Sequence[CheckVerdict], console: Console) -> None:
    table = Table(box=None, padding=(0, 1), show_header=True)
    for head in ("check", "", "facts", "claim"):
        table.add_column(head, justify="right" if head == "facts" else "left")
    for verdict in verdicts:
        state = Text(verdict.state, _COLOURS[verdict.state])
        table.add_row(verdict.check, state, f"{verdict.compared:,}", Text(verdict.claim))
    console.print(table)
    for line in [*_details(verdicts), summary(verdicts)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _details(verdicts: Iterable[CheckVerdict]) -> Iterator[str]:
    for verdict in verdicts:
        for fault in verdict.faults[:_SHOWN]:
            yield f"{verdict.check}: {fault}"
        if len(verdict.faults) > _SHOWN:
            yield f"{verdict.check}: and {len(verdict.faults) - _SHOWN} more"
    for verdict in verdicts:
        for reason, count in list(verdict.unchecked.items())[:_SHOWN]:
            yield f"{verdict.check}: {count:,} not checked: {reason}"


def _as_json(where: Path, verdicts: Sequence[CheckVerdict]) -> bytes:
    checks: list[dict[str, Any]] = [{**asdict(v), "state": v.state} for v in verdicts]
    content = {"format": FORMAT, "audited": str(where), "summary": summary(verdicts)}
    return json.dumps({**content, "checks": checks}, indent=1).encode()
