"""The speed of stacks on a GPU, compared with the limits of the device and with plain loops.

    python tests/benchmarks/gpu_table.py --device cuda --out gpu_results --limit 240
    python tests/benchmarks/gpu_table.py --device cpu --size tiny        # a rehearsal

It measures the memory bandwidth and the rate of products of the device, then for each net and
precision:

`plain`     the best captured loop of one `nn.Module`, written by hand: data on the device, a fused
            optimizer, the mask multiplied onto the weights, channels_last or not
`ours`      `TrainingLoop`, as a sweep runs it, at 80 % sparsity, R = 1, 5, 15 and 45, with each
            backend from which a sweep chooses the fastest
`beside`    the same with 15 replicates of a convolutional net, by kernels that may give other bytes
            each time (`deterministic=false`)
`update`    only mask, optimizer and pin, for one kept density, in plain kernels and in one kernel
            (`kept_update`) that reads all weights or skips the pruned ones (`fixed_mask._FEW`)
`open_lth`  the training loop of open_lth, if `--open-lth` names its folder

A floor is the longer of two times: the transfer of the bytes that a step cannot avoid (weights,
gradients and moments of all replicates) at the measured bandwidth, and its products at the measured
rate. Activations are not counted. `host` is the time that Python takes to start a step: if it
equals the time of the step, the device waits. `results.json` and `table.md` are written after every
row; `--add` keeps the rows of other nets, so that each net can have its own process.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_sweeps.config import keys
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import stack
from lt_sweeps.training.backends.backend import timed_backends
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import BufferLayout
from lt_sweeps.training.training_loop import TrainingLoop

SPARSITY = 0.8
_BESIDE = 15  # replicates with which the other backends are measured
PRECISIONS: tuple[str, ...] = getattr(keys, "PRECISIONS", ("float32",))


@dataclass(frozen=True)
class Net:
    """A net with its images and recipe, as configs."""

    net: dict[str, Any]
    shape: tuple[int, int, int]
    batch: int = 60
    optimizer: str = "adam"


MODELS = "lt_sweeps.models."
FULL = {
    "fc": Net({"_target_": MODELS + "FC"}, (1, 28, 28)),
    "conv4": Net(
        {"_target_": MODELS + "Conv", "blocks": [[64, 64], [128, 128]], "hidden": [256, 256]},
        (3, 32, 32),
    ),
    "resnet20": Net({"_target_": MODELS + "ResNet", "depth": 20}, (3, 32, 32), 128, "sgd"),
}
TINY = {
    "fc": Net({"_target_": MODELS + "FC", "hidden": [12, 8]}, (1, 8, 8), 8),
    "conv4": Net({"_target_": MODELS + "Conv", "blocks": [[4, 4]], "hidden": [8, 8]}, (3, 8, 8), 8),
    "resnet20": Net({"_target_": MODELS + "ResNet", "depth": 8, "width": 8}, (3, 8, 8), 8, "sgd"),
}


@dataclass
class Row:
    """One way to train one net: milliseconds of a step of all its replicates."""

    net: str
    way: str
    precision: str
    replicates: int
    milliseconds: float
    floor: float | None = None  # milliseconds
    times_plain: float | None = None  # replicate-steps per second, against `plain`
    memory: float | None = None  # GiB
    ready: float | None = None  # seconds before the first step: building, warming up, capturing
    host: float | None = None  # milliseconds until a step is started, which then runs by itself

    @property
    def rate(self) -> float:
        return self.replicates / self.milliseconds * 1000


@dataclass
class Bench:
    """The settings of this run, and what it has measured so far."""

    device: torch.device
    tiny: bool
    deadline: float
    out: Path
    scratch: Path
    machine: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # backends that cannot compute a net

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.deadline - time.monotonic()

    @contextmanager
    def part(self, name: str, *, may_fail: bool = False) -> Iterator[None]:
        """Run a part of the benchmark; if it fails, print the error and continue."""
        try:
            yield
        except Exception as error:  # any error: the other parts still run
            reason = f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}"
            (self.left_out if may_fail else self.failures).append(reason)
            print("left out:" if may_fail else "failed:", reason, flush=True)
            traceback.print_exc(limit=-3, file=sys.stdout)
        finally:
            self.write()
            gc.collect()
            if self.cuda:
                with suppress(RuntimeError):  # it is refused after a capture that has failed
                    torch.cuda.empty_cache()

    def write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": self.machine,
            "peaks": self.peaks,
            "rows": [{**asdict(row), "rate": row.rate} for row in self.rows],
            "failures": self.failures,
            "left_out": self.left_out,
        }
        for name, text in {
            "results.json": json.dumps(content, indent=1),
            "table.md": table(self),
        }.items():
            whole = self.out / f".{name}"  # a process that is killed here leaves the last one
            whole.write_text(text)
            whole.replace(self.out / name)

    def go_on(self, nets: list[str]) -> None:
        """Read the rows that another process has written, except those of these nets."""
        file = self.out / "results.json"
        content = json.loads(file.read_text()) if file.exists() else {}
        self.peaks, self.failures = content.get("peaks", {}), content.get("failures", [])
        self.left_out = content.get("left_out", [])
        rows = [row for row in content.get("rows", []) if row["net"] not in nets]
        self.rows = [Row(**{k: v for k, v in row.items() if k != "rate"}) for row in rows]

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(line(row), flush=True)


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # a step that is not captured
    # Read at the first product of a process, and here plain products come before ours.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    deadline = time.monotonic() + options.limit
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(device, options.size == "tiny", deadline, options.out, Path(scratch))
        if options.add:
            bench.go_on(options.nets)
        before = len(bench.failures)
        _measure_all(bench, options)
    bench.write()
    rows = sum(row.net in options.nets for row in bench.rows)
    failures = len(bench.failures) - before
    print(f"{rows} rows in {options.out}, {failures} failures")
    return 0 if rows and not failures else 1


def _measure_all(bench: Bench, options: argparse.Namespace) -> None:
    device = bench.device
    with bench.part("machine"):
        bench.machine = machine(device)
        print(json.dumps(bench.machine), flush=True)
    with bench.part("peaks"):
        bench.peaks = bench.peaks or peaks(bench)
        print({name: round(value, 4) for name, value in bench.peaks.items()}, flush=True)
    print(HEADER, flush=True)
    if options.open_lth:
        with bench.part("open_lth"):
            bench.add(open_lth(bench, options.open_lth))
    for name in options.nets:
        net = (TINY if bench.tiny else FULL)[name]
        for precision in options.precisions:
            if bench.cuda or precision != "tf32":
                _measure(bench, name, net, precision, options.replicates)
        if options.replicates:
            _measure_beside(bench, name, net, options.precisions, options.replicates)
            with bench.part(f"{name} updates"):
                updates(bench, name, net, max(options.replicates))
    if options.replicates:
        with bench.part("picture"):
            draw_scaling(bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--nets", nargs="*", default=list(FULL), choices=list(FULL))
    sizes = "sizes of our stacks; none: the plain loops alone, and no picture"
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--replicates", type=int, nargs="*", default=None, help=sizes)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--open-lth", type=Path, help="a clone of open_lth")
    parser.add_argument("--add", action="store_true", help="keep the rows of other nets")
    parser.add_argument("--limit", type=float, default=240, help="seconds in all")
    options = parser.parse_args()
    if options.replicates is None:
        options.replicates = [1, 2] if options.size == "tiny" else [1, 5, 15, 45]
    return options


def machine(device: torch.device) -> dict[str, str]:
    about = {"python": sys.version.split()[0], "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        about |= {
            "gpu": torch.cuda.get_device_name(device),
            "memory": f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free",
            "cuda": str(torch.version.cuda),
        }
    return about


def peaks(bench: Bench) -> dict[str, float]:
    """Measure GB/s of a copy, TFLOP/s of a product by precision, microseconds per graph node."""
    size, side = (2**20, 128) if bench.tiny else (2**30, 8192)
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    measured = {"bandwidth": 2 * size / seconds(bench, lambda: target.copy_(source)) / 1e9}
    for precision in PRECISIONS:
        with arithmetic(bench, precision) as autocast, autocast:
            # On zeros a product takes less time than on numbers.
            a, b = torch.randn(2, side, side, device=bench.device)
            if precision == "bf16":
                a, b = a.bfloat16(), b.bfloat16()
            taken = seconds(bench, lambda a=a, b=b: a @ b)
            measured[f"products {precision}"] = 2 * side**3 / taken / 1e12
    small = torch.zeros(8, device=bench.device)

    def many() -> None:
        for _ in range(100):
            small.add_(1)

    measured["node"] = seconds(bench, captured(bench, many)) / 100 * 1e6
    return measured


def seconds(
    bench: Bench, step: Callable[[], object], spend: float = 0.15, rounds: int = 5
) -> float:
    """The seconds of one call: the median over rounds of many calls."""
    if bench.tiny:
        spend, rounds = 0.002, 2

    def timed(count: int) -> float:
        _wait(bench)
        start = time.perf_counter()
        for _ in range(count):
            step()
        _wait(bench)
        return (time.perf_counter() - start) / count

    for _ in range(3):
        step()
    count = max(1, min(5000, round(spend / max(timed(1), 1e-7))))
    return median(timed(count) for _ in range(rounds))


def _wait(bench: Bench) -> None:
    if bench.cuda:
        torch.cuda.synchronize(bench.device)


@contextmanager
def arithmetic(bench: Bench, precision: str) -> Iterator[AbstractContextManager[object]]:
    """Set a precision in plain torch, and return the context for a forward pass."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        bf16 = torch.autocast(bench.device.type, torch.bfloat16, cache_enabled=False)
        yield bf16 if precision == "bf16" else nullcontext()
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _measure(bench: Bench, name: str, net: Net, precision: str, replicates: list[int]) -> None:
    plain: Row | None = None
    flops = weights = 0
    with bench.part(f"{name} {precision} plain"), arithmetic(bench, precision) as autocast:
        rows: list[Row] = []
        for last in (False, True) if name != "fc" else (False,):
            began = time.perf_counter()
            step, flops, weights = plain_step(bench, net, autocast, channels_last=last)
            step = captured(bench, step)
            ready = time.perf_counter() - began
            way = "plain, channels_last" if last else "plain"
            rows.append(Row(name, way, precision, 1, 1e3 * seconds(bench, step), ready=ready))
        best = plain = min(rows, key=lambda row: row.milliseconds)
        best.floor = floor(bench, net, precision, flops, weights)
        bench.add(best)
    for count, backend in product(replicates, _backends(net) or ("auto",)):
        if bench.left() < 5:
            print(f"{name} {precision} R={count} {backend}: no time left", flush=True)
            return
        with bench.part(f"{name} {precision} R={count}"), arithmetic(bench, precision):
            row = our_row(bench, name, net, precision, count, backend)
            if flops:
                row.floor = count * floor(bench, net, precision, flops, weights)
            if plain:
                row.times_plain = row.rate / plain.rate
            bench.add(row)


