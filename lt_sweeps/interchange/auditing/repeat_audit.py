"""Train again, and compare the final weights and scores with those that are stored."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.analysis.audited_files import header_value
from lt_sweeps.config.seeds import one_thread
from lt_sweeps.execution.materialize import Missing, ticket
from lt_sweeps.interchange.auditing.audited_store import AuditedStore, differing
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.store import Store
from lt_sweeps.training.backends.backend import ALONE
from lt_sweeps.training.training_loop import TrainingLoop


@one_thread()
def audit_repeat(unit: Unit, store: AuditedStore, row: Record | None, findings: Findings) -> None:
    """Train again from the start; this also tests the snapshots and the plan that led to it.

    Args:
        row: the record that names the device and backend of the stored training. The same bits can
            be expected only on a CPU, and only with a backend whose replicates do not depend on
            the stack that they train in.
    """
    stage, seed = unit.stage, unit.seed
    device, backend = (row.device, row.backend) if row is not None else (None, None)
    if device != "cpu":
        findings.leave_out("repeats", f"computed on {device or 'an unknown device'}, not on a CPU")
        return
    if backend not in ALONE:
        why = f"computed with backend={backend}, which rounds otherwise in each stack"
        findings.leave_out("repeats", why)
        return
    try:
        start = ticket(stage.start, seed, store)
        stored = store.read(stage.key, seed)
    except (Missing, OSError) as error:
        findings.leave_out("repeats", f"what it started from is not stored: {error}")
        return
    said = store.metadata(stage.key, seed) or {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Store(Path(folder))
        loop = TrainingLoop([unit], scratch, Machine(backend=backend), moments=[frozenset()])
        loop.start(start)
        loop.run()
        again, about = scratch.read(stage.key, seed), scratch.metadata(stage.key, seed) or {}
    wrong = differing(stored.state, again.state) + differing(stored.mask, again.mask)
    metrics, others = (header_value(each, "metrics") or {} for each in (said, about))
    # Compared as text, because NaN does not equal itself.
    wrong += [
        name for name in {*metrics, *others} if str(metrics.get(name)) != str(others.get(name))
    ]
    histories = [str(header_value(each, "history")) for each in (said, about)]
    wrong += ["history"] if histories[0] != histories[1] else []
    fault = f"trained again it ends with other {', '.join(sorted(wrong))}" if wrong else ""
    findings.compare("repeats", store.path(stage.key, seed), fault)
