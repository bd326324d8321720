"""`ReportConfig`: what a sweep's report looks like, as its experiment's yaml says under `report:`.

`conf/report/_keys.yaml` lists every key with its default and its meaning; a test compares the two.
A report's config is no part of a result: the manifest keeps it beside the cells, and no stage key,
cell signature or record depends on it. Figures can be drawn in another way at any time.

    # @package _global_
    report:
      title: Do criteria that keep large weights beat a random mask?
      lines: [mask_criterion]
      labels: {large_final: large final, random: random}
      baseline: large_final
      published: [{file: deconstructing_criteria}] # of conf/published/, or
        - label: large_final
          source: arXiv:1905.01067
          where: {model: fc, dataset: mnist}
          points: [[0, 0.9792], [0.589, 0.9822]] # [sparsity, value in the record's unit]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lt_sweeps.config.call import Call, nearest
from lt_sweeps.config.published_curves import with_files

METRICS = (
    *(
        f"{when}{split}_{what}"
        for when in ("", "end_", "best_")
        for split in ("test", "val")
        for what in ("accuracy", "loss")
    ),
    *("reported_step", "best_step", "train_steps", "seconds"),
)
ENDPOINTS = (
    *("sparsest_not_inferior", "area", "peak"),
    *("sparsest_matching", "sparsest_within_error", "best_performing"),
)
FIGURES = (
    *("curves", "by_sparsity", "early_stop", "endpoints", "layers", "cost"),  # from records
    *("overlap", "plane", "signs", "probabilities"),  # from tickets
)
BANDS = {
    "range": "range over seeds",
    "sd": "± 1 standard deviation over seeds",
    "ci": "95% t interval of the mean",
}


@dataclass(frozen=True)
class Published:
    """Published numbers, drawn beside a line: `label` is the name of a line, or a new name.

    A metric has `points`, each [sparsity, value]; an endpoint has one `value`. `where` names the
    model and the data set, and other groups if need be: the numbers are drawn where all fit.
    """

    label: str
    source: str
    points: list[list[float]] = field(default_factory=list)
    value: float | None = None
    metric: str = "test_accuracy"
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _known("report.published.metric", self.metric, (*METRICS, *ENDPOINTS))
        # A number of CIFAR-10 beside a curve of MNIST would look like a failed reproduction.
        if missing := [group for group in ("model", "dataset") if not self.where.get(group)]:
            raise ValueError(
                f"report.published: {self.label} names no {' and no '.join(missing)}; give "
                "where={model: NAME, dataset: NAME}, or columns of these names in a file"
            )
        if (self.value is None) == (self.metric in ENDPOINTS):
            raise ValueError(
                f"report.published: {self.label} gives {self.metric} as "
                f"{'`points`' if self.value is None else '`value`'}; an endpoint has a `value`, "
                "any other metric `points`"
            )
        for point in self.points:
            if len(point) != 2 or not 0 <= point[0] < 1:
                raise ValueError(
                    f"report.published: got {point}; give [sparsity, value], a sparsity in [0, 1)"
                )


@dataclass(frozen=True)
class ReportConfig:
    """How the report draws a sweep; the keys are explained in `conf/report/_keys.yaml`."""

    title: str | None = None
    figures: list[str] | None = None
    x: Literal["remaining", "sparsity", "level"] = "remaining"
    ylim: list[float] | None = None
    metrics: list[str] = field(default_factory=lambda: ["test_accuracy"])
    panels: list[str] = field(default_factory=lambda: ["model", "dataset"])
    lines: list[str] | None = None
    along: list[str] = field(default_factory=list)
    labels: Mapping[str, str] = field(default_factory=dict)
    highlight: list[str] | None = None
    band: Literal["range", "sd", "ci"] = "range"
    baseline: str | None = None
    tested: list[str] | None = None
    pairs: list[list[str]] = field(default_factory=list)
    control: str | None = None
    alpha: float = 0.05
    family: Literal["line", "panel", "figure"] = "panel"
    margin: float | str = 0.005
    equivalence: float | None = 0.005
    select: Literal["validation", "test"] = "validation"
    workers: int | None = None
    masks_at: list[float] = field(default_factory=lambda: [0.5, 0.9])
    published: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"report.metrics: got none; give some of {', '.join(METRICS)}")
        for name in self.metrics:
            _known("report.metrics", name, METRICS)
        for name in self.figures or ():
            _known("report.figures", name, FIGURES)
        low, high = self.ylim if self.ylim and len(self.ylim) == 2 else (0.0, 0.0)
        checks = {
            "ylim": (self.ylim is None or low < high, "[lower, upper] in the records' unit"),
            "alpha": (0 < self.alpha < 1, "a level between 0 and 1"),
            "pairs": (all(len(set(p)) == len(p) == 2 for p in self.pairs), "[line, other line]"),
            "equivalence": (self.equivalence is None or 0 < self.equivalence < 1, "0.005, or null"),
            "workers": (self.workers is None or self.workers >= 1, "1 or more, or null"),
            "masks_at": (all(0 < s < 1 for s in self.masks_at), "sparsities between 0 and 1"),
        }
        for key, (allowed, text) in checks.items():
            if not allowed:
                raise ValueError(f"report.{key}: got {getattr(self, key)}; give {text}")
        self.below(1.0)
        published = [_published(entry) for entry in with_files(self.published)]
        object.__setattr__(self, "published", published)

    def chooser(self, metric: str) -> str:
        """The metric that picks the best of several tickets in a figure of `metric`."""
        return metric.replace("test", "val") if self.select == "validation" else metric

    def below(self, dense: float) -> float:
        """The lowest value that is not inferior to `dense` by the margin."""
        if isinstance(self.margin, str):
            percent = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", self.margin)
            if percent is None or float(percent[1]) >= 100:
                raise ValueError(
                    f"report.margin: got {self.margin!r}; give a difference in accuracy (0.005) or "
                    "a part of dense accuracy (2%)"
                )
            return dense * (1 - float(percent[1]) / 100)
        if self.margin < 0:
            raise ValueError(f"report.margin: got {self.margin}; give 0 or more")
        return dense - self.margin


KEYS = tuple(key.name for key in fields(ReportConfig))


def layout(keys: Mapping[str, Any]) -> ReportConfig:
    """The config of a report that the keys under `report:` describe.

    Raises: ValueError naming the key, what was given and what is allowed.
    """
    target = "lt_sweeps.config.report_config.ReportConfig"
    if isinstance(keys.get("figures"), str):  # `report.figures=curves`
        keys = {**keys, "figures": [keys["figures"]]}
    return Call.of({"_target_": target, **keys}, where="report")()


def _published(entry: Any) -> Published:
    if isinstance(entry, Published):
        return entry
    if not isinstance(entry, Mapping):
        raise ValueError(f"report.published: got {entry!r}; give {{label, source, points}}")
    target = "lt_sweeps.config.report_config.Published"
    return Call.of({"_target_": target, **entry}, where="report.published")()


def _known(where: str, name: Any, allowed: Sequence[str]) -> None:
    if name not in allowed:
        hint = nearest(str(name), allowed)
        raise ValueError(f"{where}: got {name!r}{hint}; give one of {', '.join(allowed)}")
