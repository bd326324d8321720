"""Recipes: how a network is trained. Durations are `160ep` or `500it` in yaml, steps in code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lt_sweeps.config.call import identity_of
from lt_sweeps.config.durations import Duration, steps

FAMILY = "recipes"  # the first part of these names in stage keys, for ever


@dataclass(frozen=True)
class Recipe:
    """Optimizer, learning rate at a step, batch size, length and augmentation, all in steps."""

    optimizer: str
    lr: float
    batch_size: int
    length: int
    steps_per_epoch: int
    evaluate_every: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    decay: str = "step"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    augment: str = "none"
    order: str = "same"
    drop_last: bool = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what the optimizer would ignore: a setting never silently does nothing."""
        sgd = self.optimizer == "sgd"
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        checks = {
            "optimizer": (sgd or self.optimizer in ("adam", "adamw"), "sgd, adam or adamw"),
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
        if not sgd and (self.momentum or self.nesterov):
            raise ValueError(
                f"recipe: optimizer={self.optimizer} has betas, but no momentum or nesterov"
            )
        if sgd and (self.betas != (0.9, 0.999) or self.eps != 1e-8):
            raise ValueError("recipe: optimizer=sgd has momentum and nesterov, but no betas or eps")

    def lr_at(self, step: int) -> float:
        """The learning rate of the update that leads from `step` to `step + 1`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "cosine":
            done = (step - self.warmup) / max(1, self.length - self.warmup)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * self.gamma ** sum(step >= milestone for milestone in self.milestones)

    def identity(self) -> dict[str, Any]:
        return {**asdict(self), **identity_of(type(self))}

    def batches(self) -> dict[str, Any]:
        """What its batches depend on: all that a score takes from a recipe."""
        keys = ("batch_size", "steps_per_epoch", "augment", "order")
        return {key: getattr(self, key) for key in keys}


def recipe(
    train_size: int,
    *,
    optimizer: Literal["sgd", "adam", "adamw"],
    lr: float,
    batch_size: int,
    length: Duration,
    milestones: Sequence[Duration] = (),
    gamma: float = 0.1,
    warmup: Duration = "0it",
    decay: Literal["step", "cosine"] = "step",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    label_smoothing: float = 0.0,
    augment: Literal["none", "crop_flip", "resized_crop_flip"] = "none",
    order: Literal["same", "fresh"] = "same",
    drop_last: bool = True,
    evaluate_every: Duration = "1ep",
) -> Recipe:
    """The recipe on a training set of `train_size` images.

    Args:
        milestones: when the learning rate is multiplied by `gamma`.
        warmup: how long the learning rate rises linearly to `lr`.
        decay: `step` follows the milestones, `cosine` falls to 0 at the end.
        label_smoothing: the part of a training label that is spread over all classes. Losses of
            evaluations are computed without it.
        augment: `crop_flip` is a random crop after 4 pixels of zero padding, and a random flip;
            `resized_crop_flip` a crop of 8 to 100 % of the area and an aspect of 3/4 to 4/3,
            resized bilinearly, and a random flip.
        order: `same` draws the same batches at every level, `fresh` new ones at each level. A
            training that goes on with trained weights (fine-tuning, another round) draws new ones.
        drop_last: leave out the last batch of an epoch if it is not full.
        evaluate_every: the time between two evaluations on the validation set.
    """
    if not 0 < batch_size <= train_size:
        raise ValueError(f"recipe.batch_size: got {batch_size}; give 1 to {train_size} images")
    if decay == "cosine" and milestones:
        raise ValueError("recipe: decay=cosine has no milestones; drop one of the two")
    per_epoch = train_size // batch_size if drop_last else math.ceil(train_size / batch_size)
    durations = {"length": length, "evaluate_every": evaluate_every, "warmup": warmup}
    times = {key: steps(time, per_epoch, where=f"recipe.{key}") for key, time in durations.items()}
    for key, value in times.items():
        if value < (key != "warmup"):
            raise ValueError(f"recipe.{key}: got {value} steps; give at least one")
        if value > times["length"]:
            raise ValueError(f"recipe.{key}: got {value} steps; the length is {times['length']}")
    return Recipe(
        optimizer=optimizer,
        lr=float(lr),
        batch_size=batch_size,
        steps_per_epoch=per_epoch,
        milestones=tuple(steps(time, per_epoch, where="recipe.milestones") for time in milestones),
        gamma=float(gamma),
        decay=decay,
        momentum=float(momentum),
        nesterov=nesterov,
        weight_decay=float(weight_decay),
        betas=tuple(float(beta) for beta in betas),
        eps=float(eps),
        augment=augment,
        order=order,
        drop_last=drop_last,
        label_smoothing=float(label_smoothing),
        **times,
    )
