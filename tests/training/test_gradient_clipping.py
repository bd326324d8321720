"""Clipping equals torch's own, for each replicate and under masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from fixtures.captured_step import HostTraffic
from fixtures.tiny_cell import compute_cells
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.planning import plan
from lt_sweeps.training import gradient_clipping
from lt_sweeps.training.fixed_mask import FixedMask
from lt_sweeps.training.learned_mask import LearnedMask
from lt_sweeps.training.stack import Stack


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_it_is_that_of_torch_and_waits_for_no_device(limit: float) -> None:
    draws = torch.Generator().manual_seed(0)
    shapes = {"weight": (4, 3), "bias": (4,)}
    grads = {n: torch.randn(s, generator=draws, dtype=torch.float64) for n, s in shapes.items()}
    for kind, theirs in (
        ("norm", torch.nn.utils.clip_grad_norm_),
        ("value", torch.nn.utils.clip_grad_value_),
    ):
        parameters = [torch.zeros_like(grad) for grad in grads.values()]
        for parameter, grad in zip(parameters, grads.values(), strict=True):
            parameter.grad = grad.clone()
        theirs(parameters, limit)
        ours = {name: grad.clone() for name, grad in grads.items()}
        with HostTraffic() as traffic:
            getattr(gradient_clipping, kind)(ours, limit=limit)
        assert not traffic.waits
        for parameter, grad in zip(parameters, ours.values(), strict=True):
            assert parameter.grad is not None and torch.equal(parameter.grad, grad)


class _Counted(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_more_tensors_are_clipped_by_as_many_operations(kind: str) -> None:
    numbers = []
    for tensors in (2, 30):
        grads = {str(n): torch.ones(3) for n in range(tensors)}
        with _Counted() as counted:
            getattr(gradient_clipping, kind)(grads, limit=0.5)
        numbers.append(counted.number)
    assert numbers[0] == numbers[1] > 0


@pytest.mark.parametrize("method", ["imp", "continuous_sparsification"])
def test_a_stack_clips_each_replicate_as_it_is_clipped_alone(
    cell: Callable[..., Cell], tmp_path: Path, method: str
) -> None:
    keys = {"recipe__clip": {"norm": 0.1}, "recipe__length": "2ep", "schedule__levels": 1}
    target = {"_target_": f"lt_sweeps.plan.methods.{method}"}
    cells = [cell(method=target, seed=seed, **keys) for seed in (0, 1)]

    def trained(name: str, *, alone: bool) -> dict[str, bytes]:
        compute_cells(*cells, root=tmp_path / name, alone=alone)
        tickets = sorted((tmp_path / name / "tickets").glob("*/*.safetensors"))
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in tickets}

    stacked = trained("stacked", alone=False)
    assert stacked and stacked == trained("alone", alone=True)


def test_a_pruned_weight_counts_for_nothing_in_the_norm(cell: Callable[..., Cell]) -> None:
    """The norm of a step of SGD without momentum is at most the rate times the limit."""
    own = cell(recipe__optimizer="sgd", recipe__lr=0.5, recipe__clip={"norm": 2**-6})
    (unit,) = (unit for unit in plan([own]).units if unit.stage.level == 0)
    network = unit.stage.network
    stack = Stack(network.module("cpu"), 2, backend="loop")
    masking = FixedMask(stack, [unit, unit])
    masking.mask[1, ::2] = 0
    stack.weights.mul_(masking.mask)
    masking.ready()
    before = stack.weights.clone()
    draws = torch.Generator().manual_seed(0)
    for grad in stack.views(stack.grads).values():
        grad.copy_(torch.randn(grad.shape, generator=draws))
    masking.step(0.5)
    moved = (stack.weights - before).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((2,), 0.5 * 2**-6), rtol=1e-4, atol=0)
    assert torch.equal(stack.weights[1, ::2], before[1, ::2])


def test_weights_that_are_not_trained_count_for_nothing_in_the_norm(
    cell: Callable[..., Cell],
) -> None:
    """A learned supermask trains logits alone; a step of plain SGD moves them by rate x limit."""
    method = {"_target_": "lt_sweeps.plan.methods.learned_supermask"}
    recipe = {"recipe__optimizer": "sgd", "recipe__lr": 0.5, "recipe__clip": {"norm": 2**-10}}
    (unit,) = plan([cell(method=method, **recipe)]).units
    stack = Stack(unit.stage.network.module("cpu"), 1, backend="loop")
    masking = LearnedMask(stack, [unit])
    masking.raw.fill_(1.0)
    masking.ready()
    masking.compute()
    stack.grads.fill_(1.0)
    masking.step(0.5)
    assert float(masking.logits.norm()) == pytest.approx(0.5 * 2**-10, rel=1e-4)
    assert unit.stage.fields()["clipped"] == 2, "not a result of the version that counted them"


def by_its_calls(grads: Mapping[str, Tensor], *, seen: list[int] = []) -> None:  # noqa: B006
    """Leaves the first three gradients unchanged, as in a warm-up."""
    seen.append(1)
    for grad in grads.values():
        grad.mul_(0.5 if len(seen) > 3 else 1.0)


def by_the_largest(grads: Mapping[str, Tensor], *, seen: list[float] = [0.0]) -> None:  # noqa: B006
    seen.append(max(seen[-1], *(float(grad.abs().max()) for grad in grads.values())))
    for grad in grads.values():
        grad.clamp_(-seen[-1] / 2, seen[-1] / 2)


def by_chance(grads: Mapping[str, Tensor]) -> None:
    for grad in grads.values():
        grad.mul_(torch.rand(()))


def by_a_name_that_is_not_there(grads: Mapping[str, Tensor]) -> None:
    grads["head.weight"].mul_(0.5)


def into_new_tensors(grads: dict[str, Tensor]) -> None:
    for name, grad in grads.items():
        grads[name] = grad.clamp(-1, 1)


def by_its_result(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: grad.clamp(-1, 1) for name, grad in grads.items()}


def in_place_and_returned(grads: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    halved(grads)
    return grads


def halved(grads: Mapping[str, Tensor]) -> None:
    for grad in grads.values():
        grad.mul_(0.5)


def in_half_of_the_first_layer(grads: Mapping[str, Tensor]) -> None:
    """Knows the network: it takes images of 16 numbers."""
    grads["hidden.0.weight"].view(-1, 2, 8)[:, 0].mul_(0.5)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (by_its_calls, "returns other gradients for the same input when it is called again"),
        (by_the_largest, "returns other gradients for the same input when it is called again"),
        (into_new_tensors, "returns new tensors, which have no effect; change the gradients"),
        (by_its_result, "returns new tensors, which have no effect; change the gradients"),
        (by_chance, "returns other gradients for the same input when it is called again"),
        (by_a_name_that_is_not_there, r"\S*test_gradient_clipping.py:\d+: KeyError: 'head.weight'"),
    ],
)
def test_one_that_a_resumed_training_cannot_repeat_is_refused_when_the_plan_is_made(
    cell: Callable[..., Cell], clip: Callable[..., None], says: str
) -> None:
    target = f"{__name__}.{clip.__name__}"
    with pytest.raises(ValueError, match=f"recipe.clip: `{target}`:? {says}"):
        plan([cell(recipe__clip={"_target_": target})])
    for fits in ("halved", "in_place_and_returned", "in_half_of_the_first_layer"):
        plan([cell(recipe__clip={"_target_": f"{__name__}.{fits}"})])
