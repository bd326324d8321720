"""`TaskKind`: what a network is trained for, as a loss and metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.spelling import listed
from lt_sweeps.config.yaml_types import check_keys

_ACCURACY = "lt_sweeps.training.metrics.accuracy"
_R2 = "lt_sweeps.training.metrics.r2"
_CROSS_ENTROPY = "torch.nn.functional.cross_entropy"
_TOKEN_CROSS_ENTROPY = "lt_sweeps.training.losses.token_cross_entropy"
_BINARY_CROSS_ENTROPY = "torch.nn.functional.binary_cross_entropy_with_logits"

# Losses that take logits as outputs; the temperature of a criterion may divide logits.
_ON_LOGITS = (_CROSS_ENTROPY, _BINARY_CROSS_ENTROPY, _TOKEN_CROSS_ENTROPY)
# Losses whose targets are class numbers.
_OF_CLASSES = (
    _CROSS_ENTROPY,
    _TOKEN_CROSS_ENTROPY,
    "torch.nn.CrossEntropyLoss",
    "torch.nn.functional.nll_loss",
    "torch.nn.NLLLoss",
)
# Losses whose targets are 0, 1 or a probability for each of several labels.
_OF_LABELS = (
    _BINARY_CROSS_ENTROPY,
    "torch.nn.BCEWithLogitsLoss",
    "torch.nn.functional.multilabel_soft_margin_loss",
    "torch.nn.MultiLabelSoftMarginLoss",
)
_IGNORED = ("ignore", "ignore_index")  # the arguments that name a target to ignore
_TORCH_IGNORES = -100  # torch's default of `ignore_index`

# The keys of a task's yaml, with the types of their values.
_KEYS: Mapping[str, Any] = {
    "loss": Mapping[str, Any] | None,
    "metrics": Annotated[Mapping[str, Mapping[str, Any] | None] | None, "`NAME: {_target_: ...}`"],
    "metric": str | None,
    "output": Annotated[str | int | None, "the name or number of an output"],
}


@dataclass(frozen=True)
class Metric:
    """A function of outputs and targets, and the name of its values in records."""

    name: str
    call: Call
    lower_is_better: bool

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Metric:
        """Create the metric of `task.metrics.NAME`.

        Raises: ValueError: the name is taken or not an identifier, or the yaml names no function
            of outputs and targets.
        """
        where = f"task.metrics.{name}"
        better = config.get("better")
        if better not in (None, "lower", "higher"):
            raise ValueError(f"{where}.better: got {better!r}; give lower or higher")
        call = _checked_call({k: v for k, v in config.items() if k != "better"}, where)
        marked_lower = bool(getattr(call.function, "lower_is_better", False))
        metric = cls(name, call, marked_lower if better is None else better == "lower")
        taken = name in ("loss", "accuracy") and not metric.is_accuracy
        if taken or not name.isidentifier():
            raise ValueError(
                f"task.metrics: `{name}` cannot name `{call.target}`; give an identifier other "
                "than loss and accuracy, which records use already"
            )
        return metric

    @property
    def is_accuracy(self) -> bool:
        """Whether this metric is the accuracy that every record of a classification has."""
        return self.name == "accuracy" and self.call.target == _ACCURACY

    @property
    def takes_whole_split(self) -> bool:
        """Whether the function is marked to be called once with a whole split, not per batch."""
        return bool(getattr(self.call.function, "whole_split", False))

    def identity(self) -> dict[str, Any]:
        return {**self.call.identity(), "lower_is_better": self.lower_is_better}


@dataclass(frozen=True)
class TaskKind:
    """A loss, the metrics, the name of the main metric, and the output of a model that counts."""

    loss: Call
    metrics: tuple[Metric, ...]
    main: str
    output: str | int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> TaskKind:
        """Create the task that a yaml describes; a config without a task is a classification.

        Raises:
            ValueError: a key is unknown, the loss or all metrics are missing, the main metric is
                not among them, a function cannot be called, the loss sums over a batch, or the
                loss and a metric ignore different targets.
        """
        if config is None:
            return CLASSIFICATION
        check_keys(config, _KEYS, where="task")
        if not config.get("loss"):
            raise ValueError("task.loss: not given; give `loss: {_target_: your.function, ...}`")
        configs = config.get("metrics")
        if not configs:
            raise ValueError(f"task.metrics: got {configs!r}; give `NAME: {{_target_: ...}}`")
        metrics = tuple(Metric.of(name, value) for name, value in configs.items() if value)
        names = [metric.name for metric in metrics]
        main = config.get("metric") or next(iter(names), None)
        if main not in names:
            raise ValueError(f"task.metric: got {main!r}; give one of {listed(names)}")
        loss = _checked_call(config["loss"], "task.loss")
        if loss.args.get("reduction") == "sum":
            raise ValueError(
                "task.loss.reduction: got sum, which would make a loss depend on the size of its "
                "batches; give mean, or none"
            )
        # A user-defined metric may ignore a class that the loss counts, such as a background.
        ours = {f"metrics.{metric.name}": metric.call for metric in metrics if metric.call.ours}
        _check_same_ignored({"loss": loss, **ours})
        return cls(loss, metrics, main, config.get("output"))

    @property
    def is_default(self) -> bool:
        """Whether this is the classification of a config without a task."""
        return self == CLASSIFICATION

    @property
    def has_cross_entropy(self) -> bool:
        """Whether the loss is cross-entropy on whole outputs, which has its own fast paths."""
        return self.loss == CLASSIFICATION.loss

    @property
    def measures_accuracy(self) -> bool:
        return any(metric.is_accuracy for metric in self.metrics)

    @property
    def others(self) -> tuple[Metric, ...]:
        """The metrics in records other than accuracy."""
        return tuple(metric for metric in self.metrics if not metric.is_accuracy)

    @property
    def main_metric(self) -> Metric:
        return next(metric for metric in self.metrics if metric.name == self.main)

    @property
    def knows_loss(self) -> bool:
        """Whether the loss is ours or torch's. A user-defined loss may wait for the host."""
        return self.loss.target.startswith("torch.") or self.loss.ours

    @property
    def class_axis(self) -> int | None:
        """The axis of the outputs that indexes the classes; None for a loss without classes."""
        if self.loss.target not in _OF_CLASSES:
            return None
        return -1 if self.loss.ours else 1

    def check_targets(self, targets: Tensor, data: str, classes: int | None = None) -> None:
        """Refuse targets for which a loss or an accuracy would be a wrong number.

        Args:
            targets: [N, ...], of a split or of some of its examples.
            data: the name of the data set in an error.
            classes: the number of classes of the data set; None if unknown.

        Raises: ValueError: the targets are NaN or infinite, labels outside 0 ... 1, outside the
            classes, or not class numbers (int64) in a classification; if another task suits the
            targets, the message names it.
        """
        integers = not targets.is_floating_point()
        class_numbers = integers and targets.ndim == 1
        classifies = self.has_cross_entropy and self.main_metric.is_accuracy
        if not integers and self.knows_loss and not bool(targets.isfinite().all()):
            raise ValueError(
                f"task: targets of `{data}` hold NaN or infinite numbers, which "
                f"`{self.loss.target}` counts; leave these examples out, or give your own loss"
            )
        if self.loss.target in _OF_LABELS and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise ValueError(  # with a label of -1 the lowest loss is minus infinity
                f"task: targets of `{data}` are not all 0 to 1; each is 1 for a label, else 0"
            )
        if classifies and class_numbers and targets.dtype != torch.int64:
            raise ValueError(
                f"task: class numbers of `{data}` are {targets.dtype}; give int64 (`.long()`)"
            )
        has_classes = self.measures_accuracy or self.class_axis is not None
        if classes is not None and has_classes and (class_numbers or (integers and not classifies)):
            _check_classes(self._counted(targets), data, classes)
        if classifies and not class_numbers:
            raise ValueError(
                f"task: classification takes class numbers, int64 [N], and targets of `{data}` are "
                f"{_form(targets)}; {_advice(targets)}"
            )

    def check_variance(self, targets: Tensor, data: str) -> None:
        """Refuse all targets of a split if r2 would divide by their variance, and it is 0.

        Raises: ValueError: a number is the same in all targets, and r2 is a metric.
        """
        for metric in self.metrics:
            if metric.call.target == _R2 and bool((targets == targets[0]).all(0).any()):
                where = f"task.metrics.{metric.name}"
                raise ValueError(
                    f"{where}: all targets of {data} are equal, so there is no variance to "
                    f"explain; leave this metric out with {where}=null, or give other targets"
                )

    def _counted(self, targets: Tensor) -> Tensor:
        """The targets, without those that neither the loss nor any of our metrics counts."""
        # Torch leaves the class -100 out of a mean, but our accuracy counts it as wrong.
        if any(m.call.ours and _ignored_target(m.call) is None for m in self.metrics):
            return targets
        ignored = _ignored_target(self.loss)
        return targets[targets != (_TORCH_IGNORES if ignored is None else ignored)]

    def check_smoothing(self, smoothing: float) -> None:
        """Raises: ValueError: labels are smoothed, and the loss is not cross-entropy."""
        if smoothing and not self.has_cross_entropy:
            raise ValueError(
                f"recipe.label_smoothing: got {smoothing}, and task.loss `{self.loss.target}` has "
                "no classes to spread labels over; give 0"
            )

    def check_temperature(self, temperature: float) -> None:
        """Raises: ValueError: not above 0, or other than 1 for outputs that are not logits."""
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


