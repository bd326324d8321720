"""A step for which the host waits is found before a graph is captured, and runs without one."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lt_sweeps.training.backends import lanes
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.host_waits import HostWaits

X, MASK, PLACES = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([True, False]), [1, 0]


def differentiated(function: Callable[[Tensor], Tensor]) -> None:
    leaf = X.clone().requires_grad_()
    torch.autograd.grad(function(leaf).sum(), leaf)


@pytest.mark.parametrize(
    "step",
    [
        lambda: X.sum().item(),
        lambda: 1 if X.sum() > 0 else 2,
        lambda: float(X[0, 0]),
        lambda: X[MASK],
        lambda: X.clone().index_put_((MASK,), X[:1, :1].expand(1, 2)),
        lambda: differentiated(lambda x: x[MASK]),
        lambda: X.nonzero(),
        lambda: X.unique(),
        lambda: X.masked_select(MASK),
        lambda: X.masked_fill(MASK, X.sum()),
        lambda: torch.linalg.inv(X),
        lambda: X.repeat_interleave(torch.tensor(PLACES), 0),
        lambda: torch.bincount(torch.tensor(PLACES)),
        lambda: torch.equal(X, X),
        lambda: torch.allclose(X, X),
    ],
)
def test_what_the_host_waits_for_is_found(step: Callable[[], object]) -> None:
    with HostWaits() as host:
        step()
    assert host.found


@pytest.mark.parametrize(
    "step",
    [
        lambda: X @ X + torch.tensor(2.0),
        lambda: X[torch.tensor(PLACES)],
        lambda: X.clone().__setitem__(MASK, 0.0),
        lambda: X.masked_fill(MASK, 0.0),
        lambda: X.repeat_interleave(2, 0),
        lambda: X.clone().copy_(X).to(torch.float64),
        lambda: differentiated(lambda x: torch.where(MASK, x, -x).cumsum(0).topk(1).values),
    ],
)
def test_what_it_does_not_wait_for_is_not(step: Callable[[], object]) -> None:
    with HostWaits() as host:
        step()
    assert host.found == []


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (lambda x: x + torch.tensor([1.0, 2.0]).to("cuda"), ["aten._to_copy.default"]),
        (lambda x: x + torch.tensor([1.0, 2.0], device="cuda"), ["aten._to_copy.default"]),
        # All that `torch.tensor` shows of the same on a real device.
        (lambda x: torch.ops.aten.lift_fresh(x), ["aten.lift_fresh.default"]),
        (lambda x: x.cpu(), ["aten._to_copy.default"]),
        (lambda x: x + torch.arange(2, device="cuda"), []),
        (lambda x: x * torch.tensor(2.0), []),
    ],
)
def test_what_is_sent_between_host_and_device_is_found(
    step: Callable[[Tensor], object], found: list[str]
) -> None:
    with FakeTensorMode(), HostWaits() as host:
        step(torch.empty(2, device="cuda"))
    assert host.found == found


class Cuda:
    """Torch's streams and graphs by name, which note what is asked of them."""

    def __init__(self) -> None:
        self.now, self.captures, self.replays, self.tells = "default", 0, 0, 0
        self.warmed: object = None  # the stream of the warm-up

    def wait_stream(self, other: object) -> None:
        pass

    def set_stream(self, stream: str) -> None:
        self.now = stream

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        self.warmed = stream
        yield

    def replay(self) -> None:
        self.replays += 1

    @contextmanager
    def graph(self, graph: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local" and stream is self.warmed
        self.captures, self.now = self.captures + 1, "capturing"
        yield  # and torch's own context leaves its stream behind, if the capture fails


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    here = type("Stream", (), {"wait_stream": lambda *_: None})()
    stand_ins: dict[str, Any] = {
        "device": lambda device: nullcontext(),
        "current_stream": lambda: here,
        "Stream": lambda device: cuda,
        "stream": cuda.stream,
        "set_stream": lambda stream: cuda.set_stream("default" if stream is here else "other"),
        "get_sync_debug_mode": lambda: cuda.tells,
        "set_sync_debug_mode": lambda mode: setattr(cuda, "tells", mode),
        "CUDAGraph": lambda: cuda,
        "graph": cuda.graph,
    }
    monkeypatch.setattr(lanes, "_streams", {})
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return cuda


def test_a_step_without_waits_is_captured_and_what_it_changed_is_put_back(cuda: Cuda) -> None:
    total = torch.zeros(())

    def step() -> None:
        total.add_(1)

    replay = graphed(step, "cuda", restore=[total])
    assert cuda.captures == 1 and cuda.now == "default"
    assert float(total) == 1, "two steps to warm up, put back, and that of the stand-in's capture"
    replay()
    assert cuda.replays == 1


def test_a_step_that_waits_stays_as_it_is(cuda: Cuda) -> None:
    total = torch.zeros(())

    def step() -> None:
        total.add_(1.0 if total.item() < 3 else 2.0)

    assert graphed(step, "cuda", restore=[total]) is step
    assert cuda.captures == 0 and float(total) == 0


def test_a_step_is_left_as_it_is_where_torch_tells_of_a_wait_within_an_operation(
    cuda: Cuda,
) -> None:
    """As a kernel does that copies its strides to the device, which no operation's name shows."""
    told = 0

    def step() -> None:
        nonlocal told
        if cuda.tells:
            told += 1
            warnings.warn("called a synchronizing CUDA operation (at Copy.cu:1)", stacklevel=1)

    assert graphed(step, "cuda") is step
    assert (cuda.captures, told, cuda.tells) == (0, 1, 0)


def test_a_first_step_may_wait_for_what_later_ones_find(cuda: Cuda) -> None:
    kept: list[float] = []

    def step() -> None:
        if not kept:
            kept.append(X.sum().item())

    assert graphed(step, "cuda") is not step


def test_a_capture_that_fails_leaves_the_stream_as_it_was(cuda: Cuda) -> None:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("while it was captured")

    with pytest.raises(torch.OutOfMemoryError):
        graphed(step, "cuda")
    assert cuda.captures == 1 and cuda.now == "default"


def test_what_a_graph_reads_stays_when_a_model_forgets_it(cuda: Cuda) -> None:
    kept, total = [torch.ones(3)], torch.zeros(3)

    def step() -> None:
        total.add_(kept[0][:2].sum() + torch.ones(3).mul_(2))

    before = weakref.ref(kept[0]), weakref.ref(total)
    replay = graphed(step, "cuda", restore=[total])
    kept[0] = torch.zeros(3)  # as for an evaluation
    assert before[0]() is not None, "the graph holds it"
    del replay
    assert before[0]() is None and before[1]() is total


def test_what_a_step_makes_is_not_held() -> None:
    leaf = X.clone().requires_grad_()
    with HostWaits() as host:
        made = torch.relu((leaf @ leaf).add_(1))
        torch.autograd.grad(made.view(-1)[1:].sum(), leaf)
    assert [tensor.data_ptr() for tensor in host.read.values()] == [leaf.data_ptr()]
