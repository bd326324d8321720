"""A step for which the host waits is detected before a capture, and runs without a graph."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from fixtures.captured_step import Cuda, fakes_cuda, pretended_cuda
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

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
def test_operations_for_which_the_host_waits_are_found(step: Callable[[], object]) -> None:
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
def test_operations_without_a_wait_are_not_found(step: Callable[[], object]) -> None:
    with HostWaits() as host:
        step()
    assert host.found == []


@fakes_cuda
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
def test_copies_between_host_and_device_are_found(
    step: Callable[[Tensor], object], found: list[str]
) -> None:
    with FakeTensorMode(), HostWaits() as host:
        step(torch.empty(2, device="cuda"))
    assert host.found == found


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return pretended_cuda(monkeypatch)


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
    """For example a kernel that copies its strides to the device, which its name does not show."""
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


class Fails:
    """A step that adds 1, and fails in one of its calls: the third call is captured."""

    def __init__(self, call: int, error: Exception) -> None:
        self.call, self.error, self.calls, self.total = call, error, 0, torch.zeros(())

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        self.total.add_(1)


REFUSED = "CUDA error: operation not permitted when stream is capturing\nCompile with DSA"


@pytest.mark.parametrize("call", [2, 3])
def test_a_step_that_cannot_be_captured_is_taken_as_it_is_and_one_line_says_why(
    cuda: Cuda, caplog: pytest.LogCaptureFixture, call: int
) -> None:
    cuda.ends_badly, renewed = True, []
    step = Fails(call, RuntimeError(REFUSED))
    taken = graphed(step, "cuda", restore=[step.total], renew=lambda: renewed.append(True))
    assert taken is step and renewed == [True]
    assert (cuda.captures, cuda.now, cuda.tells) == (call - 2, "default", 0)
    assert float(step.total) == 0, "what its steps have changed is put back"
    (told,) = caplog.messages
    assert told.endswith("failed: RuntimeError: " + REFUSED.partition("\n")[0])
    taken()
    assert float(step.total) == 1


def test_a_step_that_fails_without_a_graph_too_fails_at_once(cuda: Cuda) -> None:
    with pytest.raises(RuntimeError, match="not permitted"):
        graphed(Fails(1, RuntimeError(REFUSED)), "cuda")


@pytest.mark.parametrize("call", [2, 3])
@pytest.mark.parametrize("ends_badly", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_capture_without_enough_memory_fails_so_that_the_stack_is_halved(
    cuda: Cuda, error: RuntimeError, ends_badly: bool, call: int
) -> None:
    cuda.ends_badly = ends_badly
    fresh = type(error)(*error.args)  # one that was raised in another case has a context
    with pytest.raises(type(error), match=r"out of memory|ALLOC_FAILED"):
        graphed(Fails(call, fresh), "cuda")
    assert cuda.now == "default"


def test_a_capture_on_an_unusable_device_fails(cuda: Cuda) -> None:
    cuda.broken = True
    with pytest.raises(RuntimeError, match="not permitted"):
        graphed(Fails(3, RuntimeError(REFUSED)), "cuda")


def test_a_process_in_which_torch_can_capture_no_more_does_not_try(cuda: Cuda) -> None:
    cuda.refuses = True
    step = Fails(1, RuntimeError("it is not called"))
    assert graphed(step, "cuda") is step and step.calls == cuda.captures == 0


def test_tensors_that_a_graph_reads_are_kept_after_the_model_drops_them(cuda: Cuda) -> None:
    kept, total = [torch.ones(3)], torch.zeros(3)

    def step() -> None:
        total.add_(kept[0][:2].sum() + torch.ones(3).mul_(2))

    before = weakref.ref(kept[0]), weakref.ref(total)
    replay = graphed(step, "cuda", restore=[total])
    kept[0] = torch.zeros(3)  # as for an evaluation
    assert before[0]() is not None, "the graph holds it"
    del replay
    assert before[0]() is None and before[1]() is total


def test_tensors_that_a_step_creates_are_not_kept() -> None:
    leaf = X.clone().requires_grad_()
    with HostWaits() as host:
        made = torch.relu((leaf @ leaf).add_(1))
        torch.autograd.grad(made.view(-1)[1:].sum(), leaf)
    assert [tensor.data_ptr() for tensor in host.read.values()] == [leaf.data_ptr()]
