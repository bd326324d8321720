"""Estimate how long a training takes and how many replicates fit into memory."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from lt_sweeps.data.batches import EVALUATE_BATCH
from lt_sweeps.models.network import Network
from lt_sweeps.plan.stages import Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.store import UnitCost
from lt_sweeps.storage.unit_costs import known_speeds

# First guesses, until this root has measurements: multiply-adds per second, seconds per step.
_RATE = {"cpu": 1.5e10, "cuda": 2e13}
_STEP = {"cpu": 4e-4, "cuda": 1e-4}


@dataclass(frozen=True)
class Shape:
    """One example's forward pass: its multiply-adds, and the numbers kept for the backward pass."""

    multiply_adds: int
    activations: int
    parameters: int


@functools.cache
def shape(network: Network, dtype: torch.dtype = torch.float32) -> Shape:
    """Count the operations of one example's forward pass; the weights are left uninitialised."""
    # Not on `meta`: its first forward pass imports three seconds of torch. Nor by `to_empty`, whose
    # `empty_like` of a tensor on `meta` imports sympy.
    module = network.module()._apply(_any_values).eval()
    counts = {"multiply_adds": 0, "activations": 0}

    def count(part: nn.Module, _: object, output: object) -> None:
        output = output[0] if isinstance(output, tuple) else output  # attention, recurrence
        if not isinstance(output, torch.Tensor):
            return
        places = output.numel() // output.shape[-1]
        weights = sum(p.numel() for name, p in part.named_parameters() if "weight" in name)
        if isinstance(part, nn.MultiheadAttention):  # its linear layer is not called as a module
            counts["activations"] += 4 * output.numel() + part.num_heads * places**2
            counts["multiply_adds"] += weights * places + 2 * places**2 * part.embed_dim
        elif not list(part.children()):
            counts["activations"] += output.numel()
            if isinstance(part, nn.Conv2d):
                places = output.shape[-1] * output.shape[-2]
                counts["multiply_adds"] += part.weight.numel() * places
            elif isinstance(part, nn.Linear | nn.RNNBase):
                counts["multiply_adds"] += weights * places

    for part in module.modules():
        part.register_forward_hook(count)
    with torch.no_grad():
        module(torch.zeros(1, *network.input_shape, dtype=dtype))
    return Shape(**counts, parameters=sum(p.numel() for p in module.parameters()))


def _any_values(tensor: Tensor) -> Tensor:
    """A CPU tensor like one on `meta`; integers are 0, because they may be indices."""
    if not tensor.is_meta:
        return tensor
    allocate = torch.empty if tensor.is_floating_point() else torch.zeros
    return allocate(tensor.shape, dtype=tensor.dtype)


def free_memory(device: str) -> int:
    """The number of free bytes on a device of this machine."""
    cuda = device.startswith("cuda")
    return torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available


def stack_size(stage: Work, *, memory: int) -> int:
    """The number of replicates that fit into half of `memory` (bytes)."""
    dataset = stage.training.task.dataset
    forward = shape(stage.network, dataset.input_dtype)
    # Weights, gradient, two moments, mask, pinned values, best weights, three temporaries, and as
    # much again for a learned mask; the activations of a training batch twice, or of an evaluation
    # batch; the images of all splits as bytes, unless they are too many to copy to a GPU.
    state = (20 if stage.sparsifier.learns else 10) * 4 * forward.parameters
    batch = 4 * forward.activations * max(2 * stage.training.recipe.batch_size, EVALUATE_BATCH)
    images = 3 * dataset.train_size * math.prod(dataset.input_shape)
    images = 0 if images > memory // 4 else images
    return max(1, min(256, int((memory // 2 - images) // (state + batch))))


def stack_sizes(units: Iterable[Unit], given: int | None, *, memory: int) -> dict[str, int]:
    """The largest stack size per stage key: as configured, or as many as fit in `memory`."""
    stages = {unit.stage.key: unit.stage for unit in units}
    return {key: given or stack_size(stage, memory=memory) for key, stage in stages.items()}


@dataclass(frozen=True)
class Speeds:
    """Replicate-steps per second and worker, measured under this root."""

    path: Path
    known: dict[str, float]

    @classmethod
    def of(cls, root: Path) -> Speeds:
        """Read the measurements; an unreadable file is ignored, since they only refine a guess."""
        return cls(root / "speeds.json", known_speeds(root))

    def seconds(self, stage: Work, replicates: int, device: str) -> tuple[float, bool]:
        """The estimated seconds of a stacked training, and whether they come from a measurement.

        `device` is `cpu`, the name of a GPU, or `cuda` for a GPU of another machine.
        """
        recipe, steps = stage.training.recipe, stage.length
        rate = self._rate(kind(stage), device)
        if rate is not None:
            return steps * replicates / rate, True
        name = "cpu" if device == "cpu" else "cuda"
        forward = shape(stage.network, stage.training.task.dataset.input_dtype)
        work = 3 * forward.multiply_adds * recipe.batch_size * replicates
        return steps * (work / _RATE[name] + _STEP[name]), False

    def _rate(self, kind: str, device: str) -> float | None:
        if device != "cuda":
            return self.known.get(f"{kind} {device}")
        on_gpus = [
            rate
            for name, rate in self.known.items()
            if name.startswith(f"{kind} ") and not name.endswith(" cpu")
        ]
        return min(on_gpus, default=None)

    def learn(self, stage: Work, cost: UnitCost) -> None:
        """Save how long a whole training took, including the time before each interruption."""
        if not cost.seconds or not stage.length:
            return
        rate, name = stage.length / cost.seconds, f"{kind(stage)} {cost.device}"
        self.known[name] = (self.known[name] + rate) / 2 if name in self.known else rate
        write_whole(self.path, json.dumps(self.known, indent=1, sort_keys=True).encode())


def kind(stage: Work) -> str:
    """The name under which the speed of similar trainings is saved."""
    recipe = stage.training.recipe
    return f"{stage.network.net} {stage.network.input_shape} b{recipe.batch_size}"