def _backends(net: Net) -> tuple[str, ...]:
    """The backends that a sweep on a GPU would time; empty if it chooses one by a rule."""
    module = plan([cell(net, "float32", 0)]).units[0].stage.network.module()
    return timed_backends(module, torch.device("cuda"))


def _measure_beside(
    bench: Bench, name: str, net: Net, precisions: list[str], replicates: list[int]
) -> None:
    """Rows for the same steps by kernels that may give other bytes each time."""
    count = max((n for n in replicates if n <= _BESIDE), default=0)
    for precision, backend in product(
        dict.fromkeys((precisions[0], precisions[-1])), _backends(net)
    ):
        if not count or bench.left() < 5:
            return
        part = bench.part(f"{name} {precision} {backend}, free", may_fail=True)
        with part, arithmetic(bench, precision):
            row = our_row(bench, name, net, precision, count, backend, deterministic=False)
            row.way = f"beside, {backend}, free"
            bench.add(row)


def our_row(
    bench: Bench,
    name: str,
    net: Net,
    precision: str,
    replicates: int,
    backend: str = "auto",
    deterministic: bool = True,
) -> Row:
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    began = time.perf_counter()
    machine = Machine(device=str(bench.device), backend=backend, deterministic=deterministic)
    backend, step = our_step(bench, net, precision, replicates, machine)
    step()
    _wait(bench)
    ready = time.perf_counter() - began
    taken, host = 1e3 * seconds(bench, step), 1e3 * _issued(bench, step)
    memory = torch.cuda.max_memory_allocated(bench.device) / 2**30 if bench.cuda else None
    way = f"ours, {backend}"
    return Row(name, way, precision, replicates, taken, memory=memory, ready=ready, host=host)


