"""`Quantity`: the name of a measured number, its unit, and whether low values are better.

A name is `[end_|best_|hard_]val_KIND` or `..._test_KIND`. The kind is `loss`, `accuracy` or a
metric of a task: `test_r2`. The kind `metric` stands for the main metric of the cell's task: for a
classification, `test_metric` is `test_accuracy`. Only this module interprets the names of metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lt_sweeps.config.spelling import nearest

OWN = "metric"
"""The kind that stands for the main metric of a task."""
ACCURACY = "accuracy"
"""The main metric of a classification, whose records do not name it."""
_PLACES = tuple(f"{when}{split}" for when in ("", "end_", "best_") for split in ("test", "val"))
METRICS = (
    *(f"{place}_{what}" for place in _PLACES for what in (ACCURACY, "loss")),
    *("reported_step", "best_step", "train_steps", "seconds"),
)
"""The metrics for which every record has a column."""

_NAME = re.compile(r"((?:(?:end|best|hard)_)?(?:val|test)_)(\w+)")
_LOWER = {"loss", "mse", "mae", "rmse", "perplexity", "error", "nll", "bits_per_byte", "wer"}
_WRITTEN = {"r2": "R2", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "auc": "AUC", "f1": "F1"}
_WHOLE = {"best_step": "early-stop step"}
_POINTS, _PART = 0.005, 1.0  # margin `auto`: a difference of fractions, otherwise a percent


@dataclass(frozen=True)
class Quantity:
    """A metric, by its name in a record. A task declares which of its metrics are better low."""

    name: str
    lower_is_better: bool = False

    @classmethod
    def of(cls, name: str) -> Quantity:
        """Return a metric whose direction no record states: losses and errors are better low."""
        return cls(name, kind_of(name) in _LOWER)

    @property
    def kind(self) -> str:
        return kind_of(self.name)

    @property
    def judges(self) -> bool:
        """Whether it can be the main metric of a task: an evaluated metric other than the loss."""
        return self.kind not in (self.name, "loss")

    @property
    def is_fraction(self) -> bool:
        """Whether its values are in [0, 1], shown in percent, and its differences in points."""
        return self.name.endswith(ACCURACY)

    @property
    def scale(self) -> float:
        """The factor from the unit of the records to the unit that is shown."""
        return 100.0 if self.is_fraction else 1.0

    @property
    def digits(self) -> int:
        """The number of decimals that are shown."""
        return 2 if self.is_fraction else 4

    @property
    def file_name(self) -> str:
        """The file name of its figure."""
        return ACCURACY if self.name == f"test_{ACCURACY}" else self.name

    @property
    def words(self) -> str:
        """Its name in a sentence: `test accuracy`, `test R2`."""
        if self.name in _WHOLE:
            return _WHOLE[self.name]
        *parts, last = self.name.split("_")
        return " ".join([*parts, _WRITTEN.get(last, last)])

    @property
    def kind_words(self) -> str:
        """Its name in a sentence, without the split: `accuracy`, `R2`."""
        return _WRITTEN.get(self.kind, self.kind).replace("_", " ")

    @property
    def label(self) -> str:
        """Its name on an axis, with its unit, or with its direction if readers may not know it."""
        if self.is_fraction:
            return f"{self.words} (%)"
        # Every reader knows that a loss is better low.
        told = self.lower_is_better and self.kind != "loss"
        return f"{self.words} (lower is better)" if told else self.words

    def worth(self, value: float) -> float:
        """Return a number that is larger if the metric is better."""
        return -value if self.lower_is_better else value

    def margin(self, given: float | str, dense: float) -> float:
        """Return the absolute difference that `report.margin` or `report.equivalence` stands for.

        For a fraction, `auto` is half a percentage point. An error or a perplexity can have any
        unit, so there `auto` is one percent of the dense network's value.
        """
        if isinstance(given, str):
            if given == "auto" and self.is_fraction:
                return _POINTS
            return abs(dense) * percent_of(given) / 100
        return given

    def limit(self, given: float | str, dense: float) -> float:
        """Return the worst value that is not inferior to `dense`, given the margin."""
        margin = self.margin(given, dense)
        return dense + margin if self.lower_is_better else dense - margin

    def margin_text(self, given: float | str) -> str:
        """Format a margin for a reader: `0.5 points`, `1% (relative)`."""
        if isinstance(given, str) and not (given == "auto" and self.is_fraction):
            return f"{percent_of(given):g}% (relative)"
        return self.difference_text(self.margin(given, math.nan))

    def difference_text(self, difference: float, *, digits: int = 6, signed: bool = False) -> str:
        """Format a difference with its unit: `0.5 points`, `0.03`.

        A signed difference has all its decimals.
        """
        shown = self.scale * difference
        text = fixed(shown, self.digits, sign="+") if signed else significant(shown, digits)
        return f"{text} point{'s' * (text != '1')}" if self.is_fraction else text

    def number_text(self, value: float) -> str:
        """Format a value with its unit: `12.3%`, `0.8123`."""
        return f"{significant(self.scale * value, 4)}{'%' if self.is_fraction else ''}"

    def value_text(self, value: float) -> str:
        """Format a value for a table, without its unit; from 1000 on with 4 significant digits."""
        shown = self.scale * value
        return fixed(shown, self.digits) if abs(shown) < 1000 else significant(shown, 4)


TEST_ACCURACY = Quantity(f"test_{ACCURACY}")


def significant(value: float, digits: int) -> str:
    """Format a number with so many significant digits: 160, 30600.

    Large numbers have an exponent only from a million on.
    """
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def fixed(value: float, decimals: int, *, sign: str = "") -> str:
    """Format a number with so many decimals; one that rounds to 0 has no minus: 0.00, or +0.00."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # -0.0 + 0.0 is 0.0


