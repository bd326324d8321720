"""The kernels between a chain's products equal torch's, run by Triton's interpreter."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from lt_sweeps.models import FC
from lt_sweeps.training.backends import backend as backends
from lt_sweeps.training.backends.chain import FusedChainBackend
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss

MODULE = "lt_sweeps.training.backends.chain_kernels"


class Unbiased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden, self.output = nn.Linear(16, 40, bias=False), nn.Linear(40, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(self.flatten(x))))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("batch", [1, 5, 60])
@pytest.mark.parametrize(
    "net", [FC((1, 4, 4), 10, hidden=[70, 33]), Unbiased()], ids=["fc", "bare"]
)
def test_losses_and_gradients_are_those_of_the_plain_chain(
    interpreted_kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    net: nn.Module,
    batch: int,
    smoothing: float,
) -> None:
    stacks = [Stack(net, 3, backend="chain", task_loss=TaskLoss(smoothing=smoothing))]
    monkeypatch.setattr(backends.own_kernels, "run_on", lambda weights: True)
    stacks.append(Stack(net, 3, backend="chain", task_loss=TaskLoss(smoothing=smoothing)))
    assert [type(stack._backend) is FusedChainBackend for stack in stacks] == [False, True]
    draws = torch.Generator().manual_seed(batch)
    stacks[0].weights.add_(0.3 * torch.randn(stacks[0].weights.shape, generator=draws))
    stacks[1].weights.copy_(stacks[0].weights)
    x = torch.randn(3, batch, 1, 4, 4, generator=draws)
    y = torch.randint(7, (3, batch), generator=draws)
    losses = [stack.loss(x, y) for stack in stacks]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stacks[1].grads, stacks[0].grads, rtol=1e-4, atol=1e-6)
    assert bool(stacks[0].grads.any())


def test_a_relu_hands_on_what_is_no_number(interpreted_kernels: None) -> None:
    kernels = importlib.import_module(MODULE)
    x = torch.tensor([[[float("nan"), -1.0, 2.0]]])
    bias = torch.tensor([[0.0, 0.5, 0.5]])
    given = kernels.bias_relu_(x.clone(), bias)
    assert given[0, 0, 0].isnan() and given[0, 0, 1:].tolist() == [0.0, 2.5]


def test_a_batch_that_no_program_holds_takes_the_plain_chain(interpreted_kernels: None) -> None:
    kernels = importlib.import_module(MODULE)
    assert kernels.fits(60, 10) and kernels.fits(256, 10)
    assert not kernels.fits(512, 10) and not kernels.fits(60, 1000)
