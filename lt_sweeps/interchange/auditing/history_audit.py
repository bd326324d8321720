"""Check the evaluations of a stored training: when its recipe makes them, and which is the best."""

from __future__ import annotations

import math

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.interchange.auditing.audited_store import AuditedStore
from lt_sweeps.plan.stages import Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.ticket_facts import TicketFacts


def audit_history(unit: Unit, store: AuditedStore, findings: Findings) -> None:
    """Compare the steps of the evaluations with the recipe, and `best_step` with the losses."""
    facts = store.facts(unit.stage.key, unit.seed)
    if facts is not None and facts.metrics:
        place = store.path(unit.stage.key, unit.seed)
        findings.compare("metrics", place, _fault(unit.stage, facts))


def _fault(stage: Work, facts: TicketFacts) -> str:
    recipe, steps = stage.training.recipe, [row["step"] for row in facts.history]
    first, last = stage.start.step, stage.step
    due = [s for s in range(first, last + 1) if s % recipe.evaluate_every == 0 or s == last]
    if steps != due:
        return f"its history has {len(steps)} evaluations, and not the {len(due)} of its recipe"
    # Evaluations before a change of the mask do not count.
    acts = (s for s in reversed(range(first, last)) if stage.sparsifier.acts(s, recipe))
    changed = next(acts, -1) if stage.sparsifier.changes_mask else -1
    losses = {row["step"]: row["val_loss"] for row in facts.history if row["step"] > changed}
    lowest = min(losses, key=lambda s: math.inf if math.isnan(losses[s]) else losses[s])
    if lowest != facts.metrics["best_step"]:
        best = facts.metrics["best_step"]
        return f"best_step is {best}; its history has the lowest val_loss at step {lowest}"
    return ""