def _checked_call(config: Mapping[str, Any], where: str) -> Call:
    """The call of a loss or a metric: a function of outputs and targets, or a class.

    Instances of a class are called with outputs and targets.

    Raises: ValueError: the function cannot be imported, or does not accept these arguments.
    """
    target = str(config.get("_target_"))
    try:
        function = Call(target).function
        names = Call(target).names
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if inspect.isclass(function):
        return Call.of(config, where=where)
    if len(names) < 2:
        raise ValueError(f"{where}: `{target}` takes {listed(names)}; it needs outputs and targets")
    return Call.of(config, where=where, supplied=names[:2])


def _ignored_target(call: Call) -> int | None:
    """The target that a loss or a metric is configured to ignore; None if it counts all."""
    values = (value for name, value in call.bound().items() if name in _IGNORED)
    return next((value for value in values if type(value) is int), None)


def _check_same_ignored(calls: Mapping[str, Call]) -> None:
    """Raises: ValueError: the loss and the metrics ignore different targets."""
    ignored = {where: _ignored_target(call) for where, call in calls.items()}
    ignored = {where: target for where, target in ignored.items() if target is not None}
    if len(set(ignored.values())) > 1:
        said = listed(f"{where} {target}" for where, target in ignored.items())
        raise ValueError(f"task: different targets are ignored: {said}; give all the same one")


