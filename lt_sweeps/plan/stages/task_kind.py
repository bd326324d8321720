"""`TaskKind`: what a network is trained for: a loss, and the metrics that measure it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.yaml_types import check_keys

_ACCURACY = "lt_sweeps.training.metrics.accuracy"
_CROSS_ENTROPY = "torch.nn.functional.cross_entropy"
_ON_LOGITS = (
    _CROSS_ENTROPY,
    "torch.nn.functional.binary_cross_entropy_with_logits",
    "lt_sweeps.training.losses.token_cross_entropy",
)

_OF_CLASSES = (
    *(_CROSS_ENTROPY, "torch.nn.CrossEntropyLoss", "lt_sweeps.training.losses.token_cross_entropy"),
    *("torch.nn.functional.nll_loss", "torch.nn.NLLLoss"),
)
_OF_LABELS = (
    *("torch.nn.functional.binary_cross_entropy_with_logits", "torch.nn.BCEWithLogitsLoss"),
    *("torch.nn.functional.multilabel_soft_margin_loss", "torch.nn.MultiLabelSoftMarginLoss"),
)
_LEFT_OUT = ("ignore", "ignore_index")  # what a loss or a metric calls a target that does not count

# The keys of a task's yaml, with the types of their values.
_KEYS: Mapping[str, Any] = {
    "loss": Mapping[str, Any] | None,
    "metrics": Annotated[Mapping[str, Mapping[str, Any] | None] | None, "`NAME: {_target_: ...}`"],
    "metric": str | None,
    "output": Annotated[str | int | None, "the name or number of an output"],
}


@dataclass(frozen=True)
class Metric:
    """A function of outputs and targets, by the name that records know it by."""

    name: str
    call: Call
    lower_is_better: bool

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Metric:
        """Raises: ValueError: its yaml names no function of outputs and targets."""
        where = f"task.metrics.{name}"
        better = config.get("better")
        if better not in (None, "lower", "higher"):
            raise ValueError(f"{where}.better: got {better!r}; it is `lower` or `higher`")
        call = _measure({k: v for k, v in config.items() if k != "better"}, where)
        said = bool(getattr(call.function, "lower_is_better", False))
        return cls(name, call, said if better is None else better == "lower")

    @property
    def is_accuracy(self) -> bool:
        """Whether it is what every record of a classification has."""
        return self.name == "accuracy" and self.call.target == _ACCURACY

    @property
    def takes_whole_split(self) -> bool:
        """Whether it is marked to be called once, with a whole split, and never with less."""
        return bool(getattr(self.call.function, "whole_split", False))

    def identity(self) -> dict[str, Any]:
        return {**self.call.identity(), "lower_is_better": self.lower_is_better}


@dataclass(frozen=True)
class TaskKind:
    """A loss, the metrics, which of them is the main one, and which output of a model counts."""

    loss: Call
    metrics: tuple[Metric, ...]
    main: str
    output: str | int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> TaskKind:
        """What a task yaml describes; a config without one classifies, as all did before.

        Raises:
            ValueError: an unknown key, no metric, or a function that cannot be called.
        """
        if config is None:
            return CLASSIFICATION
        check_keys(config, _KEYS, where="task")
        if not config.get("loss"):
            raise ValueError("task.loss: none; give `loss: {_target_: your.function, ...}`")
        given = config.get("metrics")
        if not given:
            raise ValueError(f"task.metrics: got {given!r}; give `NAME: {{_target_: ...}}`")
        metrics = tuple(Metric.of(name, value) for name, value in given.items() if value)
        for metric in metrics:
            taken = metric.name in ("loss", "accuracy") and not metric.is_accuracy
            if taken or not metric.name.isidentifier():
                raise ValueError(
                    f"task.metrics: `{metric.name}` cannot name `{metric.call.target}`; records "
                    "have a loss, and the accuracy of classes; take another word"
                )
        names = [metric.name for metric in metrics]
        main = config.get("metric") or next(iter(names), None)
        if main not in names:
            raise ValueError(f"task.metric: got {main!r}; it is one of {names}")
        loss = _measure(config["loss"], "task.loss")
        if loss.args.get("reduction") == "sum":
            raise ValueError(
                "task.loss.reduction: got sum, which would make a loss depend on the size of its "
                "batches; give mean, or none"
            )
        # A metric of a user's may leave out a class that the loss counts, such as a background.
        ours = {f"metrics.{metric.name}": metric.call for metric in metrics if metric.call.ours}
        _check_left_out({"loss": loss, **ours})
        return cls(loss, metrics, main, config.get("output"))

    @property
    def is_default(self) -> bool:
        """Whether it is the classification that all results were made for before others came."""
        return self == CLASSIFICATION

    @property
    def has_cross_entropy(self) -> bool:
        """Whether its loss is the one that the fast paths compute, on whole outputs."""
        return self.loss == CLASSIFICATION.loss

    @property
    def measures_accuracy(self) -> bool:
        return any(metric.is_accuracy for metric in self.metrics)

    @property
    def others(self) -> tuple[Metric, ...]:
        """The metrics that records have beside accuracy."""
        return tuple(metric for metric in self.metrics if not metric.is_accuracy)

    @property
    def main_metric(self) -> Metric:
        return next(metric for metric in self.metrics if metric.name == self.main)

    @property
    def knows_loss(self) -> bool:
        """Whether its loss comes with this package or with torch.

        One of a user's may wait for the host.
        """
        return self.loss.target.startswith("torch.") or self.loss.ours

    @property
    def class_axis(self) -> int | None:
        """The axis of the outputs that has a place for each class; None for a loss without them."""
        if self.loss.target not in _OF_CLASSES:
            return None
        return -1 if self.loss.ours else 1

    def check_targets(self, targets: Tensor, data: str, classes: int | None = None) -> None:
        """Refuse targets that would make a loss or an accuracy a wrong number.

        Raises: ValueError: they are no numbers, none of the classes, or not what a classification
            takes; then the line names the task that suits them.
        """
        whole = not targets.is_floating_point()
        if not whole and self.knows_loss and not bool(targets.isfinite().all()):
            raise ValueError(
                f"task: targets of `{data}` hold NaN or infinite numbers, which "
                f"`{self.loss.target}` counts; leave these examples out, or give your own loss"
            )
        if self.loss.target in _OF_LABELS and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise ValueError(  # with a label of -1 the lowest loss is minus infinity
                f"task: targets of `{data}` are not all 0 to 1; each is 1 for a label, else 0"
            )
        classifies = self.has_cross_entropy and self.main_metric.is_accuracy
        numbers = whole and targets.ndim == 1
        if classifies and numbers and targets.dtype != torch.int64:
            raise ValueError(
                f"task: class numbers of `{data}` are {targets.dtype}; give int64 (`.long()`)"
            )
        if classes is not None and (numbers or (whole and not classifies)):
            self._check_classes(targets, data, classes)
        if numbers or not classifies:
            return
        suited = "tokens, or language_model" if whole else "regression"
        if not whole and targets.ndim == 2 and targets.shape[1] > 1:
            suited += ", or multi_label"
        said = str(targets.dtype).removeprefix("torch.")
        said += f" [{', '.join(map(str, ('N', *targets.shape[1:])))}]"
        raise ValueError(
            f"task: classification takes class numbers, int64 [N], and targets of `{data}` are "
            f"{said}; choose task={suited}"
        )

    def _check_classes(self, targets: Tensor, data: str, classes: int) -> None:
        """Raises: ValueError: class numbers or tokens are none of the classes."""
        if not self.measures_accuracy and self.class_axis is None:
            return
        # Torch leaves out the class -100 of a mean, and an accuracy counts it as wrong.
        counts_all = (m.call.ours and _left_out(m.call) is None for m in self.metrics)
        if not any(counts_all):
            ignored = _left_out(self.loss)
            targets = targets[targets != (-100 if ignored is None else ignored)]
        if not targets.numel():
            return
        lowest, highest = (int(each) for each in targets.long().aminmax())
        if not 0 <= lowest <= highest < classes:
            raise ValueError(
                f"task: targets of `{data}` go from {lowest} to {highest}; its {classes} "
                f"classes are 0 to {classes - 1}"
            )

    def check_smoothing(self, smoothing: float) -> None:
        """Raises: ValueError: smoothed labels, for a loss without classes."""
        if smoothing and not self.has_cross_entropy:
            raise ValueError(
                f"recipe.label_smoothing: got {smoothing}, and task.loss `{self.loss.target}` has "
                "no classes to spread labels over; give 0"
            )

    def check_temperature(self, temperature: float) -> None:
        """Raises: ValueError: it is not above 0, or would divide outputs that are no logits."""
        if not temperature > 0:  # 0 would make every score NaN, and the mask a random one
            raise ValueError(
                f"mask_criterion.temperature: got {temperature:g}; give a number above 0"
            )
        if temperature != 1 and self.loss.target not in _ON_LOGITS:
            raise ValueError(
                f"mask_criterion.temperature: got {temperature:g}, which divides logits, and "
                f"task.loss is `{self.loss.target}`; give 1"
            )

    def identity(self) -> dict[str, Any]:
        return {
            "loss": self.loss.identity(),
            "metrics": {metric.name: metric.identity() for metric in self.metrics},
            "main": self.main,
            "output": self.output,
        }

    def __str__(self) -> str:
        return f"{self.loss.target.rpartition('.')[2]} measured by {self.main}"


def _measure(config: Mapping[str, Any], where: str) -> Call:
    """The call of a loss or a metric: a function of outputs and targets, or a class of such."""
    target = str(config.get("_target_"))
    try:
        function = Call(target).function
        names = Call(target).names
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    supplied = () if inspect.isclass(function) else names[:2]
    if not inspect.isclass(function) and len(names) < 2:
        raise ValueError(f"{where}: `{target}` takes {list(names)}; it needs outputs and targets")
    return Call.of(config, where=where, supplied=supplied)


def _left_out(call: Call) -> int | None:
    """The target that a loss or a metric does not count, where it says one."""
    said = [value for name, value in call.bound().items() if name in _LEFT_OUT]
    return next((value for value in said if type(value) is int), None)


def _check_left_out(calls: Mapping[str, Call]) -> None:
    """Raises: ValueError: a token that the loss leaves out would count in a metric."""
    said = {where: _left_out(call) for where, call in calls.items()}
    said = {where: value for where, value in said.items() if value is not None}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{where} {value}" for where, value in said.items())
        raise ValueError(f"task: targets that do not count differ: {listed}; give all the same")


def measure_of(call: Call) -> Callable[..., Any]:
    """The function of outputs and targets that a loss or a metric is, its arguments given."""
    function = call.function
    if isinstance(function, type):
        made: Any = function(**call.args)
        return made
    if not call.args:
        return function
    return lambda outputs, targets: function(outputs, targets, **call.args)


CLASSIFICATION = TaskKind(
    Call(_CROSS_ENTROPY, Config()),
    (Metric("accuracy", Call(_ACCURACY, Config()), lower_is_better=False),),
    "accuracy",
)