def percent_of(given: str) -> float:
    """Return the percentage in a relative margin, 1 for `auto`; NaN for any other text."""
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", given)
    return _PART if given == "auto" else float(percent[1]) if percent else math.nan


def kind_of(name: str) -> str:
    """Return `r2` for `best_val_r2`; if the name is not an evaluated metric, the name itself."""
    matched = _NAME.fullmatch(name)
    return matched[2] if matched else name


def named(name: str, own: str) -> str:
    """Replace the kind `metric` by the task's main metric, `own`: `test_metric` -> `test_r2`."""
    matched = _NAME.fullmatch(name)
    return f"{matched[1]}{own}" if matched and matched[2] == OWN else name


def on_validation(name: str) -> str:
    """Return the name of the same metric on validation data: `best_val_r2` for `best_test_r2`."""
    matched = _NAME.fullmatch(name)
    return f"{matched[1].replace('test', 'val')}{matched[2]}" if matched else name


def looks_at_test(name: str) -> bool:
    """Whether the metric is measured on the test set."""
    matched = _NAME.fullmatch(name)
    return bool(matched and "test" in matched[1])


def names_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return all metric names that a report accepts if tasks also measure these kinds."""
    own = [f"{place}_{kind}" for kind in dict.fromkeys([OWN, *kinds]) for place in _PLACES]
    return tuple(dict.fromkeys([*METRICS, *own]))


def names_measured(kinds: Collection[str]) -> tuple[str, ...]:
    """Return all metric names of tasks that measure these kinds in addition to their loss."""
    names = names_of(kind for kind in kinds if kind != ACCURACY)
    return tuple(name for name in names if ACCURACY in kinds or kind_of(name) != ACCURACY)


def is_name(name: object) -> bool:
    """Whether `name` has the form of a metric's name; a task decides whether the metric exists."""
    return name in METRICS or bool(isinstance(name, str) and _NAME.fullmatch(name))


def check_name(where: str, name: object, known: Collection[str]) -> None:
    """Raises: ValueError: `name` is not among the `known` names."""
    if name not in known:
        test = f"test_{name}"  # `val_accuracy` looks more like `accuracy`
        hint = f"; did you mean `{test}`?" if test in known else nearest(str(name), known)
        raise ValueError(f"{where}: got {name!r}{hint or ';'} give one of {', '.join(known)}")


def check_form(where: str, names: Sequence[object]) -> None:
    """Raises: ValueError: one of the names cannot be a metric of any task."""
    for name in names:
        if not is_name(name):
            check_name(where, name, names_of(()))