def _check_classes(targets: Tensor, data: str, classes: int) -> None:
    """Raises: ValueError: a class number or a token is outside 0 ... classes - 1."""
    if not targets.numel():
        return
    lowest, highest = (int(end) for end in targets.long().aminmax())
    if not 0 <= lowest <= highest < classes:
        raise ValueError(
            f"task: targets of `{data}` go from {lowest} to {highest}; its {classes} "
            f"classes are 0 to {classes - 1}"
        )


def _advice(targets: Tensor) -> str:
    """What to do with targets that are not class numbers."""
    whole, several = not targets.is_floating_point(), targets.ndim == 2 and targets.shape[1] > 1
    if several and bool(((targets == 0) | (targets == 1)).all()):
        if bool((targets.sum(1) == 1).all()):
            return (
                "if they are one-hot, give `targets.argmax(1)`; otherwise choose task=multi_label"
            )
        return "choose task=multi_label, with float32 targets"
    if whole:
        column = targets.ndim == 2 and not several
        return "give `targets[:, 0]`" if column else "choose task=tokens, or language_model"
    return f"choose task=regression{', or multi_label' if several else ''}"


def _form(targets: Tensor) -> str:
    """The type and shape of targets in words: `float32 [N, 3]`."""
    shape = ", ".join(map(str, ("N", *targets.shape[1:])))
    return f"{str(targets.dtype).removeprefix('torch.')} [{shape}]"


def measure_of(call: Call) -> Callable[..., Any]:
    """Return a loss or a metric as a function of outputs and targets alone."""
    function = call.function
    if isinstance(function, type):
        instance: Any = function(**call.args)
        return instance
    if not call.args:
        return function
    return lambda outputs, targets: function(outputs, targets, **call.args)


CLASSIFICATION = TaskKind(
    Call(_CROSS_ENTROPY, Config()),
    (Metric("accuracy", Call(_ACCURACY, Config()), lower_is_better=False),),
    "accuracy",
)
