"""Layouts of images, and a stream for each replicate, change the speed but not the numbers."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lt_sweeps import models
from lt_sweeps.training.backends.lanes import Lanes
from lt_sweeps.training.stack import Stack

NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: models.Conv((3, 8, 8), 4, blocks=[[4, 4], [6]], hidden=[5]),
    "resnet": lambda: models.ResNet((3, 8, 8), 4, depth=8, width=8),
    "wide": lambda: models.WideResNet((3, 8, 8), 4, depth=10, widen=1),
}
_MODULES = {"loop": "loop_backend", "stacked": "stacked", "grouped": "stacked"}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("backend", _MODULES)
def test_images_in_another_layout_give_the_same_gradients(
    net: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, 3, 8, 8, generator=draws, dtype=torch.float64)
    y = torch.randint(4, (3, 5), generator=draws)
    ends, seen = [], []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(f"lt_sweeps.training.backends.{_MODULES[backend]}._LAID_OUT", devices)
        torch.manual_seed(0)
        stack = Stack(NETS[net]().double(), 3, backend=backend)
        noise = torch.Generator().manual_seed(4)
        stack.weights.add_(0.1 * torch.randn(stack.weights.shape, generator=noise).double())
        loss = stack.loss(x, y)
        laid_out = stack._backend._layout(x[0])  # type: ignore[attr-defined]
        seen.append(laid_out.is_contiguous(memory_format=torch.channels_last))
        ends.append((loss, stack.grads, stack.logits(x[0]), *stack.buffers.values()))
    assert seen == [False, True]
    for plain, other in zip(*ends, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("width", "laid_out"), [(4, False), (8, True)])
def test_a_layout_in_which_torch_writes_past_its_buffers_is_not_chosen(
    width: int, laid_out: bool
) -> None:
    """Without this a CPU that lacks AVX-512 aborts, with `free(): invalid pointer`."""
    stack = Stack(models.ResNet((3, 8, 8), 4, depth=8, width=width), 2, backend="loop")
    x = torch.rand(2, 8, 3, 8, 8)
    for _ in range(20):
        stack.loss(x, torch.arange(16).view(2, 8) % 4, None)
    seen = stack._backend._layout(x[0])  # type: ignore[attr-defined]
    assert seen.is_contiguous(memory_format=torch.channels_last) == laid_out


class _Stream:
    """A stream that only notes which streams wait for which."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: _Stream) -> None:
        self.log.append((self.name, other.name))


def test_lanes_begin_after_the_stream_that_they_leave_and_end_before_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[tuple[str, str]] = []
    here, current = _Stream("here", log), ["here"]

    @contextmanager
    def stream(chosen: _Stream) -> Iterator[None]:
        before, current[0] = current[0], chosen.name
        yield
        current[0] = before

    made = iter(range(99))
    monkeypatch.setattr("lt_sweeps.training.backends.lanes._streams", {})
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: _Stream(f"lane {next(made)}", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    assert not Lanes(torch.device("cpu"), 12)._streams
    assert not Lanes(torch.device("cuda"), 1)._streams
    lanes, ran = Lanes(torch.device("cuda"), 12), []
    with lanes.fork():
        assert log == [(f"lane {n}", "here") for n in range(8)]
        for replicate in range(12):
            with lanes.lane(replicate):
                ran.append(current[0])
    assert ran == [f"lane {replicate % 8}" for replicate in range(12)]
    assert log[8:] == [("here", f"lane {n}") for n in range(8)] and current == ["here"]
    assert Lanes(torch.device("cuda"), 3)._streams == lanes._streams[:3], "of all stacks"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone has it")
def test_a_step_finds_the_memory_that_the_step_before_it_freed() -> None:
    stack = Stack(models.Conv((3, 32, 32), 10, blocks=[[8]], hidden=[8]), 1)
    x, y = torch.randn(1, 128, 3, 32, 32), torch.zeros(1, 128, dtype=torch.long)
    faults = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            stack.loss(x, y)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # Pages; an activation has 1,024 of them, so not one activation is cleared anew in each step.
    # The least, because the first steps ask for the memory, and a machine that runs out of it takes
    # pages away.
    assert min(faults) < 10 * 1024 / 2
