"""On a GPU a step is captured if possible, and computes the same as on a CPU."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from lt_sweeps.models import Recurrent, Transformer
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, TaskKind
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss

pytestmark = pytest.mark.gpu

R, B, T, K = 3, 16, 6, 11
TOKENS = TaskKind.of(
    {
        "loss": {"_target_": "lt_sweeps.training.losses.token_cross_entropy"},
        "metrics": {"perplexity": {"_target_": "lt_sweeps.training.metrics.perplexity"}},
    }
)
NETS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: Transformer((T,), K, width=8, heads=2),
    "tied": lambda: Transformer((T,), K, width=8, heads=2, tied=True),
    "lstm": lambda: Recurrent((T,), K, width=5, vocabulary=K),
    "gru": lambda: Recurrent((T,), K, cell="gru", width=5, depth=2, vocabulary=K),
}


class Reads(nn.Module):
    """A network that in every step sends numbers to the device and reads one back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(T, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.float() + torch.arange(T).to(x.device))
        return x if x.sum().item() < 1e9 else -x


class Keeps(nn.Module):
    """A network that keeps a tensor whose size is that of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(T, K)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) != len(x):
            self.kept = torch.full((len(x), 1), 2.0, device=x.device)
        return self.layer(x.float() * self.kept)


def stepped(net: nn.Module, device: str, backend: str) -> tuple[Stack, Callable[[], None]]:
    """A stack of different networks, and the step that computes its gradients."""
    kind = TOKENS if isinstance(net, Transformer) else CLASSIFICATION
    stack = Stack(net, R, device=device, backend=backend, task_loss=TaskLoss(kind))
    draws = torch.Generator().manual_seed(1)
    stack.weights.add_(0.1 * torch.randn(stack.weights.shape, generator=draws).to(device))
    x, y = (part.to(device) for part in torch.randint(K, (2, R, B, T), generator=draws))
    y = y if kind is TOKENS else y[..., 0]

    def step() -> None:
        stack.loss(x, y)

    return stack, step


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "loop") for name in NETS),
        *((name, "vmap") for name in ("transformer", "tied")),
    ],
)
def test_a_network_for_sequences_is_captured_and_computes_what_it_does_on_a_cpu(
    device: str, name: str, backend: str
) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    exact, step = stepped(net, "cpu", "loop")
    step()
    stack, step = stepped(net, device, backend)
    step()
    eager = stack.grads.clone()
    torch.testing.assert_close(eager.cpu(), exact.grads, rtol=1e-3, atol=1e-5)
    replay = graphed(step, device)
    assert (replay is step) == (device == "cpu")
    stack.grads.zero_()
    replay()
    assert torch.equal(stack.grads, eager)


def test_a_step_that_waits_runs_without_a_graph_and_the_next_one_has_its_own(device: str) -> None:
    torch.manual_seed(0)
    net = Reads()
    exact, step = stepped(net, "cpu", "loop")
    step()
    stack, step = stepped(net, device, "loop")
    assert graphed(step, device) is step
    step()
    torch.testing.assert_close(stack.grads.cpu(), exact.grads, rtol=1e-3, atol=1e-5)
    other, plain = stepped(NETS["lstm"](), device, "loop")
    graphed(plain, device)()
    assert bool(other.grads.any())


class Refused(nn.Module):
    """A network that cannot be captured, and keeps a tensor that it made during the attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(T, K), 1.0

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            self.kept = torch.full((1,), 2.0, device=x.device)
            torch.cuda.synchronize()
        return self.layer(x.float() * self.kept)


def refused(device: str) -> tuple[bool, list[str], list[list[float]], list[list[float]]]:
    """Whether the plain step is used, the message, the gradients, and those of the next network."""
    told, handler = list[str](), logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("lt_sweeps").addHandler(handler)
    torch.manual_seed(0)
    stack, step = stepped(Refused(), device, "loop")
    taken = graphed(step, device, renew=stack.renew)
    taken()
    other, plain = stepped(NETS["lstm"](), device, "loop")
    graphed(plain, device)()
    return taken is step, told, stack.grads.tolist(), other.grads.tolist()


def test_a_step_whose_capture_fails_runs_without_a_graph_and_the_next_one_is_right(
    device: str,
) -> None:
    # In another process, because torch before 2.13 captures no more in one where that has failed.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        plain, told, *grads = other.submit(refused, device).result()
    assert plain and len(told) == (device != "cpu")
    for ours, theirs in zip(grads, refused("cpu")[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_graph_holds_what_a_network_forgets(device: str) -> None:
    torch.manual_seed(0)
    stack, step = stepped(Keeps(), device, "loop")
    step()
    eager = stack.grads.clone()
    replay = graphed(step, device)
    stack.logits(torch.ones(B + 1, T, dtype=torch.long, device=device))
    taken = [torch.zeros(B, 1, device=device) for _ in range(256)]  # memory that has become free
    stack.grads.zero_()
    replay()
    assert torch.equal(stack.grads, eager) and len(taken) == 256
