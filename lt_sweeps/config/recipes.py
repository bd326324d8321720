"""Recipes: how a network is trained. Durations are `160ep` or `500it` in yaml, steps in code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, cast

from lt_sweeps.config.call import Call
from lt_sweeps.config.durations import Duration, steps
from lt_sweeps.config.identity import identity_of
from lt_sweeps.config.spelling import listed, paired

FAMILY = "recipes"  # the first part of these names in stage keys; it must never change
# Keys that were added after results existed, with the values at which stage keys omit them.
_LATER: dict[str, Any] = {"clip": None}
_TRIED = 20  # number of steps at which a plan tries a learning-rate schedule

Given = Annotated[Mapping[str, Any], "a mapping with `_target_`"]
"""A function or class of torch, or a user-defined one, with its arguments."""


@dataclass(frozen=True)
class Recipe:
    """Optimizer, learning rate, batch size, length and augmentation; all times are in steps."""

    optimizer: str | Call
    lr: float
    batch_size: int
    length: int
    steps_per_epoch: int
    evaluate_every: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    decay: str | Call = "step"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    augment: str | tuple[Call, ...] = "none"
    order: str = "same"
    drop_last: bool = True
    label_smoothing: float = 0.0
    clip: Call | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings that the optimizer would silently ignore."""
        sgd, own = self.optimizer == "sgd", isinstance(self.optimizer, Call)
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        checks = {
            "optimizer": (sgd or own or self.optimizer in ("adam", "adamw"), "sgd, adam or adamw"),
            "lr": (self.lr > 0, "a number above 0"),
            "gamma": (0 < self.gamma <= 1, "a number in (0, 1]"),
            "momentum": (0 <= self.momentum < 1, "a number in [0, 1)"),
            "nesterov": (bool(self.momentum) or not self.nesterov, "a momentum with it"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "betas": (betas_fit, "two numbers in [0, 1)"),
            "eps": (self.eps > 0, "a number above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "a number in [0, 1)"),
        }
        for key, (allowed, text) in checks.items():
            if not allowed:
                raise ValueError(f"recipe.{key}: got {getattr(self, key)}; give {text}")
        if own:
            self._check_own_optimizer()
        elif not sgd and (self.momentum or self.nesterov):
            raise ValueError(
                f"recipe: optimizer={self.optimizer} has betas, but no momentum or nesterov"
            )
        if sgd and (self.betas != (0.9, 0.999) or self.eps != 1e-8):
            raise ValueError("recipe: optimizer=sgd has momentum and nesterov, but no betas or eps")

    def _check_own_optimizer(self) -> None:
        assert isinstance(self.optimizer, Call)
        keys = ("momentum", "nesterov", "weight_decay", "betas", "eps")
        defaults = {field.name: field.default for field in fields(Recipe)}
        if given := [key for key in keys if getattr(self, key) != defaults[key]]:
            raise ValueError(
                f"recipe.{given[0]}: got {getattr(self, given[0])}, but "
                f"optimizer={self.optimizer.target} has its own arguments; give it there: "
                f"recipe.optimizer.{given[0]}=..."
            )

    @property
    def unreached(self) -> tuple[int, ...]:
        """The milestones at or after the last step, which have no effect."""
        return tuple(step for step in self.milestones if step >= self.length)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the update from `step` to `step + 1`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        after, length = step - self.warmup, max(1, self.length - self.warmup)
        if isinstance(self.decay, Call):
            return self.lr * _factor(self.decay, after, length, self.steps_per_epoch)
        if self.decay == "cosine":
            done = after / length
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * self.gamma ** sum(step >= milestone for milestone in self.milestones)

    def identity(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        counted = {k: v for k, v in values.items() if k not in _LATER or v != _LATER[k]}
        return {key: _as_json(value) for key, value in counted.items()} | identity_of(type(self))

    def batches(self) -> dict[str, Any]:
        """Return the settings that determine the batches; a score uses no others of a recipe."""
        keys = ("batch_size", "steps_per_epoch", "augment", "order")
        return {key: _as_json(getattr(self, key)) for key in keys}


def recipe(
    train_size: int,
    *,
    optimizer: Literal["sgd", "adam", "adamw"] | Given,
    lr: float,
    batch_size: int,
    length: Duration,
    milestones: Sequence[Duration] = (),
    gamma: float = 0.1,
    warmup: Duration = "0it",
    decay: Literal[
        "step", "cosine", "linear", "polynomial", "trapezoidal", "triangular", "one_cycle"
    ]
    | Given = "step",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    label_smoothing: float = 0.0,
    augment: Literal["none", "crop_flip", "resized_crop_flip"] | Given | Sequence[Given] = "none",
    order: Literal["same", "fresh"] = "same",
    drop_last: bool = True,
    evaluate_every: Duration = "1ep",
    clip: Mapping[str, Any] | None = None,
) -> Recipe:
    """Build the recipe for a training set of `train_size` images.

    Args:
        milestones: when the learning rate is multiplied by `gamma`.
        warmup: how long the learning rate rises linearly to `lr`.
        optimizer: sgd, adam, adamw, or the `_target_` of a class of `torch.optim`, or of a class
            with the same interface, with its arguments except `params` and `lr`.
        decay: `step` follows the milestones, `cosine` falls to 0 at the end. The other schedules,
            and the functions that a `_target_` may name, are described in
            `lt_sweeps.config.decays`.
        clip: `{norm: 1.0}` or `{value: 0.5}` of each replicate's gradient, or the `_target_` of a
            function that changes gradients in place; it receives them by parameter name.
        label_smoothing: the fraction of a training label that is spread over all classes. The
            losses of evaluations are computed without it.
        augment: `crop_flip` is a random crop after 4 pixels of zero padding, and a random flip;
            `resized_crop_flip` a crop of 8 to 100 % of the area and an aspect of 3/4 to 4/3,
            resized bilinearly, and a random flip. A `_target_`, or a list of them, is called on
            each image separately: a transform of torchvision's v2, or a function of `image`.
        order: `same` draws the same batches at every level, `fresh` new batches at each level. A
            training that continues from trained weights (fine-tuning, another round) draws new
            batches.
        drop_last: leave out the last batch of an epoch if it is not full.
        evaluate_every: the time between two evaluations on the validation set.
    """
    if not 0 < batch_size <= train_size:
        raise ValueError(f"recipe.batch_size: got {batch_size}; give 1 to {train_size} images")
    if decay != "step" and milestones:
        name = decay if isinstance(decay, str) else decay.get("_target_")
        raise ValueError(f"recipe: decay={name} has no milestones; drop one of the two")
    per_epoch = train_size // batch_size if drop_last else math.ceil(train_size / batch_size)
    durations = {"length": length, "evaluate_every": evaluate_every, "warmup": warmup}
    times = {key: steps(time, per_epoch, where=f"recipe.{key}") for key, time in durations.items()}
    for key, value in times.items():
        if value < (key != "warmup"):
            raise ValueError(f"recipe.{key}: got {value} steps; give at least one")
        if value > times["length"]:
            raise ValueError(f"recipe.{key}: got {value} steps; the length is {times['length']}")
    return Recipe(
        optimizer=_optimizer(optimizer),
        lr=float(lr),
        batch_size=batch_size,
        steps_per_epoch=per_epoch,
        milestones=tuple(steps(time, per_epoch, where="recipe.milestones") for time in milestones),
        gamma=float(gamma),
        decay=_decay(decay, times["length"] - times["warmup"], per_epoch),
        momentum=float(momentum),
        nesterov=nesterov,
        weight_decay=float(weight_decay),
        betas=tuple(float(beta) for beta in betas),
        eps=float(eps),
        augment=_augmentations(augment),
        order=order,
        drop_last=drop_last,
        label_smoothing=float(label_smoothing),
        clip=_clip(clip),
        **times,
    )


def _optimizer(given: str | Mapping[str, Any]) -> str | Call:
    if isinstance(given, str):
        return given
    call = Call.of(given, where="recipe.optimizer", supplied=("params", "lr"))
    if missing := {"params", "lr"} - set(call.names):
        raise ValueError(
            f"recipe.optimizer: `{call.target}` takes no {listed(sorted(missing))}; an "
            "optimizer takes `params` and `lr`, as those of torch.optim do"
        )
    return call


def _decay(given: str | Mapping[str, Any], length: int, per_epoch: int) -> str | Call:
    """Return the schedule that a recipe names, after calling it at some steps to check it."""
    if isinstance(given, str) and given in ("step", "cosine"):
        return given
    config = {"_target_": f"lt_sweeps.config.decays.{given}"} if isinstance(given, str) else given
    supplied = ("step", "length", "steps_per_epoch")
    call, length = Call.of(config, where="recipe.decay", supplied=supplied), max(1, length)
    tried = [*range(0, length, max(1, length // _TRIED)), length - 1]
    first = {step: _factor(call, step, length, per_epoch) for step in tried}
    for step, factor in reversed(first.items()):
        if (again := _factor(call, step, length, per_epoch)) != factor:
            raise ValueError(
                f"recipe.decay: {call} gives {factor!r} at step {step} of {length}, and {again!r} "
                "when called again; a resumed training would have other learning rates, so compute "
                "it from the step alone"
            )
    return call


def _factor(call: Call, step: int, length: int, per_epoch: int) -> float:
    """Return the factor by which a schedule multiplies the learning rate.

    With a negative factor the training would silently climb the loss.

    Raises: ValueError: the factor is not a number of 0 or more.
    """
    factor = call(step=step, length=length, steps_per_epoch=per_epoch)
    if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        raise ValueError(
            f"recipe.decay: {call} gives {factor!r} at step {step} of {length}; give a factor of 0 "
            "or more"
        )
    return factor


def _augmentations(given: str | Mapping[str, Any] | Sequence[Any]) -> str | tuple[Call, ...]:
    if isinstance(given, str):
        return given
    configs = [given] if isinstance(given, Mapping) else given
    if not configs:
        raise ValueError("recipe.augment: got an empty list; give `none`, or at least one")
    return tuple(Call.of(c, where="recipe.augment", supplied=("image",)) for c in configs)


def _clip(given: Mapping[str, Any] | None) -> Call | None:
    if given is None:
        return None
    if "_target_" in given:
        return Call.of(given, where="recipe.clip", supplied=("grads",))
    limits = list(given.values())
    positive = limits and isinstance(limits[0], int | float) and 0 < limits[0] < math.inf
    if len(given) != 1 or not set(given) <= {"norm", "value"} or not positive:
        raise ValueError(
            f"recipe.clip: got {paired(given)}; give {{norm: 1.0}} or {{value: 0.5}}, a number "
            "above 0, a `_target_`, or null"
        )
    (kind,) = given
    target = f"lt_sweeps.training.gradient_clipping.{kind}"
    return Call.of(
        {"_target_": target, "limit": float(limits[0])}, where="recipe.clip", supplied=("grads",)
    )


def _name(value: Any) -> str:
    """Return a name for stage keys of a default that is not JSON, in a function from elsewhere.

    Raises: ValueError: its text contains a memory address, which differs in the next process.
    """
    name = getattr(value, "__qualname__", None) or str(value)
    if re.search(r" at 0x[0-9a-f]+", name):
        raise ValueError(
            f"recipe: the default {name} of an argument cannot be part of a stage key; give the "
            "argument in the recipe, or wrap the function in one without it"
        )
    return name


def _as_json(value: Any) -> Any:
    """Convert a value for a stage key: a call becomes its function and arguments."""
    if isinstance(value, Call):  # defaults of functions from elsewhere may not be JSON
        return json.loads(json.dumps(value.identity(), default=_name))
    if isinstance(value, tuple):
        return [_as_json(inner) for inner in cast("tuple[Any, ...]", value)]
    return value
