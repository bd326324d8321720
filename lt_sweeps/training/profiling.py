"""`Profile`: measure the time of each part of a pack, and trace some of its steps.

A profile is attached to a training loop from outside: it replaces methods of the loop's parts by
timed ones. A training without a profile runs no code of this module.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.pack_profile import PARTS, PackProfile
from lt_sweeps.training.training_loop import TrainingLoop

_TRACED = range(10, 20)  # steps of a training; the first ones are warm-up
_WHOLE = ("evaluation", "storage")  # parts that include the time of parts called within them


class Profile:
    """The seconds of each part of a pack; they add up to the pack's total time.

    On a GPU they are measured between events in its stream, so that the host need not wait for it.
    The parts of a step that is replayed as a graph cannot be separated: they all count as `rest`.

    Args:
        trace: the file for a trace of some steps, for chrome://tracing; None for no trace.
    """

    def __init__(self, trace: Path | None = None) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps, self.trace = 0, trace
        self._parts = ["start-up"]  # the parts that are running, the innermost last
        self._since = time.perf_counter()
        self._cuda = False
        self._events: deque[tuple[str, torch.cuda.Event]] = deque()
        self._last: torch.cuda.Event | None = None
        self._tracer: profile | None = None

    def attach(self, loop: TrainingLoop) -> None:
        """Time the parts of a loop that has not started yet."""
        self._turn()
        self._parts[0], self._cuda = "start-up", loop.device.type == "cuda"
        backend = loop.stack._backend
        # The `chain` backend computes gradients by hand, within `loss`. So what its `loss` does
        # outside of the methods below counts as backward. On a GPU `loss` calls `_inputs` alone,
        # and its last product and the cross entropy count as backward too.
        by_hand = hasattr(backend, "_forward")
        timed: list[tuple[str, object, tuple[str, ...]]] = [
            ("data", loop.batches, ("index", "take")),
            ("backward" if by_hand else "forward", backend, ("loss",)),
            ("forward", backend, ("_forward", "_inputs") if by_hand else ()),
            ("masks", loop.masking, ("ready", "at", "compute", "rewire", "step")),
            ("optimizer", loop.masking.optimizer, ("step",)),
            ("evaluation", loop.scorer, ("validate", "results", "measure")),
            ("storage", loop.files, ("snapshot", "write_checkpoint", "read_checkpoint")),
            ("storage", loop.files, ("finish", "drop_checkpoints")),
            ("waiting", loop.files, ("wait",)),
            ("waiting", loop.files._writing, ("join",)),
        ]
        for part, owner, names in timed:
            for name in names:
                setattr(owner, name, self._timed(part, getattr(owner, name)))
        update, run = loop.update, loop.run
        loop.update = lambda **how: self._stepping(update(**how))  # type: ignore[method-assign]

        def profiled(until: int | None = None) -> None:
            with self._part("rest"), self._backward():
                run(until)
            self._end_trace()
            self._turn()
            self._parts[0] = "storage"  # after the training, records are written

        loop.run = profiled  # type: ignore[method-assign]

    def write(self, path: Path, *, stack_size: int, device: str) -> None:
        """Write the times measured so far to a file."""
        self._turn()
        if self._cuda:
            torch.cuda.synchronize()
            self._read_events()
        result = PackProfile(self.seconds, self.steps, stack_size, device)
        write_whole(path, json.dumps(vars(result)).encode())

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._part(part):
                return function(*args, **kwargs)

        return timed

    def _stepping(self, update: Callable[[int], None]) -> Callable[[int], None]:
        def step(number: int) -> None:
            if self.trace is not None and self.steps == _TRACED.start:
                with self._part("trace"):
                    self._tracer = _tracer(cuda=self._cuda)
                    self._tracer.start()
            with self._part("rest"):
                update(number)
            self.steps += 1
            if self.steps == _TRACED.stop:
                self._end_trace()

        return step

    def _end_trace(self) -> None:
        if self._tracer is None or self.trace is None:
            return
        with self._part("trace"):
            self._tracer.stop()
            self.trace.parent.mkdir(parents=True, exist_ok=True)
            self._tracer.export_chrome_trace(str(self.trace))
            self._tracer = self.trace = None

    @contextmanager
    def _backward(self) -> Iterator[None]:
        """Within this context, the time in `torch.autograd.grad` counts as `backward`."""
        grad = torch.autograd.grad
        torch.autograd.grad = self._timed("backward", grad)  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.autograd.grad = grad

    @contextmanager
    def _part(self, part: str) -> Iterator[None]:
        if self._parts[-1] in _WHOLE and part != "waiting":
            part = self._parts[-1]
        self._turn()
        self._parts.append(part)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def _turn(self) -> None:
        """Add the time since the last turn to the part that is running."""
        if not self._cuda:
            now = time.perf_counter()
            self.seconds[self._parts[-1]] += now - self._since
            self._since = now
        elif not torch.cuda.is_current_stream_capturing():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((self._parts[-1], event))
            self._read_events()

    def _read_events(self) -> None:
        """Add the times between events that the GPU has reached; the others are read later."""
        while self._events and self._events[0][1].query():
            part, event = self._events.popleft()
            if self._last is not None:
                self.seconds[part] += self._last.elapsed_time(event) / 1000
            self._last = event


def _tracer(*, cuda: bool) -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    # There is only one profiling cycle. Without `acc_events`, torch 2.11 warns that events of
    # several cycles would be lost.
    return profile(activities=activities, record_shapes=True, acc_events=True)
