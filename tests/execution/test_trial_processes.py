"""A user's function that remembers an earlier call is refused, because other seeds call it too."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from fixtures.tiny_cell import tiny_cell
from torch import Tensor, nn

from lt_sweeps.config.errors import CONF
from lt_sweeps.execution.own_code_trial import try_out
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import plan
from lt_sweeps.sparsity.schedules import Target, geometric

HERE = f"{__name__}."
KEPT: dict[Any, Any] = {}
NOISE: list[Tensor] = []


def in_a_global(final: Tensor, noise: Tensor) -> Tensor:
    return final.abs() * KEPT.setdefault(len(noise), noise)


@functools.lru_cache
def of_size(size: int) -> Tensor:
    return NOISE[-1]


def in_a_cache(final: Tensor, noise: Tensor) -> Tensor:
    NOISE.append(noise)
    return final.abs() * of_size(len(noise))


def in_an_attribute(final: Tensor, noise: Tensor) -> Tensor:
    kept = in_an_attribute.__dict__.setdefault("kept", noise)
    return final.abs() * kept


def in_a_default(final: Tensor, noise: Tensor, *, kept: dict[int, Any] = {}) -> Tensor:  # noqa: B006
    return final.abs() * kept.setdefault(len(noise), noise)


def closed() -> Callable[..., Tensor]:
    kept: dict[int, Tensor] = {}

    def in_a_closure(final: Tensor, noise: Tensor) -> Tensor:
        return final.abs() * kept.setdefault(len(noise), noise)

    return in_a_closure


in_a_closure = closed()


class Scores:
    kept: ClassVar[dict[int, Tensor]] = {}

    @classmethod
    def in_a_class(cls, final: Tensor, noise: Tensor) -> Tensor:
        return final.abs() * cls.kept.setdefault(len(noise), noise)


in_a_class = Scores.in_a_class


def in_the_environment(final: Tensor) -> Tensor:
    return final - float(os.environ.setdefault("LT_TEST_MEAN", str(float(final.mean()))))


def counted(final: Tensor) -> Tensor:
    KEPT["calls"] = KEPT.get("calls", 0) + 1
    return final if KEPT["calls"] < 7 else -final


def grown(init: Tensor, noise: Tensor) -> Tensor:
    return init * KEPT.setdefault(init.shape, noise)


def first(init: Tensor) -> Tensor:
    return KEPT.setdefault(init.shape, init)


def by_rows(layer: Layer) -> Tensor:
    rows = KEPT.setdefault("rows", layer.shape[0])
    return (torch.arange(layer.size) * rows // layer.size).view(layer.shape)


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    weight = KEPT.setdefault("weight", torch.bincount(targets, minlength=4) + 1.0)
    return nn.functional.cross_entropy(outputs, targets, weight=weight)


class Scaled(nn.Module):
    """A loss that an instance of a class computes: a training has one for all its replicates."""

    scale: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.scale = outputs.detach().std() if self.scale is None else self.scale
        return nn.functional.cross_entropy(outputs / self.scale, targets, reduction="none")


def centred(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - KEPT.setdefault("outputs", outputs.mean(0))).square().sum(1)


def noisy(image: Tensor) -> Tensor:
    return (image + KEPT.setdefault(image.shape, torch.rand(image.shape))) / 2


class Noisy:
    noise: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:
        self.noise = torch.rand(image.shape) if self.noise is None else self.noise
        return (image + self.noise) / 2


def scaled(grads: dict[str, Tensor]) -> None:
    scale = KEPT.setdefault("scale", max(float(grad.abs().max()) for grad in grads.values()))
    for grad in grads.values():
        grad.div_(scale)


class Steps(torch.optim.SGD):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            size = parameter.grad.abs().mean() + 1e-3
            parameter.grad.div_(KEPT.setdefault(parameter.shape, size))
        super().step()


def drawn_once(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(KEPT.setdefault(name, torch.randn(parameter.shape)))


class Net(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x.flatten(1))))


class Centred(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.is_meta else x - KEPT.setdefault("batch", x.mean(0)))


class DrawnOnce(Net):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        if not self.inner.weight.is_meta:
            weight = KEPT.setdefault("inner", self.inner.weight.detach().clone())
            self.inner.weight.data.copy_(weight)


class Dropped(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * KEPT.setdefault("drop", torch.rand(x.shape[1:])))


def of(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    return {"_target_": HERE + function.__name__, **arguments}


def task(**changes: Any) -> dict[str, Any]:
    return {"task": yaml.safe_load((CONF / "task/classification.yaml").read_text()) | changes}


CRITERIA = [in_a_global, in_a_cache, in_an_attribute, in_a_default, in_a_closure, in_a_class]
REMEMBER = [
    *(
        (f"mask_criterion: `.*{each.__name__}`", {"mask_criterion": of(each)})
        for each in (*CRITERIA, in_the_environment, counted)
    ),
    ("mask_criterion.granularity: `.*by_rows`", {"mask_criterion__granularity": of(by_rows)}),
    ("reset: `.*grown`", {"reset": of(grown)}),
    ("freeze: `.*first`", {"freeze": of(first)}),
    (r"task.loss: weighted\(\)", task(loss=of(weighted))),
    (r"task.loss: Scaled\(\)", task(loss=of(Scaled))),
    (r"task.metrics.own: centred\(\)", task(metrics={"own": of(centred)}, metric=None)),
    ("recipe.augment: `.*noisy`", {"recipe__augment": of(noisy)}),
    ("recipe.augment: `.*Noisy`", {"recipe__augment": of(Noisy)}),
    ("recipe.clip: `.*scaled`", {"recipe__clip": of(scaled)}),
    ("recipe.optimizer: `.*Steps`", {"recipe__optimizer": of(Steps)}),
    (r"model.init: drawn_once\(\)", {"model__init": of(drawn_once)}),
    *((rf"model: {net.__name__}\(\)", {"model": {"net": of(net)}}) for net in (Centred, DrawnOnce)),
    (r"model: Dropped\(\)", {"model": {"net": of(Dropped)}}),
]


@pytest.mark.parametrize(("name", "changes"), REMEMBER)
def test_a_part_that_remembers_an_earlier_call_is_refused_by_name(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    line = rf"^{name} returns other values for the same inputs after it was called with others"
    with pytest.raises(ValueError, match=line):
        try_out(plan([tiny_cell(**changes)]), tmp_path)


def falling(step: int, *, length: int) -> float:
    return max(0.0, 1 - step / KEPT.setdefault("length", length))


def rates(layers: Any, *, levels: int, rate: float) -> tuple[Target, ...]:
    return geometric(layers, levels=levels, hidden=KEPT.setdefault("rate", rate))


@pytest.mark.parametrize(
    ("line", "several"),
    [
        (
            "recipe.decay",
            [{"recipe__decay": of(falling), "recipe__length": n} for n in ("8it", "9it")],
        ),
        ("schedule", [{"schedule": of(rates, levels=n, rate=n / 10)} for n in (2, 3)]),
        (
            "mask_criterion",
            [{"mask_criterion": {"_target_": HERE + "powers", "power": n}} for n in (1, 2)],
        ),
    ],
)
def test_what_one_cell_leaves_for_another_is_refused_though_each_alone_has_passed(
    line: str, several: list[dict[str, Any]], tmp_path: Path
) -> None:
    for changes in several:
        try_out(plan([tiny_cell(**changes)]), tmp_path)
    with pytest.raises(ValueError, match=f"^{line}: .* after it was called with others"):
        try_out(plan([tiny_cell(**changes) for changes in several]), tmp_path)


def powers(final: Tensor, *, power: int) -> Tensor:
    table = KEPT.setdefault(("powers", len(final)), torch.arange(len(final)) ** power)
    return final.abs() * table


@functools.lru_cache
def ramp(size: int) -> Tensor:
    return torch.linspace(0, 1, size)


def cached(final: Tensor) -> Tensor:
    return final.abs() * ramp(len(final))


def logged(final: Tensor) -> Tensor:
    KEPT.setdefault("log", []).append(float(final.mean()))
    return final.abs()


def overwritten(final: Tensor) -> Tensor:
    return final.abs_().neg_()


def drawn(init: Tensor) -> Tensor:
    return init * torch.rand(init.shape)


class Cached(Net):
    def forward(self, x: Tensor) -> Tensor:
        positions = KEPT.setdefault(x.device, torch.linspace(0, 1, 4, device=x.device))
        return super().forward(nn.functional.dropout(x + positions, 0.5, self.training))


@pytest.mark.parametrize(
    "changes",
    [
        *({"mask_criterion": of(each)} for each in (cached, logged, overwritten)),
        {"reset": of(drawn)},
        {"model": {"net": of(Cached)}},
    ],
)
def test_a_cache_a_log_and_draws_from_the_global_generator_pass(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    try_out(plan([tiny_cell(**changes)]), tmp_path)
