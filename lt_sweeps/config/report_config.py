"""`ReportConfig`: the layout of a sweep's report, from the keys under `report:` in its experiment.

`conf/report/_keys.yaml` lists every key with its default and its meaning; a test compares the two.
A report's config is not part of a result: the manifest stores it next to the cells, and no stage
key, cell signature or record depends on it. So figures can be drawn differently at any time.

    # @package _global_
    report:
      title: Do criteria that keep large weights beat a random mask?
      lines: [mask_criterion]
      labels: {large_final: large final, random: random}
      baseline: large_final
      published: [{file: deconstructing_criteria}] # a file of conf/published/, or
        - label: large_final
          source: arXiv:1905.01067
          where: {model: fc, dataset: mnist}
          points: [[0, 0.9792], [0.589, 0.9822]] # [sparsity, value in the record's unit]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from lt_sweeps.config.call import Call, Config, made
from lt_sweeps.config.option_files import read_option
from lt_sweeps.config.published_curves import with_files
from lt_sweeps.config.quantities import (
    ACCURACY,
    Quantity,
    check_form,
    check_name,
    is_name,
    on_validation,
    percent_of,
)
from lt_sweeps.config.spelling import paired

ENDPOINTS = (
    *("sparsest_not_inferior", "area", "peak"),
    *("sparsest_matching", "sparsest_within_error", "best_performing"),
)
FIGURES = (
    *("curves", "by_sparsity", "early_stop", "endpoints", "layers", "cost"),  # from records
    *("overlap", "plane", "signs", "probabilities"),  # from tickets
)
REPORT_FILES = (
    "records",
    "summary",
    "tests",
    "endpoint_tests",
    "endpoints_by_line",
    "index",
    "report",
)
"""The other files of a report: no figure may have one of these names."""
FIGURE_GETS = ("analysis", "records")
"""The arguments that the framework passes to a user-defined figure if it names them."""
ROLES = ("baseline", "tested", "pairs", "control", "highlight")
"""The keys that give lines of one sweep a role. `compare` gives the lines their roles itself."""
BANDS = {
    "range": "range over seeds",
    "sd": "± 1 standard deviation over seeds",
    "ci": "95% t interval of the mean",
}
_YLIM = "[lower, upper] in the records' unit, or null"
_METRICS = "a list of one metric or more: [test_metric]"
_PAIRS = "a list of pairs: [[line, other line]]"
_MASKS_AT = "a list of sparsities between 0 and 1: [0.5, 0.9]"


@dataclass(frozen=True)
class Published:
    """Published numbers, drawn next to a line: `label` is the name of a line, or a new name.

    A metric has `points`, each [sparsity, value]; an endpoint has one `value`. `where` names the
    model and the data set, and other groups if needed: the numbers are drawn only in panels that
    match all of them.
    """

    label: str
    source: str
    points: list[list[float]] = field(default_factory=list)
    value: float | None = None
    metric: str = "test_accuracy"
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in ENDPOINTS:
            check_form("report.published.metric", [self.metric])
        # A number of CIFAR-10 next to a curve of MNIST would look like a failed reproduction.
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
            if Quantity.of(self.metric).is_fraction and not 0 <= point[1] <= 1:
                raise ValueError(
                    f"report.published: {self.label}: {self.metric} is {point[1]:g} at sparsity "
                    f"{point[0]:g}; give a fraction in [0, 1], as records have it"
                )


@dataclass(frozen=True)
class ReportConfig:
    """The keys under `report:`; `conf/report/_keys.yaml` explains them."""

    title: str | None = None
    figures: list[Any] | None = None
    x: Literal["remaining", "sparsity", "level"] = "remaining"
    ylim: Annotated[list[float] | None, _YLIM] = None
    metrics: Annotated[list[str], _METRICS] = field(default_factory=lambda: ["test_metric"])
    panels: list[str] = field(default_factory=lambda: ["model", "dataset"])
    lines: list[str] | None = None
    along: list[str] = field(default_factory=list)
    labels: Mapping[str, str] = field(default_factory=dict)
    highlight: list[str] | None = None
    band: Literal["range", "sd", "ci"] = "range"
    baseline: str | None = None
    tested: list[str] | None = None
    pairs: Annotated[list[list[str]], _PAIRS] = field(default_factory=list)
    control: str | None = None
    alpha: float = 0.05
    family: Literal["line", "panel", "figure"] = "panel"
    margin: float | str = "auto"
    equivalence: float | str | None = "auto"
    select: Literal["validation", "test"] = "validation"
    workers: int | None = None
    masks_at: Annotated[list[float], _MASKS_AT] = field(default_factory=lambda: [0.5, 0.9])
    published: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"report.metrics: got none; give {_METRICS}")
        check_form("report.metrics", self.metrics)
        for figure in self.figures or ():
            if isinstance(figure, Mapping):
                _check_own_figure(figure)
            else:
                check_name("report.figures", figure, FIGURES)
        own = [each["name"] for each in self.figures or () if isinstance(each, Mapping)]
        if twice := [name for name in own if own.count(name) > 1]:
            raise ValueError(
                f"report.figures: two are called `{twice[0]}`; each needs a name of its own"
            )
        low, high = self.ylim if self.ylim and len(self.ylim) == 2 else (0.0, 0.0)
        checks = {
            "ylim": (self.ylim is None or low < high, _YLIM),
            "alpha": (0 < self.alpha < 1, "a level between 0 and 1"),
            "pairs": (all(len(set(p)) == len(p) == 2 for p in self.pairs), _PAIRS),
            "workers": (self.workers is None or self.workers >= 1, "1 or more, or null"),
            "masks_at": (all(0 < s < 1 for s in self.masks_at), _MASKS_AT),
        }
        for key, (allowed, text) in checks.items():
            if not allowed:
                raise ValueError(f"report.{key}: got {getattr(self, key)}; give {text}")
        _check_margin("margin", self.margin, least=0)
        if self.equivalence is not None:
            _check_margin("equivalence", self.equivalence, least=1e-300)
        published = [_published(entry) for entry in with_files(self.published)]
        object.__setattr__(self, "published", published)

    def check_margins(self, metric: Quantity) -> None:
        """Raises: ValueError: the margin of a fraction is 1 or more, so no value can exceed it."""
        for key in ("margin", "equivalence"):
            given = getattr(self, key)
            if metric.is_fraction and isinstance(given, int | float) and given >= 1:
                raise ValueError(
                    f"report.{key}: got {given}; {metric.words} is a fraction: give less than 1 "
                    "(0.005 is half a point), a part of the dense network's (2%), or auto"
                )

    def chooser(self, metric: str) -> str:
        """Return the metric that selects the best of several tickets in a figure of `metric`."""
        return on_validation(metric) if self.select == "validation" else metric


KEYS = tuple(key.name for key in fields(ReportConfig))


def layout(keys: Mapping[str, Any]) -> ReportConfig:
    """Build a report's config from the keys under `report:`.

    Raises: ValueError: a key is unknown or its value is not allowed; the message names both.
    """
    if isinstance(keys.get("figures"), str):  # `report.figures=curves`
        keys = {**keys, "figures": [keys["figures"]]}
    return made(ReportConfig, keys, where="report")


def frozen_report(report: Config, config_dirs: Sequence[Path]) -> Mapping[str, Any]:
    """Return a report's keys with the current content of the files that they name.

    So the report of a sweep does not change if these files are edited later.
    """
    content: dict[str, Any] = {}
    if isinstance(published := report.get("published"), list):
        content["published"] = with_files(published)
    if figures := report.get("figures"):
        content["figures"] = named_figures(figures, config_dirs)
    return {**report, **content}


def named_figures(figures: Any, config_dirs: Sequence[Path]) -> Any:
    """Return `report.figures` with the name of each user-defined figure replaced by its yaml.

    Raises: ValueError: a yaml does not name a function, or the function refuses its arguments.
    """
    if not isinstance(figures, list):
        return figures
    return [_with_yaml(figure, config_dirs) for figure in figures]


def figure_call(figure: Mapping[str, Any]) -> Call:
    """Return the function of a user-defined figure. Raises: ValueError: as `Call.of`."""
    config = {key: value for key, value in figure.items() if key != "name"}
    return Call.of(config, where=f"report.figures: {figure['name']}", supplied=FIGURE_GETS)


def _with_yaml(figure: Any, config_dirs: Sequence[Path]) -> Any:
    if isinstance(figure, str) and figure not in FIGURES:
        for folder in config_dirs:
            if (folder / "figure" / f"{figure}.yaml").is_file():
                config = read_option(
                    "figure", figure, where="report.figures", config_dir=str(folder)
                )
                figure = {"name": figure, **config}
                break
    if isinstance(figure, Mapping):
        _check_own_figure(figure)
        figure_call(figure)
    return figure


def _check_own_figure(figure: Mapping[str, Any]) -> None:
    name = figure.get("name")
    plain = isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w*", name)
    # A metric's figure has the metric's name. If two figures wrote one file, the last would win.
    metric = str(name).partition("_by_")[0]
    taken = name in (*FIGURES, *REPORT_FILES, "profile") or metric == ACCURACY or is_name(metric)
    if not plain or taken or not isinstance(figure.get("_target_"), str):
        raise ValueError(
            f"report.figures: got {paired(figure)}; a figure of your own has a `_target_` and a "
            f"`name` of letters that is none of {', '.join((*FIGURES, *REPORT_FILES))}, and no "
            "metric"
        )


def _published(entry: Any) -> Published:
    if isinstance(entry, Published):
        return entry
    if not isinstance(entry, Mapping):
        raise ValueError(f"report.published: got {entry!r}; give {{label, source, points}}")
    return made(Published, entry, where="report.published")


def _check_margin(key: str, given: float | str, *, least: float) -> None:
    """Raises: ValueError: it is neither a difference nor a percentage of the dense value."""
    low, high = (percent_of(given), 100.0) if isinstance(given, str) else (given, float("inf"))
    if not least <= low < high:
        or_null = ", or null" if least else ""
        raise ValueError(
            f"report.{key}: got {given!r}; give auto, a difference in the unit of the records "
            f"(0.005), or a part of the dense network's (2%){or_null}"
        )