def _issued(bench: Bench, step: Callable[[], object]) -> float:
    """The seconds to start a step, over so few steps that a GPU's queue holds them all."""
    count = 1 if bench.tiny else 20
    _wait(bench)
    start = time.perf_counter()
    for _ in range(count):
        step()
    taken = (time.perf_counter() - start) / count
    _wait(bench)
    return taken


def updates(bench: Bench, name: str, net: Net, replicates: int) -> None:
    """Rows for the update alone, by plain kernels and by one kernel, at some mask densities."""
    stage = plan([cell(net, "float32", 0)]).units[0].stage
    size = BufferLayout.of(stage.network.module()).size
    weights = torch.zeros(replicates, size, device=bench.device)
    grads = torch.randn_like(weights)
    rate = torch.full((), 1e-6, device=bench.device)
    momentum = 0.9 if net.optimizer == "sgd" else 0.0
    for density in (0.5, 0.2, 0.05):
        mask = (torch.rand_like(weights) < density).float()
        weights.mul_(mask)
        optimizer = Optimizer(weights, grads, optimizer=net.optimizer, momentum=momentum)

        def plain(mask: Tensor = mask, optimizer: Optimizer = optimizer) -> None:
            grads.mul_(mask)
            optimizer.step(rate)

        ways: dict[str, Callable[[], None]] = {"plain": plain}
        if bench.cuda:
            from lt_sweeps.training.kept_update import update_kept  # triton is on Linux alone

            one = partial(update_kept, optimizer, weights, grads, mask.to(torch.uint8), rate)
            ways["one kernel"] = partial(one, skips=False)
            ways["one kernel, skips"] = partial(one, skips=True)
        for way, update in ways.items():
            taken = 1e3 * seconds(bench, captured(bench, update))
            said = f"update {density:g}, {way}"
            bench.add(Row(name, said, "float32", replicates, taken))


