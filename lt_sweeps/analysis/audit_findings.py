"""`Findings`: the results of an audit, with a verdict on each check (no torch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lt_sweeps.config.spelling import paired

State = Literal["pass", "FAIL", "not checked"]

CHECKS: Mapping[str, str] = {
    "manifest": "it is whole, and has the cells it was written for",
    "records": "whole, those of DONE, and as options, costs and plan say",
    "configs": "those of their folders, and as in the manifest",
    "headers": "tickets are whole, and their headers as written",
    "paths": "stage, seed and moment are those of the path",
    "counts": "records and headers count the same weights, by layer",
    "targets": "sparsities are those asked for, but for rounding",
    "metrics": "records, headers and histories say the same",
    "seeds": "no two seeds have equal tickets",
    "arms": "no two cells are equal in all results, or in all masks",
    "signatures": "configs plan the cells and stages that are stored",
    "checksums": "tensors are those that were written",
    "masks": "they keep as many weights as the headers say",
    "nesting": "a mask lies within the one that it was pruned from",
    "criteria": "computed again, a criterion gives the same mask",
    "pinned": "pruned weights have the values that they are frozen at",
    "rewound": "kept weights restarted from the snapshot, to the bit",
    "finite": "no weight is NaN or infinite, unless the record says so",
    "draws": "drawn again, initial weights are the stored ones",
    "splits": "train, val and test share no more images than the data repeat",
    "accuracies": "stored weights, evaluated again, are as accurate",
    "repeats": "trained again, a network ends with the same bits",
}
"""The checks of results that this package computed, in the order of the table."""

FOREIGN_CHECKS: Mapping[str, str] = {
    "files": "every file can be read",
    "masks": "they hold 0 and 1, and fit their weights",
    "pinned": "weights that a mask prunes are 0",
    "counts": "sparsities are those asked for, but for rounding",
    "nesting": "a mask lies within that of the level before",
    "rewound": "kept weights restarted from those of level 0",
    "finite": "no weight is NaN or infinite",
    "metrics": "accuracies and losses lie in their ranges",
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
