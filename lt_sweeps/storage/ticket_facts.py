"""`TicketFacts`: the facts in the header of a ticket, checked against each other."""

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
    """The facts in a ticket's header besides its identity; a fact that a ticket lacks is empty.

    An initialisation has no layers and no metrics, an imported ticket has no metrics, and a
    checkpoint has little more than its history. A diverged loss is NaN.
    """

    step: int
    level: int = 0
    sparsity: float = 0.0
    precision: Precision = "float32"  # of its training
    layers_remaining: Mapping[str, int] = field(default_factory=dict)
    layers_total: Mapping[str, int] = field(default_factory=dict)
    # For a mask that was learned in the training, if the best evaluation is not the last one.
    best_layers_remaining: Mapping[str, int] = field(default_factory=dict)
    # Numbers and bools by name. For a task other than classification, the key `metrics` has more
    # numbers by name, `metric` is the main metric, `lower_metrics` are those that are better low.
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> TicketFacts:
        """Raises: ValueError: a fact is missing or has the wrong type, or two facts contradict."""
        names = cls.__dataclass_fields__.keys() & metadata.keys()
        try:
            values: dict[str, Any] = {
                name: json.loads(metadata[name]) for name in names - {"precision", "history"}
            }
        except (ValueError, RecursionError):
            raise ValueError("its header holds what is not JSON") from None
        values |= {name: metadata[name] for name in names & {"precision"}}  # plain text, not JSON
        # JSON has no NaN: facts that may be NaN, such as a diverged loss, are checked separately.
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
        """Return how many weights each layer keeps at the `end`, or at the `best` evaluation."""
        best = self.best_layers_remaining if when == "best" else {}
        return best or self.layers_remaining

    def sparsity_at(self, when: str) -> float:
        """Return the sparsity at the `end`, or at the `best` evaluation."""
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
        """Compare the validation scores in the metrics with those in the history."""
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
    """Parse the rows of a history, which callers must not change.

    They are cached: a ticket is read several times when it is written, recorded and pruned, and its
    history is nearly all of its header: 500 rows take a millisecond.

    Raises: ValueError: the text is not JSON, or not rows of numbers.
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
