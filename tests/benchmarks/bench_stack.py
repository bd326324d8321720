"""Replicate-steps per second of every backend against a plain loop that trains one module.

    python tests/benchmarks/bench_stack.py fc conv4 --replicates 1,5 --backends auto,vmap
    python tests/benchmarks/bench_stack.py conv4 resnet20 --precisions float32,bf16 --products \
        --open-lth ~/open_lth
    python tests/benchmarks/bench_stack.py --device cuda --replicates 1,5,15,45

(Put `PYTHONPATH=.` before it if the package is not installed.)

The plain loop is the best ordinary one: data in memory, a fused optimizer, channels_last if that is
faster, and on CUDA the whole step in one graph. All variants draw a batch, compute the gradients
and update; they run in turn, round by round, because the speed of machines drifts. `times plain` is
the speed of a replicate's step relative to a plain step of the same round, as a median over rounds:
at 1.00 five stacked replicates take as long as five runs one after another. On a CPU, time is the
CPU seconds of one thread.

`--products` adds the limit: only the products and convolutions of a step, forward and backward (for
weights and inputs), on data with the same memory layout. `--open-lth` adds the loop of a clone of
open_lth, with its loader (without augmentation), mask, optimizer and ResNet, in its own process.
`--picture` draws `times plain` over the replicates.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.config.keys import PRECISIONS
from lt_sweeps.models import FC, Conv, ResNet
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.backends.backend import BACKENDS
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import Stack

IMAGES = 2000


@dataclass(frozen=True)
class Task:
    """A net, its images, its batch size and its optimizer."""

    net: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int = 60
    optimizer: str = "adam"
    blocks: tuple[tuple[int, int], ...] = ()  # of the convolutions before linear layers


FOUR = ((64, 64), (128, 128))
TASKS = {
    "digits": Task(lambda: FC((1, 8, 8), 10), (1, 8, 8)),
    "fc": Task(lambda: FC((1, 28, 28), 10), (1, 28, 28)),
    "conv4": Task(lambda: Conv((3, 32, 32), 10, blocks=FOUR), (3, 32, 32), blocks=FOUR),
    "resnet20": Task(lambda: ResNet((3, 32, 32), 10), (3, 32, 32), 128, "sgd"),
}


@dataclass(frozen=True)
class Variant:
    """One way to train; a call of `run` is one step of `replicates` replicates."""

    name: str
    replicates: int
    run: Callable[[], None]
    elsewhere: Connection | None = None  # another process, which runs it and says how long it took


def main() -> None:
    options = _options()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    print(
        f"{'net':9} {'backend':16} {'R':>3} {'replicate-steps/s':>18} {'times plain':>12} {'n':>3}"
    )
    drawn: dict[str, list[tuple[int, float]]] = {}
    for net in options.nets:
        task, variants = TASKS[net], [_plain(TASKS[net], device)]
        if options.products:
            variants += [_products(task, device, precision) for precision in options.precisions]
        if options.open_lth:
            variants.append(_in_a_process(net, options.open_lth))
        for replicates, how, precision in product(
            options.replicates, options.backends, options.precisions
        ):
            try:
                variants.append(_stacked(task, device, how, replicates, precision))
            except ValueError as error:
                print(f"{net:9} {how:16} {replicates:>3} not possible: {error}")
        rounds = _rounds(variants, device, options.rounds, options.seconds)
        _report(net, variants, rounds)
        for i, each in enumerate(variants[1:], 1):
            ratio = median(times[0] / times[i] for times in rounds)
            drawn.setdefault(f"{net}, {each.name}", []).append((each.replicates, ratio))
    if options.picture:
        _draw(drawn, options.picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*", default=list(TASKS), metavar=f"NET of {list(TASKS)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--replicates", type=_integers, default=[1, 5], metavar="R,R,...")
    parser.add_argument("--backends", type=_names, default=["auto"], metavar="NAME,NAME,...")
    parser.add_argument("--precisions", type=_names, default=["float32"], metavar="NAME,...")
    parser.add_argument("--products", action="store_true", help="the limit, too")
    parser.add_argument("--open-lth", type=Path, metavar="DIR", help="a clone, too")
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="per variant and round, about")
    options = parser.parse_args()
    if unknown := sorted(set(options.nets) - set(TASKS)):
        parser.error(f"no nets {unknown}; there are {list(TASKS)}")
    if unknown := sorted(set(options.backends) - set(BACKENDS)):
        parser.error(f"no backends {unknown}; there are {list(BACKENDS)}")
    if unknown := sorted(set(options.precisions) - set(PRECISIONS)):
        parser.error(f"no precisions {unknown}; there are {list(PRECISIONS)}")
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


def _stacked(
    task: Task, device: torch.device, how: str, replicates: int, precision: Any
) -> Variant:
    torch.manual_seed(0)
    arithmetic = Arithmetic(precision)
    stack = Stack(task.net(), replicates, device=device, backend=how, arithmetic=arithmetic)
    images, labels, order = _data(task, device, replicates)
    momentum = 0.9 if task.optimizer == "sgd" else 0.0
    optimizer = Optimizer(stack.weights, stack.grads, optimizer=task.optimizer, momentum=momentum)
    lr = torch.tensor(1e-3, device=device) if device.type == "cuda" else 1e-3

    def step() -> None:
        stack.loss(images[order], labels[order])
        optimizer.step(lr)

    name = f"{stack.backend} {precision}" if precision != "float32" else f"{how}: {stack.backend}"
    return Variant(name, replicates, graphed(step, device))


def _products(task: Task, device: torch.device, precision: Any) -> Variant:
    """Only the products and convolutions of a step: forward, and backward to weights and inputs."""
    calls: list[tuple[nn.Linear | nn.Conv2d, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        calls.append((layer, inputs[0].detach(), output.detach()))

    module = task.net().to(device)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(note)
    images, _, order = _data(task, device, 1)
    module(images[order[0]].contiguous(memory_format=torch.channels_last))
    arithmetic = Arithmetic(precision)
    dtype = arithmetic.dtype(torch.float32)
    runs = [_product(*call, first=n == 0, dtype=dtype) for n, call in enumerate(calls)]

    @torch.no_grad()
    def step() -> None:
        with arithmetic.set(device):
            for run in runs:
                run()

    return Variant(f"limit {precision}", 1, graphed(step, device))


def _product(
    layer: nn.Linear | nn.Conv2d, x: Tensor, y: Tensor, *, first: bool, dtype: torch.dtype
) -> Callable[[], object]:
    x, grad, w = x.to(dtype), torch.randn_like(y).to(dtype), layer.weight.detach().to(dtype)
    if isinstance(layer, nn.Linear):
        return lambda: (x @ w.mT, grad.mT @ x, None if first else grad @ w)
    stride, padding, ones = layer.stride, layer.padding, (1, 1)
    back = torch.ops.aten.convolution_backward
    rest = (None, stride, padding, ones, False, (0, 0), 1, [not first, True, False])
    return lambda: (F.conv2d(x, w, None, stride, padding), back(grad, x, w, *rest))


def _in_a_process(net: str, clone: Path) -> Variant:
    """Run open_lth in its own process, where our settings cannot help it."""
    here, there = get_context("spawn").Pipe()
    get_context("spawn").Process(target=_serve, args=(net, clone, there), daemon=True).start()
    return Variant("open_lth", 1, lambda: None, here)


def _serve(net: str, clone: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    peer = _open_lth(TASKS[net], clone)
    with suppress(EOFError):  # the other end is closed when all is measured
        while True:
            pipe.send(_time(peer, torch.device("cpu"), pipe.recv()))


def _their_net(task: Task, registry: Any, hparams: Any) -> nn.Module:
    """open_lth's ResNet-20, or another net written as open_lth writes networks."""
    if task is TASKS["resnet20"]:
        chosen = hparams.ModelHparams("cifar_resnet_20", "kaiming_normal", "uniform")
        return registry.get(chosen, outputs=10)
    layers: list[nn.Module] = []
    widths, pixels = [task.shape[0]], task.shape[1] * task.shape[2]
    for block in task.blocks:
        for width in block:
            layers += [nn.Conv2d(widths[-1], width, 3, padding=1), nn.ReLU()]
            widths.append(width)
        layers.append(nn.MaxPool2d(2))
        pixels //= 4
    sizes = [widths[-1] * pixels, *((256, 256) if task.blocks else (300, 100))]
    for size, width in pairwise(sizes):
        layers += [nn.Linear(size, width), nn.ReLU()]
    net = nn.Sequential(
        *layers[: 5 * len(task.blocks)], nn.Flatten(), *layers[5 * len(task.blocks) :]
    )
    return net.append(nn.Linear(sizes[-1], 10))