def floor(bench: Bench, net: Net, precision: str, flops: int, weights: int) -> float:
    """The milliseconds of a replicate's step that no code can avoid."""
    # Of each weight: read forward and backward, its gradient written and read, read and written by
    # the optimizer with each of its moments, and a byte of the mask.
    moments = 2 if net.optimizer == "adam" else 1
    size = weights * (4 + 4 + 8 + 8 + 8 * moments + 1)
    rate = bench.peaks.get(f"products {precision}", 0) * 1e12
    bandwidth = bench.peaks.get("bandwidth", 0) * 1e9
    if not rate or not bandwidth:
        return 0.0
    return 1e3 * max(size / bandwidth, flops / rate)


def plain_step(
    bench: Bench, net: Net, autocast: AbstractContextManager[object], *, channels_last: bool
) -> tuple[Callable[[], None], int, int]:
    """The step of one module, the operations of its products, and its number of weights."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    stage = plan([cell(net, "float32", 0)]).units[0].stage
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = stage.network.module("cpu").to(bench.device).to(memory_format=layout)
    weights = [p for p in module.parameters() if p.dim() > 1]
    masks = [(torch.rand_like(w) < 1 - SPARSITY).float() for w in weights]
    flat = [w.data for w in weights]
    images = torch.randn(2000, *net.shape, device=bench.device)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (2000,), device=bench.device)
    index = torch.randint(0, 2000, (net.batch,), device=bench.device)
    optimizer: torch.optim.Optimizer
    if net.optimizer == "adam":
        optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=True, capturable=bench.cuda)
    else:
        optimizer = torch.optim.SGD(module.parameters(), 0.01, 0.9, fused=True)

    def forward_and_backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            outputs = module(images[index].contiguous(memory_format=layout))
        F.cross_entropy(outputs.float(), labels[index]).backward()

    def step() -> None:
        forward_and_backward()
        optimizer.step()
        torch._foreach_mul_(flat, masks)  # pyright: ignore[reportPrivateImportUsage]

    with FlopCounterMode(display=False) as counter:
        forward_and_backward()
    return step, counter.get_total_flops(), sum(p.numel() for p in module.parameters())


def captured(bench: Bench, step: Callable[[], None]) -> Callable[[], object]:
    """A step as a replayed graph; on the CPU, the step itself."""
    if not bench.cuda:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def our_step(
    bench: Bench, net: Net, precision: str, replicates: int, machine: Machine
) -> tuple[str, Callable[[], None]]:
    """The update of a `TrainingLoop` with this many replicates, under a random mask."""
    units = plan([cell(net, precision, seed) for seed in range(replicates)]).units
    store = Store(bench.scratch)
    loop = TrainingLoop(units, store, machine, moments=[frozenset()] * replicates)
    start = stack([ticket(unit.stage.start, unit.seed, store) for unit in units])
    draws = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=draws) < 1 - SPARSITY for n, m in start.mask.items()}
    state = {n: t * mask[n] if n in mask else t for n, t in start.state.items()}
    loop.start(replace(start, state=state, mask=mask))
    update, now = loop.update(), iter(range(10**9))
    return loop.stack.backend, lambda: update(next(now))


def cell(net: Net, precision: str, seed: int) -> Cell:
    """A dense training of a net on random images."""
    sgd = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9}
    adam = {"optimizer": "adam", "lr": 1e-3}
    config: dict[str, Any] = {
        "model": {"net": net.net},
        "dataset": {
            "_target_": "lt_sweeps.data.synthetic",
            "shape": list(net.shape),
            "train": 100 * net.batch,  # as often an epoch's order is drawn as on 6,000 images
            "validation": 100,
            "test": 100,
        },
        "method": {"_target_": "lt_sweeps.plan.methods.dense"},
        "mask_criterion": {"_target_": "lt_sweeps.sparsity.criteria.large_final"},
        "schedule": {"_target_": "lt_sweeps.sparsity.schedules.geometric", "levels": 1},
        "recipe": {
            "_target_": "lt_sweeps.config.recipes.recipe",
            **(adam if net.optimizer == "adam" else sgd),
            "batch_size": net.batch,
            "length": "1000000it",
        },
        "reset": {"_target_": "lt_sweeps.sparsity.resets.rewind"},
        "freeze": {"_target_": "lt_sweeps.sparsity.freezes.zero"},
        "seed": seed,
        "seeds": {},
        "report_at": "best",
        "data_dir": "unused",
    }
    if hasattr(keys, "PRECISIONS"):
        config["precision"] = precision
    return Cell(Config(config), {group: group for group in keys.GROUPS}, ())


def open_lth(bench: Bench, folder: Path) -> Row:
    """The training loop of open_lth on its LeNet, with its loader and MNIST of random pixels."""
    sys.path.insert(0, str(folder.resolve()))
    import datasets.mnist  # pyright: ignore[reportMissingImports]
    import models.registry  # pyright: ignore[reportMissingImports]
    import platforms.local  # pyright: ignore[reportMissingImports]
    import platforms.platform  # pyright: ignore[reportMissingImports]
    from foundations.step import Step  # pyright: ignore[reportMissingImports]
    from models.mnist_lenet import Model  # pyright: ignore[reportMissingImports]
    from pruning.mask import Mask  # pyright: ignore[reportMissingImports]
    from pruning.pruned_model import PrunedModel  # pyright: ignore[reportMissingImports]
    from training import train  # pyright: ignore

    platforms.platform._PLATFORM = platforms.local.Platform(num_workers=0)
    asked = Model.default_hparams()
    asked.dataset_hparams.batch_size = 60
    asked.training_hparams.optimizer_name, asked.training_hparams.lr = "adam", 1.2e-3
    module = models.registry.get(asked.model_hparams, outputs=10)
    model = PrunedModel(module, Mask.ones_like(module))
    images = torch.randint(0, 256, (6000, 28, 28), dtype=torch.uint8)
    data = datasets.mnist.Dataset(images, torch.randint(0, 10, (6000,)))
    loader = datasets.mnist.DataLoader(data, batch_size=60, num_workers=0)
    times: list[float] = []

    def note(*_: object) -> None:
        _wait(bench)
        times.append(time.perf_counter())

    steps = Step.from_iteration(20 if bench.tiny else 300, 100)
    train.train(asked.training_hparams, model, loader, str(bench.scratch), [note], end_step=steps)
    gaps = [1e3 * (after - before) for before, after in pairwise(times[5:])]
    return Row("fc", "open_lth", "torch's own", 1, median(gaps))


HEADER = (
    f"{'net':9} {'way':22} {'precision':11} {'R':>3} {'ms':>9} {'rep.-steps/s':>13} "
    f"{'x plain':>8} {'x floor':>8} {'host ms':>8} {'GiB':>6} {'ready s':>8}"
)


def line(row: Row) -> str:
    over = row.milliseconds / row.floor if row.floor else None
    return (
        f"{row.net:9} {row.way:22} {row.precision:11} {row.replicates:>3} {row.milliseconds:9.4f} "
        f"{row.rate:13.1f} {_number(row.times_plain):>8} {_number(over):>8} "
        f"{_number(row.host, 3):>8} {_number(row.memory):>6} {_number(row.ready):>8}"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(bench: Bench) -> str:
    peaks = [f"- {name}: {value:.4g}" for name, value in bench.peaks.items()]
    about = [f"- {name}: {value}" for name, value in bench.machine.items()]
    failures = [f"- failed: {failure}" for failure in bench.failures]
    failures += [f"- left out: {reason}" for reason in bench.left_out]
    rows = ["```text", HEADER, *map(line, bench.rows), "```"]
    units = "Peaks: bandwidth in GB/s (read and written), products in TFLOP/s, a node in us."
    return "\n".join([*about, "", units, *peaks, "", *rows, "", *failures]) + "\n"


def draw_scaling(bench: Bench) -> None:
    """Replicate-steps per second over the size of the stack: `scaling.png`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    nets = list(dict.fromkeys(row.net for row in bench.rows if row.way.startswith("ours")))
    if not nets:
        raise ValueError("no stack was measured")
    figure, axes = pyplot.subplots(1, len(nets), figsize=(4 * len(nets), 3.4), squeeze=False)
    for panel, net in zip(axes[0], nets, strict=True):
        for precision in PRECISIONS:
            here = [r for r in bench.rows if r.net == net and r.precision == precision]
            best = dict[int, Row]()
            for row in sorted(here, key=lambda row: row.rate):
                if row.way.startswith("ours"):
                    best[row.replicates] = row
            ours = [row for _, row in sorted(best.items())]
            (drawn,) = panel.plot(
                [r.replicates for r in ours], [r.rate for r in ours], marker="o", label=precision
            )
            for row in here:
                if row.way.startswith("plain"):
                    panel.axhline(row.rate, color=drawn.get_color(), linestyle="--", linewidth=1)
        panel.set(xscale="log", yscale="log", title=net, xlabel="replicates in a stack")
    axes[0][0].set_ylabel("replicate-steps per second")
    axes[0][0].legend(title="dashed: one plain module")
    figure.tight_layout()
    figure.savefig(bench.out / "scaling.png", dpi=120)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
