"""Replicate-steps per second of every backend against a plain loop that trains one module.

    python tests/benchmarks/bench_stack.py fc conv4 --replicates 1,5 --backends auto,vmap
    python tests/benchmarks/bench_stack.py --device cuda --replicates 1,5,15,45

(`PYTHONPATH=.` before it where the package is not installed.)

The plain loop is the best ordinary one: data in memory, a fused optimizer, channels_last where
that is faster, and on CUDA the whole step in one graph. All variants draw a batch, take the
gradients and update; they run in turn, round by round, because machines drift. `times plain` is
the median over rounds of how many times faster a replicate's step is than a plain step of the same
round: at 1.00 five replicates stacked take as long as five runs one after another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.models import FC, Conv, ResNet
from lt_sweeps.training.backends.backend import BACKENDS
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import Stack, graphed

IMAGES = 2000


@dataclass(frozen=True)
class Task:
    """A net, its images, its batch size and its optimizer."""

    net: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int = 60
    optimizer: str = "adam"


FOUR = ((64, 64), (128, 128))
TASKS = {
    "digits": Task(lambda: FC((1, 8, 8), 10), (1, 8, 8)),
    "fc": Task(lambda: FC((1, 28, 28), 10), (1, 28, 28)),
    "conv4": Task(lambda: Conv((3, 32, 32), 10, blocks=FOUR), (3, 32, 32)),
    "resnet20": Task(lambda: ResNet((3, 32, 32), 10), (3, 32, 32), 128, "sgd"),
}


@dataclass(frozen=True)
class Variant:
    """One way to train: a call of `run` is one step of `replicates` replicates."""

    name: str
    replicates: int
    run: Callable[[], None]


def main() -> None:
    options = _options()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    print(
        f"{'net':9} {'backend':16} {'R':>3} {'replicate-steps/s':>18} {'times plain':>12} {'n':>3}"
    )
    for net in options.nets:
        variants = [_plain(TASKS[net], device)]
        for replicates in options.replicates:
            for how in options.backends:
                try:
                    variants.append(_stacked(TASKS[net], device, how, replicates))
                except ValueError as error:
                    print(f"{net:9} {how:16} {replicates:>3} not possible: {error}")
        _report(net, variants, _rounds(variants, device, options.rounds, options.seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*", default=list(TASKS), metavar=f"NET of {list(TASKS)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--replicates", type=_integers, default=[1, 5], metavar="R,R,...")
    parser.add_argument("--backends", type=_names, default=["auto"], metavar="NAME,NAME,...")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="per variant and round, about")
    options = parser.parse_args()
    if unknown := sorted(set(options.nets) - set(TASKS)):
        parser.error(f"no nets {unknown}; there are {list(TASKS)}")
    if unknown := sorted(set(options.backends) - set(BACKENDS)):
        parser.error(f"no backends {unknown}; there are {list(BACKENDS)}")
    return options


def _integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _plain(task: Task, device: torch.device) -> Variant:
    torch.manual_seed(0)
    module = task.net().to(device)
    images, labels, order = _data(task, device, 1)
    cuda = device.type == "cuda"
    optimizer: torch.optim.Optimizer
    if task.optimizer == "adam":
        optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=True, capturable=cuda)
    else:
        optimizer = torch.optim.SGD(module.parameters(), 0.01, 0.9, fused=True)
    last = not cuda and any(isinstance(each, nn.Conv2d) for each in module.modules())

    def step() -> None:
        x = images[order[0]]
        if last:
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(x), labels[order[0]]).backward()
        optimizer.step()

    return Variant("plain loop", 1, graphed(step, device))


def _stacked(task: Task, device: torch.device, how: str, replicates: int) -> Variant:
    torch.manual_seed(0)
    stack = Stack(task.net(), replicates, device=device, backend=how)
    images, labels, order = _data(task, device, replicates)
    momentum = 0.9 if task.optimizer == "sgd" else 0.0
    optimizer = Optimizer(stack.weights, stack.grads, optimizer=task.optimizer, momentum=momentum)
    lr = torch.tensor(1e-3, device=device) if device.type == "cuda" else 1e-3

    def step() -> None:
        stack.loss(images[order], labels[order])
        optimizer.step(lr)

    return Variant(f"{how}: {stack.backend}", replicates, graphed(step, device))


def _data(task: Task, device: torch.device, replicates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and the positions `[R, B]` of a batch of each replicate."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *task.shape, generator=generator)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    order = torch.randint(0, IMAGES, (replicates, task.batch), generator=generator)
    return images.to(device), labels.to(device), order.to(device)


def _rounds(
    variants: Sequence[Variant], device: torch.device, rounds: int, seconds: float
) -> list[list[float]]:
    """Seconds per replicate-step of each variant in each round."""
    counts = [
        max(1, round(seconds / _time(each, device, 2) / each.replicates)) for each in variants
    ]
    return [
        [_time(each, device, count) for each, count in zip(variants, counts, strict=True)]
        for _ in range(rounds)
    ]


def _time(variant: Variant, device: torch.device, count: int) -> float:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        variant.run()
    if cuda:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / count / variant.replicates


def _report(net: str, variants: Sequence[Variant], rounds: list[list[float]]) -> None:
    for i, each in enumerate(variants):
        rate = median(1 / times[i] for times in rounds)
        ratio = median(times[0] / times[i] for times in rounds)
        print(
            f"{net:9} {each.name:16} {each.replicates:>3} {rate:18.1f} {ratio:12.2f} "
            f"{len(rounds):>3}",
            flush=True,
        )


if __name__ == "__main__":
    main()