def _open_lth(task: Task, clone: Path) -> Variant:
    """The loop of open_lth: its loader on images of bytes, its mask, its optimizer."""
    sys.path.insert(0, str(clone))
    import models.registry  # pyright: ignore
    import numpy as np
    from datasets import base, cifar10, mnist  # pyright: ignore
    from foundations import hparams  # pyright: ignore
    from platforms import local, platform  # pyright: ignore
    from pruning.mask import Mask  # pyright: ignore
    from pruning.pruned_model import PrunedModel  # pyright: ignore
    from training import optimizers  # pyright: ignore

    platform._PLATFORM = local.Platform()
    torch.manual_seed(0)
    module: Any = _their_net(task, models.registry, hparams)
    if isinstance(module, nn.Sequential):  # as their base class has it
        named = module.named_modules()
        weighted = [n for n, part in named if isinstance(part, (nn.Conv2d, nn.Linear))]
        module.__dict__["prunable_layer_names"] = [f"{name}.weight" for name in weighted]
        module.__dict__["loss_criterion"] = nn.CrossEntropyLoss()
    channels, *size = task.shape
    pixels = np.random.RandomState(0).randint(0, 256, (IMAGES, *size, channels), dtype=np.uint8)
    labels = np.random.RandomState(1).randint(0, 10, IMAGES)
    if channels == 1:
        images = mnist.Dataset(torch.from_numpy(pixels[..., 0]), labels)
    else:
        images = cifar10.Dataset(pixels, labels)
    loader = base.DataLoader(images, task.batch, 0)
    loader.shuffle(0)
    model = PrunedModel(module, Mask.ones_like(module))
    chosen = hparams.TrainingHparams(
        optimizer_name=task.optimizer,
        momentum=0.9 if task.optimizer == "sgd" else 0.0,
        lr=1e-3,
        training_steps="1ep",
    )
    optimizer = optimizers.get_optimizer(chosen, model)
    schedule = optimizers.get_lr_schedule(chosen, optimizer, loader.iterations_per_epoch)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    ahead = batches()

    def step() -> None:
        examples, labels = next(ahead)
        optimizer.zero_grad()
        model.train()
        model.loss_criterion(model(examples), labels).backward()
        optimizer.step()
        schedule.step()

    return Variant("open_lth", 1, step)


