"""`Optimizer` equals `torch.optim`, and its rows do not affect each other."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lt_sweeps.training.optimizers import Optimizer

OPTIONS = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-2},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "weight_decay": 1e-2},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6},
}
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
RATES = (0.1, 0.1, 0.05, 0.01)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_equals_the_unfused_torch_optimizer(options):
    start = _draw(0)
    weights, grads = start.clone(), torch.zeros_like(start)
    ours = Optimizer(weights, grads, **options)
    parameter = torch.nn.Parameter(start.clone())
    rest = {name: value for name, value in options.items() if name != "optimizer"}
    theirs = TORCH[options["optimizer"]]([parameter], lr=1.0, foreach=False, fused=False, **rest)
    for step, lr in enumerate(RATES):
        grads.copy_(_draw(step + 1))
        parameter.grad = grads.clone()
        theirs.param_groups[0]["lr"] = lr
        ours.step(lr)
        theirs.step()
        torch.testing.assert_close(weights, parameter.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_row_equals_the_same_row_alone_bit_for_bit(options):
    together = _train(_draw(0), options, slice(None))
    for row in (slice(0, 1), slice(2, 3)):
        assert torch.equal(_train(_draw(0)[row], options, row), together[row])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_row_restored_into_another_stack_continues_bit_for_bit(options):
    weights, grads = _draw(0), torch.zeros(3, 128)
    whole = Optimizer(weights, grads, **options)
    for step in range(2):
        _step(whole, grads, step)
    row = {name: value[1:2] for name, value in whole.tensors.items()}
    alone, alone_grads = weights[1:2].clone(), torch.zeros(1, 128)
    resumed = Optimizer(alone, alone_grads, **options)
    _continue(resumed, row)
    for step in range(2, 4):
        _step(whole, grads, step)
        _step(resumed, alone_grads, step, slice(1, 2))
    assert torch.equal(alone, weights[1:2])


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_rows_with_equal_counts_are_one_kernel_and_others_the_same_numbers(name):
    results, calls = [], []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_fused_" in str(func):
                calls.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    for apart in (False, True):
        weights, grads = _draw(0), torch.zeros(3, 128)
        optimizer = Optimizer(weights, grads, **OPTIONS[name])
        if apart:
            optimizer.steps[1] = 7
            optimizer.ready()
            optimizer.steps[1] = 0
        for step in range(len(RATES)):
            with Counted():
                _step(optimizer, grads, step)
        results.append((weights, optimizer.tensors))
    assert calls == [1] * len(RATES) + [3] * len(RATES)
    (together, one), (rows, other) = results
    assert torch.equal(together, rows) and one["step"].tolist() == [4, 4, 4]
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_rows_at_different_steps_can_share_a_stack():
    options = OPTIONS["adam"]
    older, older_grads = _draw(0)[:1], torch.zeros(1, 128)
    first = Optimizer(older, older_grads, **options)
    _step(first, older_grads, 0, slice(0, 1))
    fresh = Optimizer(torch.zeros(1, 128), torch.zeros(1, 128), **options)
    weights, grads = torch.cat([older, _draw(0)[1:2]]), torch.zeros(2, 128)
    both = Optimizer(weights, grads, **options)
    pair = (first.tensors, fresh.tensors)
    _continue(both, {name: torch.cat([each[name] for each in pair]) for name in pair[0]})
    _step(both, grads, 1, slice(0, 2))
    _step(first, older_grads, 1, slice(0, 1))
    assert torch.equal(weights[:1], older)
    assert both.tensors["step"].tolist() == [2, 1]


def test_a_row_of_nan_stays_alone():
    clean, dirty = _draw(0), _draw(0)
    dirty[1] = torch.nan
    for weights in (clean, dirty):
        grads = torch.zeros_like(weights)
        optimizer = Optimizer(weights, grads, **OPTIONS["adam"])
        for step in range(2):
            _step(optimizer, grads, step)
    assert torch.equal(clean[[0, 2]], dirty[[0, 2]])
    assert dirty[1].isnan().all()


def test_a_masked_weight_with_a_masked_gradient_does_not_move():
    weights, grads, mask = _draw(0), torch.zeros(3, 128), (_draw(9) > 0).float()
    optimizer = Optimizer(weights, grads, **{**OPTIONS["adam"], "weight_decay": 0.0})
    _step(optimizer, grads, 0)
    optimizer.mask_(mask)
    before = weights.clone()
    grads.copy_(_draw(1) * mask)
    optimizer.step(0.1)
    assert torch.equal(weights[mask == 0], before[mask == 0])
    assert not torch.equal(weights[mask == 1], before[mask == 1])


def test_the_learning_rate_may_be_a_tensor():
    results = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        weights, grads = _draw(0), _draw(1)
        Optimizer(weights, grads, **OPTIONS["adam"]).step(lr)
        results.append(weights)
    assert torch.equal(*results)


def _draw(seed: int) -> Tensor:
    return torch.randn(3, 128, generator=torch.Generator().manual_seed(seed))


def _step(optimizer: Optimizer, grads: Tensor, step: int, rows: slice = slice(None)) -> None:
    grads.copy_(_draw(step + 1)[rows])
    optimizer.step(RATES[step])


def _train(weights: Tensor, options: dict, rows: slice) -> Tensor:
    weights, grads = weights.clone(), torch.zeros_like(weights)
    optimizer = Optimizer(weights, grads, **options)
    for step in range(len(RATES)):
        _step(optimizer, grads, step, rows)
    return weights


def _continue(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    for name, tensor in optimizer.tensors.items():
        tensor.copy_(state[name])
    optimizer.ready()
