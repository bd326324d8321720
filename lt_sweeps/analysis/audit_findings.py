"""`Findings`: the results of an audit, with a verdict on each check (no torch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lt_sweeps.config.spelling import paired

State = Literal["pass", "FAIL", "not checked"]

CHECKS: Mapping[str, str] = {
    "manifest": "the manifest is whole and lists the cells that it was written for",
    "records": "records are whole, and match DONE, options, costs and plan",
    "configs": "each config.yaml matches its folder and the manifest",
    "headers": "tickets are whole, and their headers unchanged",
    "paths": "each ticket has the stage, seed and moment that its path names",
    "counts": "records and headers count the same weights in each layer",
    "targets": "sparsities are the requested ones, up to rounding",
    "metrics": "records, headers and histories have the same metrics",
    "seeds": "no two seeds have equal tickets",
    "arms": "no two cells are equal in all results, or in all masks",
    "signatures": "planning the stored configs gives the stored cells and stages",
    "checksums": "tensors match their checksums",
    "masks": "masks keep as many weights as the headers say",
    "nesting": "a mask keeps only weights that the mask before it keeps",
    "criteria": "computing a criterion again gives the same mask",
    "pinned": "pruned weights have the values that they are frozen at",
    "rewound": "kept weights restarted bit for bit from the snapshot",
    "finite": "no weight is NaN or infinite, unless the record says so",
    "draws": "drawing the initial weights again gives the stored ones",
    "splits": "train, val and test share no more images than repeated images explain",
    "accuracies": "evaluating the stored weights again gives the same scores",
    "repeats": "training a network again gives the same bits",
}
"""The checks of results that this package computed, in the order of the table."""

FOREIGN_CHECKS: Mapping[str, str] = {
    "files": "every file can be read",
    "masks": "masks hold only 0 and 1, in the shapes of their weights",
    "pinned": "pruned weights are 0",
    "counts": "sparsities are the requested ones, up to rounding",
    "nesting": "a mask keeps only weights that the level before keeps",
    "rewound": "kept weights restarted from the weights of level 0",
    "finite": "no weight is NaN or infinite",
    "metrics": "accuracies and losses are in their possible ranges",
    "seeds": "no two seeds have equal weights",
}
"""The checks of results that other code computed."""


@dataclass(frozen=True)
class CheckVerdict:
    """One check: the number of facts compared, the faults, and the facts not compared, with why."""

    check: str
    claim: str
    compared: int
    faults: tuple[str, ...]
    unchecked: Mapping[str, int] = field(default_factory=dict)  # number of facts by reason

    @property
    def state(self) -> State:
        if self.faults:
            return "FAIL"
        return "pass" if self.compared else "not checked"


class Findings:
    """Collects the results of an audit's checks."""

    def __init__(self, checks: Mapping[str, str] = CHECKS) -> None:
        self._claims = checks
        self._compared: Counter[str] = Counter()
        self._faults: dict[str, list[str]] = {check: [] for check in checks}
        self._unchecked: dict[str, Counter[str]] = {check: Counter() for check in checks}

    def compare(self, check: str, place: object, fault: str) -> bool:
        """Count one compared fact, wrong if `fault` is not empty; return whether it is right."""
        self._compared[check] += 1
        if fault:
            self._faults[check].append(f"{place}: {fault}")
        return not fault

    def compare_counts(
        self, check: str, place: object, wrong: Mapping[str, int], text: str
    ) -> bool:
        """Check that all counts in `wrong` are 0; `text` says what they count."""
        found = {name: count for name, count in wrong.items() if count}
        return self.compare(check, place, f"{text}: {paired(found)}" if found else "")

    def leave_out(self, check: str, reason: str, count: int = 1) -> None:
        """Count facts that cannot be compared, for the given reason."""
        if count:
            self._unchecked[check][reason] += count

    def verdicts(self, checks: Iterable[str] | None = None) -> list[CheckVerdict]:
        """The verdict on each check, or only on the named checks."""
        return [
            CheckVerdict(
                check,
                self._claims[check],
                self._compared[check],
                tuple(dict.fromkeys(self._faults[check])),
                dict(self._unchecked[check]),
            )
            for check in (self._claims if checks is None else checks)
        ]


def summary(verdicts: Iterable[CheckVerdict]) -> str:
    """A line such as `12 checks passed, 1 not checked (masks)`; failed checks come first."""
    by_state: dict[State, list[str]] = {"FAIL": [], "pass": [], "not checked": []}
    for verdict in verdicts:
        by_state[verdict.state].append(verdict.check)
    failed, passed, left = by_state.values()
    parts = [f"{_checks(failed)} FAILED ({', '.join(failed)})"] if failed else []
    parts += [f"{_checks(passed)} passed"] if passed or not left else []
    parts += [f"{len(left)} not checked ({', '.join(left)})"] if left else []
    return ", ".join(parts)


def _checks(names: list[str]) -> str:
    return f"{len(names)} check{'s' * (len(names) != 1)}"
