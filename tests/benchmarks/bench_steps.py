"""Where the time of a training goes: the parts of a step, and an evaluation, in CPU milliseconds.

    python tests/benchmarks/bench_steps.py fc --density 0.2 --rounds 9
    PYTHONPATH=OTHER_CHECKOUT python tests/benchmarks/bench_steps.py fc

The parts are those of a real training on synthetic images of MNIST's or CIFAR's shape, together and
one at a time. They run in turn, round by round, because the speed of machines drifts; the medians
are printed, per replicate. `products` are only the matrix products of a fully connected net, on
tensors that already exist: no step can be faster. `evaluation` scores 5,000 images; next to it is
its share of a training that evaluates every 100 steps, as in the papers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket, stack
from lt_sweeps.training.training_loop import TrainingLoop

GROUPS = ("model", "dataset", "method", "mask_criterion", "schedule", "recipe", "reset", "freeze")
ADAM = {"optimizer": "adam", "lr": 1.2e-3, "batch_size": 60}
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 128}
CONV4 = {"_target_": "lt_sweeps.models.Conv", "blocks": [[64, 64], [128, 128]]}
NETS: dict[str, tuple[dict[str, Any], list[int], dict[str, Any]]] = {
    "fc": ({"_target_": "lt_sweeps.models.FC"}, [1, 28, 28], ADAM),
    "conv4": (CONV4, [3, 32, 32], {**ADAM, "lr": 3e-4}),
    "resnet20": ({"_target_": "lt_sweeps.models.ResNet"}, [3, 32, 32], SGD),
}
Part = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*", default=["fc"], metavar=f"NET of {list(NETS)}")
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for net in options.nets:
        loop = training(net, options.replicates, options.density)
        timed = rounds(parts(loop, net), options.rounds, options.replicates)
        report(net, timed, options.rounds)


def training(net: str, replicates: int, density: float) -> TrainingLoop:
    """A training at its first step, under a random mask."""
    model, shape, recipe = NETS[net]
    cells = [_cell(model, shape, recipe, seed) for seed in range(replicates)]
    units = plan(cells).units[:replicates]
    store = Store(Path(tempfile.mkdtemp()))
    start = stack([ticket(unit.stage.start, unit.seed, store) for unit in units])
    loop = TrainingLoop(units, store, Machine(), moments=[frozenset()] * replicates)
    loop.start(_pruned(start, density))
    return loop


def parts(loop: TrainingLoop, net: str) -> dict[str, tuple[Part, int]]:
    """The parts to time, and the number of calls of each in a round."""
    update, batches, masking, step = loop.update(), loop.batches, loop.masking, iter(range(10**9))
    x, y = batches.take(batches.index(0))

    def validate() -> None:
        loop.scorer.validate(10**6 + next(step))

    few = 40 // loop.stack.replicates if net == "fc" else 1
    timed: dict[str, tuple[Part, int]] = {
        "step": (lambda: update(next(step)), few),
        "batch": (lambda: batches.take(batches.index(0)), few),
        "forward, backward": (lambda: loop.stack.loss(x, y), few),
        "mask, optimizer": (lambda: masking.step(1e-6), few),
        "optimizer": (lambda: masking.optimizer.step(1e-6), few),
        "check": (lambda: masking.check(0), few),
        "evaluation": (validate, 1),
    }
    return {"products": (products(loop), few), **timed} if net == "fc" else timed


def products(loop: TrainingLoop) -> Part:
    """The matrix products of a step of linear layers, forward and backward."""
    views, batch = loop.stack.views(loop.stack.weights.clone()), loop.recipe.batch_size
    weights = [view for name, view in views.items() if name.endswith("weight")]
    biases = [view[:, None] for name, view in views.items() if name.endswith("bias")]
    grads = [torch.empty_like(weight) for weight in weights]
    inputs = [torch.rand(len(w), batch, w.shape[2]) for w in weights]
    ahead = [torch.randn(len(w), batch, w.shape[1]) for w in weights]

    @torch.no_grad()
    def run() -> None:
        for x, weight, bias in zip(inputs, weights, biases, strict=True):
            torch.baddbmm(bias, x, weight.mT)
        for i in reversed(range(len(weights))):
            torch.bmm(ahead[i].mT, inputs[i], out=grads[i])
            if i:
                torch.bmm(ahead[i], weights[i])

    return run


def rounds(
    timed: dict[str, tuple[Part, int]], count: int, replicates: int
) -> dict[str, list[float]]:
    """Measure the CPU milliseconds per replicate of each part, in each round."""
    took: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(count):
        for name, (part, repeats) in timed.items():
            if repeats > 1:
                part()  # refills the cache that the previous part has emptied
            start = time.process_time()
            for _ in range(repeats):
                part()
            took[name].append(1e3 * (time.process_time() - start) / repeats / replicates)
    return took


def report(net: str, took: dict[str, list[float]], count: int) -> None:
    for name, times in took.items():
        whole = zip(times, took["step"], strict=True)
        note = f"{median(t / step for t, step in whole):8.1%} of a step"
        if name == "evaluation":
            hundred = zip(times, took["step"], strict=True)
            note = f"{median(t / step / 100 for t, step in hundred):8.1%} of 100 steps"
        print(f"{net:9} {name:18} {median(times):9.3f} ms {note}   n={count}", flush=True)


def _cell(model: dict[str, Any], shape: list[int], recipe: dict[str, Any], seed: int) -> Cell:
    made = {
        "model": {"net": model},
        "dataset": {
            "_target_": "lt_sweeps.data.synthetic",
            "shape": shape,
            "train": 20_000,
            "validation": 5_000,
            "test": 10,
        },
        "method": {"_target_": "lt_sweeps.plan.methods.dense"},
        "mask_criterion": {"_target_": "lt_sweeps.sparsity.criteria.large_final"},
        "schedule": {"_target_": "lt_sweeps.sparsity.schedules.geometric", "levels": 0},
        "recipe": {"_target_": "lt_sweeps.config.recipes.recipe", "length": "99ep", **recipe},
        "reset": {"_target_": "lt_sweeps.sparsity.resets.rewind"},
        "freeze": {"_target_": "lt_sweeps.sparsity.freezes.zero"},
        "seed": seed,
        "seeds": {},
        "report_at": "best",
        "data_dir": "data",
    }
    return Cell(Config(made), {group: group for group in GROUPS}, ())


def _pruned(start: Ticket, density: float) -> Ticket:
    generator = torch.Generator().manual_seed(0)
    for name, mask in start.mask.items():
        mask.copy_(torch.rand(mask.shape, generator=generator) < density)
        start.state[name].mul_(mask)
    return start


if __name__ == "__main__":
    main()
