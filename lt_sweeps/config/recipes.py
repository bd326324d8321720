"""Recipes: how a network is trained. Times are `160ep` or `500it` here, optimizer steps in code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lt_sweeps.config.durations import steps

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
        sgd, betas = self.optimizer == "sgd", self.betas
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise ValueError(f"recipe: optimizer={self.optimizer!r}; give sgd, adam or adamw")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas) or self.eps <= 0:
            raise ValueError(
                f"recipe: betas={list(betas)}, eps={self.eps}; give two numbers in [0, 1), and an "
                "eps above 0"
            )
        if not sgd and (self.momentum or self.nesterov):
            raise ValueError(f"recipe: {self.optimizer} takes no momentum or nesterov; use betas")
        if sgd and (betas != (0.9, 0.999) or self.eps != 1e-8):
            raise ValueError("recipe: sgd takes no betas or eps; use momentum and nesterov")
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise ValueError(
                f"recipe: momentum={self.momentum}, nesterov={self.nesterov}; momentum lies in "
                "[0, 1), and nesterov needs it"
            )
        if self.weight_decay < 0:
            raise ValueError(f"recipe: weight_decay={self.weight_decay}; give 0 or more")

    def lr_at(self, step: int) -> float:
        """The learning rate of the update that leads from `step` to `step + 1`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "cosine":
            done = (step - self.warmup) / max(1, self.length - self.warmup)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * self.gamma ** sum(step >= milestone for milestone in self.milestones)

    def identity(self) -> dict[str, Any]:
        given = asdict(self)
        if not self.label_smoothing:  # it came later, and is left out so that nothing is renamed
            del given["label_smoothing"]
        return given


def recipe(
    train_size: int,
    *,
    optimizer: Literal["sgd", "adam", "adamw"],
    lr: float,
    batch_size: int,
    length: str,
    milestones: Sequence[str] = (),
    gamma: float = 0.1,
    warmup: str = "0it",
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
    evaluate_every: str = "1ep",
) -> Recipe:
    """The recipe on a training set of `train_size` images.

    Args:
        milestones: times at which the learning rate is multiplied by `gamma`.
        warmup: the learning rate rises linearly to `lr` over this time.
        decay: `step` follows the milestones, `cosine` falls to 0 at the end.
        label_smoothing: the part of a training label that is spread over all classes; losses of
            evaluations know nothing of it.
        augment: `crop_flip` is a random crop after 4 pixels of zero padding, and a random flip;
            `resized_crop_flip` a crop of 8 to 100 % of the area and an aspect of 3/4 to 4/3,
            resized bilinearly, and a random flip.
        order: `same` draws the same batches at every level, `fresh` each level its own.
        drop_last: leave out the last batch of an epoch if it is not full.
        evaluate_every: time between evaluations on the validation set.
    """
    if not 0 < batch_size <= train_size:
        raise ValueError(
            f"recipe: batch_size={batch_size}; the training set has {train_size} images"
        )
    if not lr > 0:
        raise ValueError(f"recipe: lr={lr}; give a positive learning rate")
    if not 0 < gamma <= 1:
        raise ValueError(f"recipe: gamma={gamma}; it lies in (0, 1]")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"recipe: label_smoothing={label_smoothing}; it lies in [0, 1)")
    if decay == "cosine" and milestones:
        raise ValueError("recipe: a cosine decay has no milestones; drop one of the two")
    per_epoch = train_size // batch_size if drop_last else math.ceil(train_size / batch_size)

    def at(name: str, time: str) -> int:
        return steps(time, per_epoch, where=f"recipe.{name}")

    times = {"length": at("length", length), "evaluate_every": at("evaluate_every", evaluate_every)}
    for name, value in times.items():
        if value < 1:
            raise ValueError(f"recipe: {name}={value} steps; give at least one")
    for name, value in {
        "warmup": at("warmup", warmup),
        "evaluate_every": times["evaluate_every"],
    }.items():
        if value > times["length"]:
            raise ValueError(f"recipe: {name} ({value} steps) is longer than the {times['length']}")
    return Recipe(
        optimizer=optimizer,
        lr=float(lr),
        batch_size=batch_size,
        steps_per_epoch=per_epoch,
        milestones=tuple(at("milestones", time) for time in milestones),
        gamma=float(gamma),
        warmup=at("warmup", warmup),
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