def _data(task: Task, device: torch.device, replicates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and the positions `[R, B]` of each replicate's batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *task.shape, generator=generator)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    order = torch.randint(0, IMAGES, (replicates, task.batch), generator=generator)
    return images.to(device), labels.to(device), order.to(device)


def _rounds(
    variants: Sequence[Variant], device: torch.device, rounds: int, seconds: float
) -> list[list[float]]:
    """Measure the seconds per replicate-step of each variant, in each round."""
    counts = [
        max(1, round(seconds / _time(each, device, 2) / each.replicates)) for each in variants
    ]
    return [
        [_time(each, device, count) for each, count in zip(variants, counts, strict=True)]
        for _ in range(rounds)
    ]


def _time(variant: Variant, device: torch.device, count: int) -> float:
    if variant.elsewhere is not None:
        variant.elsewhere.send(count)
        return variant.elsewhere.recv()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    for _ in range(count):
        variant.run()
    if cuda:
        torch.cuda.synchronize(device)
    return (clock() - start) / count / variant.replicates


def _report(net: str, variants: Sequence[Variant], rounds: list[list[float]]) -> None:
    for i, each in enumerate(variants):
        rate = median(1 / times[i] for times in rounds)
        ratio = median(times[0] / times[i] for times in rounds)
        print(
            f"{net:9} {each.name:16} {each.replicates:>3} {rate:18.1f} {ratio:12.2f} "
            f"{len(rounds):>3}",
            flush=True,
        )


def _draw(lines: dict[str, list[tuple[int, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4))
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    sizes = sorted({size for points in lines.values() for size, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(sizes, map(str, sizes), minor=False)
    axes.minorticks_off()
    axes.set(
        xlabel="replicates in a stack", ylabel="speed of a replicate's step,\ntimes plain loop"
    )
    axes.set_ylim(0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
