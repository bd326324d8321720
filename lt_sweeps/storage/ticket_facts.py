"""`TicketFacts`: what the header of a ticket says of it, as values that agree with each other."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lt_sweeps.config.keys import Precision
from lt_sweeps.config.spelling import paired
from lt_sweeps.storage.checked_read import typed


@dataclass(frozen=True)
class TicketFacts:
    """What a ticket's header says beside its identity; empty where a ticket has no such fact.

    An initialisation has no layers and no metrics, an imported ticket has no metrics, and a
    checkpoint has little more than its history. A diverged loss is NaN.
    """

    step: int
    level: int = 0
    sparsity: float = 0.0
    precision: Precision = "float32"  # what its training computed in
    layers_remaining: Mapping[str, int] = field(default_factory=dict)
    layers_total: Mapping[str, int] = field(default_factory=dict)
    # Of a mask that was learned on the way, where its best evaluation is not the last one.
    best_layers_remaining: Mapping[str, int] = field(default_factory=dict)
    # Numbers and truth values by name; of a task other than classes, `metrics` are more numbers
    # by name, `metric` is the main one, `lower_metrics` are those that are better low.
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> TicketFacts:
        """Raises: ValueError: a fact is missing or of another type, or two do not agree."""
        names = cls.__dataclass_fields__.keys() & metadata.keys()
        try:
            values: dict[str, Any] = {
                name: json.loads(metadata[name]) for name in names - {"precision", "history"}
            }
        except (ValueError, RecursionError):
            raise ValueError("its header holds what is not JSON") from None
        values |= {name: metadata[name] for name in names & {"precision"}}  # a text
        # NaN has no type in JSON: what may be NaN, as a diverged loss is, is checked by itself.
        numbers = {name: values.pop(name) for name in names & {"metrics"}}
        try:
            facts: TicketFacts = typed(cls, values)
            scores = dict(numbers.get("metrics", {}))
            others = scores.pop("metrics", {})
            if not isinstance(scores.pop("metric", ""), str):
                raise ValueError("the name of its metric is not a text")
            if not all(isinstance(name, str) for name in scores.pop("lower_metrics", [])):
                raise ValueError("the name of a metric is not a text")
            _check_numbers([scores, others])
            if "history" in names:
                numbers["history"] = _history(metadata["history"])
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"its header: {error}") from None
        facts = cls(**{**vars(facts), **numbers})
        if fault := facts._counts() or facts._scores():
            raise ValueError(f"its header: {fault}")
        return facts

    def kept_at(self, when: str) -> Mapping[str, int]:
        """How many weights each layer keeps at the `end`, or at the `best` evaluation."""
        best = self.best_layers_remaining if when == "best" else {}
        return best or self.layers_remaining

    def sparsity_at(self, when: str) -> float:
        """The sparsity at the `end`, or at the `best` evaluation."""
        kept = self.kept_at(when)
        if kept is self.layers_remaining:
            return self.sparsity
        return 1 - sum(kept.values()) / sum(self.layers_total.values())

    def _counts(self) -> str:
        left, total = self.layers_remaining, self.layers_total
        for kept in (left, self.best_layers_remaining or left):
            if kept.keys() != total.keys() or any(not 0 <= kept[n] <= total[n] for n in kept):
                return f"layers keep {paired(kept)}, of {paired(total)} weights"
        weights = sum(total.values())
        if weights and not math.isclose(self.sparsity, 1 - sum(left.values()) / weights):
            return f"sparsity {self.sparsity} where {sum(left.values())} of {weights} weights stay"
        return ""

    def _scores(self) -> str:
        """Validation scores stand in the history and in the metrics."""
        if not self.metrics or not self.history:
            return ""
        own: Mapping[str, Any] = self.metrics.get("metrics") or {}
        stated, best_step = {**self.metrics, **own}, self.metrics.get("best_step")
        at_best = (row for row in reversed(self.history) if row.get("step") == best_step)
        names = {name for name in set().union(*self.history) if name.startswith("val_")}
        picked = {"end": self.history[-1], "best": next(at_best, {})}
        for when, row in picked.items():
            for name in sorted({"val_loss", "val_accuracy"} | names):
                said, was = stated.get(f"{when}_{name}"), row.get(name)
                if said != was and not (said != said and was != was):  # NaN equals nothing
                    return f"{when}_{name} {said} where the history has {was}"
        return ""


@functools.lru_cache(maxsize=64)
def _history(text: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a history, which nobody changes.

    A ticket is looked at several times where it is written, recorded and pruned, and its history is
    nearly all of its header: 500 rows take a millisecond.

    Raises: ValueError: it is not JSON, or not rows of numbers.
    """
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its history is not JSON") from None
    _check_numbers(rows)
    return rows


def _check_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    kinds = set[type]().union(*(map(type, row.values()) for row in rows))
    if not kinds <= {int, float, bool, type(None)}:
        raise ValueError("a metric is not a number")
