"""What the papers' experiments show at any scale: which line is better than which, and where.

`sparsest`: at the last level; `peak`: the best level of each run. In points of test accuracy, means
over seeds; each margin is about a third of what two seeds on digits show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Ordering:
    """`better` is at least `margin` points above each of `worse`."""

    better: str
    worse: tuple[str, ...]
    margin: float
    at: Literal["sparsest", "peak"] = "sparsest"
    panel: str = ""  # a word of the panel's name, where there are several

    def check(self, report: Path) -> None:
        found = self._sparsest(report) if self.at == "sparsest" else self._peaks(report)
        for worse in self.worse:
            ahead = 100 * (found[self.better] - found[worse])
            assert ahead >= self.margin, f"{self.better} is {ahead:.1f} points above {worse}"

    def _sparsest(self, report: Path) -> pd.Series:
        rows = pd.read_csv(report / "summary.csv")
        rows = rows[rows["level"] == rows["level"].max()]
        return rows.set_index("curve")["mean"]

    def _peaks(self, report: Path) -> pd.Series:
        rows = pd.read_csv(report / "endpoints_by_line.csv")
        rows = rows[(rows["endpoint"] == "peak") & rows["panel"].str.contains(self.panel)]
        return rows.set_index("line")["mean"]


@dataclass(frozen=True)
class Inverted:
    """A line is an inverted U: its best level is `margin` points above its first and its last."""

    line: str
    margin: float
    panel: dict[str, str]

    def check(self, report: Path) -> None:
        rows = pd.read_csv(report / "summary.csv")
        for column, option in {"curve": self.line, **self.panel}.items():
            rows = rows.loc[rows[column] == option]
        means = rows.sort_values("sparsity")["mean"].tolist()
        rise = 100 * (max(means) - max(means[0], means[-1]))
        assert rise >= self.margin, f"{self.line} rises by {rise:.1f} points"


_INVERSES = ("small init", "small init small final", "small final")
_NO_BETTER = ("random", "large final diff sign", "large init", *_INVERSES)
ORDERINGS = {
    "deconstructing/criteria": (
        Ordering("large final", ("random", "large init"), 7),
        Ordering("magnitude increase", ("random", "large init"), 7),
        Ordering("movement", ("random", "large init"), 7),
        Ordering("large init large final", ("random", "large init"), 7),
        Ordering("random", _INVERSES, 10),
    ),
    "deconstructing/mask_1": (
        Ordering("rewind", ("reinit", "reshuffle", "constant"), 1.5),
        Ordering("reinit, init sign", ("reinit",), 2),
        Ordering("reshuffle, init sign", ("reshuffle",), 1.5),
        Ordering("constant, init sign", ("constant",), 2),
        Ordering("reinit", ("random mask, reinit",), 5),
    ),
    "deconstructing/mask_0": (
        Ordering("variant 1", ("zero",), 0.9),
        Ordering("variant 2", ("zero",), 0.8),
        Ordering("zero", ("control: reversed",), 0.9),
    ),
    "deconstructing/supermasks": (
        Ordering("large final", _NO_BETTER, 30, at="peak", panel="rewind"),
        Ordering("large final", _NO_BETTER, 30, at="peak", panel="constant_init_sign"),
        Ordering("large final same sign", ("movement",), 10, at="peak", panel="constant_init_sign"),
        Inverted("large final", 12, {"reset": "rewind"}),
        Inverted("large final same sign", 12, {"reset": "constant_init_sign"}),
    ),
    "deconstructing/learned_supermasks": (
        Ordering("rescaled, initial weights", ("learned, initial weights",), 1, at="peak"),
        Ordering("rescaled, signed constants", ("learned, signed constants",), 1, at="peak"),
    ),
    "deconstructing/random_signs": (
        Ordering("signs as trained with", ("signs in another order",), 50, at="peak"),
    ),
}
