"""Run trials in processes of their own, and find parts that remember an earlier call.

The same trials run in two forks. The first fork calls each part once. The second fork calls the
parts with other inputs before that, as a process does that computes another seed first. A part that
then gives other values keeps something between its calls. A cache of values that depend only on
their key changes nothing.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import global_draws
from lt_sweeps.execution.forking import may_fork, process_context
from lt_sweeps.execution.process_state import forget_users_code
from lt_sweeps.execution.tried_parts import Results

_SECONDS = 120.0  # time limit of all trials together, which includes reading the data
_Answer = tuple[str, list[tuple[str, str]]]
"""The first failure of the trials, or "", and the name and hash of everything they returned."""


@dataclass(frozen=True)
class Trial:
    """The trial of user-defined parts.

    `named` has the yamls that name them. `run` yields what they return for the inputs of a number,
    and raises a ValueError whose message says what is wrong. `identity` has everything that can
    make the trial fail; a passed trial is remembered by it. `calls` is the number of other inputs
    that the parts are called with first.
    """

    named: str
    identity: list[Any]
    run: Callable[[int], Results]
    calls: int = 1


def first_failure(trials: Sequence[Trial]) -> str:
    """Run the trials; return the first failure, or an empty str.

    If a process cannot be a fork, the trials run in this process instead, without other inputs.
    """
    context = process_context()
    if context.get_start_method() != "fork":  # a new process would need seconds for its imports
        return _run(trials)[0]
    yamls = ", ".join(dict.fromkeys(trial.named for trial in trials))
    with ExitStack() as started:
        forks = [started.enter_context(_fork(context, trials, after)) for after in (False, True)]
        (failure, alone), (later, after) = (_answer_of(*fork, yamls) for fork in forks)
    if failure or later:
        return failure or later
    differ = (name for (name, one), (_, other) in zip(alone, after, strict=True) if one != other)
    if name := next(differ, None):
        return (
            f"{name} returns other values for the same inputs after it was called with others, so "
            "a result would depend on the seeds and cells that the same process computes before; "
            "it keeps something between calls (in a global variable, an attribute, a default or a "
            "cache); compute from the arguments alone, and let a cache keep only what its key "
            "determines"
        )
    return ""


@contextmanager
def _fork(
    context: Any, trials: Sequence[Trial], after: bool
) -> Iterator[tuple[BaseProcess, Connection]]:
    """Start a fork that runs the trials, and end it with the block."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, trials, after), daemon=True)
    with may_fork():
        process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


def _answer_of(process: BaseProcess, pipe: Connection, yamls: str) -> _Answer:
    """The answer of a fork; a crash or a hang is a failure."""
    try:
        if pipe.poll(_SECONDS):
            return pipe.recv()
        return f"{yamls}: a trial on two examples is not done after {_SECONDS:.0f} seconds", []
    except EOFError:
        process.join(5)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{yamls}: a trial on two examples ended its process with {how}", []


def _answer(answer: Connection, trials: Sequence[Trial], after: bool) -> None:
    torch.set_num_threads(1)  # a fork does not have its parent's other threads
    forget_users_code()  # the plan has called some parts already
    answer.send(_run(trials, after=after))


def _run(trials: Sequence[Trial], *, after: bool = False) -> _Answer:
    """Run the trials, if asked `after` calls with other inputs."""
    # The last trials first, so that no part is called with its own inputs before others.
    runs = [(trial, n) for trial in reversed(trials) for n in range(trial.calls, 0, -1) if after]
    results: list[tuple[str, str]] = []
    for trial, number in [*runs, *((trial, 0) for trial in trials)]:
        try:
            with global_draws(1):
                returned = [(name, _hash(tensors)) for name, tensors in trial.run(number)]
        except ValueError as error:
            return str(error), []
        results += [] if number else returned
    return "", results


def _hash(tensors: Iterable[Tensor]) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().contiguous().flatten()
        content.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        content.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return content.hexdigest()
