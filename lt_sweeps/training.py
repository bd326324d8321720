"""Training: a stack of tickets through one recipe, from their step to its end.

The loop knows neither methods nor levels. It evaluates on the validation set, remembers each
replicate's best weights, saves the snapshots that somebody needs and a checkpoint now and then; at
the end it tests. A training resumed from a checkpoint ends with the bytes of one left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.batches import Batches
from lt_sweeps.course import Course
from lt_sweeps.evaluation import holding, measure
from lt_sweeps.optimizers import Optimizer
from lt_sweeps.recipes import Recipe
from lt_sweeps.seeds import Seed, draw
from lt_sweeps.stack import Stack, graphed
from lt_sweeps.stages import Moment, Train
from lt_sweeps.store import Store
from lt_sweeps.ticket import Ticket, remaining, sparsity

_TELL = 0.2  # seconds between reports of progress


@dataclass(frozen=True)
class Unit:
    """A stage for one seed: the smallest thing that is stored."""

    stage: Train
    seed: Seed


@dataclass(frozen=True)
class Machine:
    """Where and how to compute: nothing here changes what is computed."""

    device: str = "cpu"
    lowering: str = "auto"
    checkpoint_every: float = 60.0
    code_version: str = ""


class Interrupted(Exception):
    """The training was asked to stop; its checkpoint is saved."""


class Loop:
    """One stacked training. All units share the recipe, the task and the step they start from.

    Args:
        moments: the snapshots to save of each unit.
        progress: told the step now and then.
        stopped: asked before every step; True saves a checkpoint and ends with `Interrupted`.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        store: Store,
        machine: Machine,
        *,
        moments: Sequence[frozenset[Moment]],
        progress: Callable[[int], None] = lambda step: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        first = units[0].stage
        self.units, self.store, self.machine = units, store, machine
        self.moments, self.progress, self.stopped = moments, progress, stopped
        self.recipe, self.layers = first.training.recipe, first.network.layers
        self.device = torch.device(machine.device)
        self.stack = Stack(
            first.network.module(), len(units), device=self.device, lowering=machine.lowering
        )
        seeds, levels = [unit.seed for unit in units], [unit.stage.level for unit in units]
        dataset = first.training.task.dataset
        self.batches = Batches(dataset, self.recipe, seeds, levels, self.device)
        self.optimizer = _optimizer(self.stack, self.recipe)
        self.mask = torch.ones_like(self.stack.weights)
        self.pinned = torch.zeros_like(self.stack.weights)
        self.step, self.seconds = first.start.step, 0.0
        self.course = Course(self.stack, self.step)

    def start(self, ticket: Ticket) -> None:
        """Begin from a ticket of R replicates."""
        self.stack.load({name: t.to(self.device) for name, t in ticket.state.items()})
        self.mask = self.stack.flat({n: m.float() for n, m in ticket.mask.items()}, fill=1.0)
        torch.mul(self.stack.weights, 1 - self.mask, out=self.pinned)
        if ticket.optimizer:
            self.optimizer.load_state(self._flat(ticket.optimizer))
            self.optimizer.mask_(self.mask)
        self.course = Course(self.stack, self.step)
        self._snapshot("start", {})

    def run(self, until: int | None = None) -> None:
        """Train to the end of the recipe, or to `until` where only snapshots are missing.

        Raises:
            Interrupted: `stopped()` turned true; the checkpoint holds everything.
        """
        # Moments of weights that get no gradient decay through the denormal numbers, on which a
        # CPU is slow: the step of an FC net took 2.2 times as long (measured on MNIST).
        torch.set_flush_denormal(True)
        end = self.recipe.length if until is None else until
        update = self.update()
        clock = saved = told = time.monotonic()
        while True:
            self._snapshot(self.step, self.optimizer.tensors)
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.length:
                self.evaluate()
            if self.step >= end:
                break
            now = time.monotonic()
            if now - told >= _TELL:
                self.progress(self.step)
                told = now
            if (stop := self.stopped()) or now - saved >= self.machine.checkpoint_every:
                self.seconds, clock = self.seconds + now - clock, now
                self.save_checkpoint()
                saved = time.monotonic()
                if stop:
                    raise Interrupted(f"stopped at step {self.step}")
            update(self.step)
            self.step += 1
        if until is None:
            results = self.test()
            self.seconds += time.monotonic() - clock
            self._finish(results)
        for unit in self.units:
            self.store.drop_checkpoints(unit.stage.key, unit.seed)

    def update(self) -> Callable[[int], None]:
        """The update of one step; on a GPU a replayed graph, fed through two static tensors."""
        masked, held = bool((self.mask == 0).any()), bool((self.pinned != 0).any())
        stack, optimizer, losses = self.stack, self.optimizer, self.course.train_loss

        def body(index: Tensor, lr: float | Tensor, seeds: list[int] | None = None) -> None:
            losses.add_(stack.loss(*self.batches.take(index), seeds))
            if masked:
                stack.grads.mul_(self.mask)
            optimizer.step(lr)
            if held:
                torch.addcmul(self.pinned, stack.weights, self.mask, out=stack.weights)
                if self.recipe.weight_decay:  # it turns a pinned value into momentum
                    optimizer.mask_(self.mask)

        def eager(step: int) -> None:
            body(self.batches.index(step), self.recipe.lr_at(step), self._noise(step))

        if self.device.type != "cuda" or stack.stochastic:
            return eager
        return self._replayed(body)

    def _replayed(self, body: Callable[[Tensor, Tensor], None]) -> Callable[[int], None]:
        index = self.batches.index(0).clone()  # a full batch, which the step may not have
        rate = torch.zeros((), device=self.device)
        changed = [self.stack.weights, self.course.train_loss]
        changed += [*self.stack.buffers.values(), *self.optimizer.tensors.values()]
        replay = graphed(lambda: body(index, rate), self.device, restore=changed)

        def replayed(step: int) -> None:
            rate.fill_(self.recipe.lr_at(step))
            chosen = self.batches.index(step)
            if chosen.shape != index.shape:  # an epoch's last batch, where it is kept
                body(chosen, rate)
            else:
                index.copy_(chosen)
                replay()

        return replayed

    def _noise(self, step: int) -> list[int] | None:
        """Seeds of the forward pass, for models that draw in it (dropout)."""
        if not self.stack.stochastic:
            return None
        return [
            draw(unit.seed.role("noise"), "forward", unit.stage.level, step) for unit in self.units
        ]

    def evaluate(self) -> None:
        """Validate, unless a checkpoint taken at this very step has it already."""
        if self.course.step < self.step:
            self._check_pinned()
            self.course.add(self.step, measure(self.stack, self.batches, "val"))

    def test(self) -> list[dict[str, Any]]:
        """Each replicate's results at its best evaluation and at the end."""
        end = measure(self.stack, self.batches, "test")
        with holding(self.stack, self.course.best, self.course.best_buffers):
            best = measure(self.stack, self.batches, "test")
        return [self.course.results(r, best[r], end[r]) for r in range(len(self.units))]

    def save_checkpoint(self) -> None:
        """Everything that the rest of the training depends on, a file per unit."""
        rows = self._rows()
        for r, unit in enumerate(self.units):
            tensors = {name: tensor[r] for name, tensor in rows.items()}
            about = {**self.course.about(r), "seconds": self.seconds}
            self.store.write_checkpoint(unit.stage.key, unit.seed, self.step, tensors, about)
        for unit in self.units:
            self.store.drop_checkpoints(unit.stage.key, unit.seed, before=self.step)

    def restore(self, step: int) -> None:
        """Continue from the checkpoints of all units at `step`."""
        rows = self._rows()
        for r, unit in enumerate(self.units):
            about, tensors = self.store.read_checkpoint(unit.stage.key, unit.seed, step)
            for name, tensor in rows.items():
                tensor[r] = tensors[name].to(tensor)
            self.course.restore(r, about)
            self.seconds = max(self.seconds, float(about["seconds"]))
        self.step = step

    def _rows(self) -> dict[str, Tensor]:
        """Every tensor of the loop's state, `[R, ...]`, by the name a checkpoint calls it."""
        return {
            "weights": self.stack.weights,
            "mask": self.mask,
            "pinned": self.pinned,
            **{f"buffers/{name}": tensor for name, tensor in self.stack.buffers.items()},
            **{f"optimizer/{name}": tensor for name, tensor in self.optimizer.tensors.items()},
            **self.course.tensors(),
        }

    def _finish(self, results: Sequence[dict[str, Any]]) -> None:
        """Write every ticket; the checkpoint before it makes a torn end repeat with equal bytes."""
        self.save_checkpoint()
        name = torch.cuda.get_device_name if self.device.type == "cuda" else str
        cost = {
            "seconds": round(self.seconds / len(self.units), 3),
            "device": name(self.device),
            "stack_size": len(self.units),
            "lowering": self.stack.lowering,
            "code_version": self.machine.code_version,
        }
        best = self._ticket(self.course.best, self.course.best_buffers)
        last = self._ticket(self.stack.weights, self.stack.buffers)
        for r, unit in enumerate(self.units):
            if "best" in self.moments[r]:
                self._save(r, "best", best)
            self.store.write_cost(unit.stage.key, unit.seed, cost)
            self._save(r, "end", last, metrics=results[r], history=self.course.history[r])

    def _snapshot(self, moment: Moment, optimizer: Mapping[str, Tensor]) -> None:
        """Save the units as they are, where somebody needs this moment."""
        wanted = [r for r, moments in enumerate(self.moments) if moment in moments]
        if wanted:
            ticket = self._ticket(self.stack.weights, self.stack.buffers, optimizer)
            for r in wanted:
                self._save(r, moment, ticket)

    def _save(self, r: int, moment: Moment, stacked: Ticket, **more: Any) -> None:
        ticket, unit = stacked[r], self.units[r]
        about = {
            "level": unit.stage.level,
            "sparsity": float(sparsity(ticket.mask)),
            "layers_remaining": {name: int(n) for name, n in remaining(ticket.mask).items()},
            "layers_total": {layer.name: layer.size for layer in self.layers},
        }
        self.store.write(unit.stage.key, unit.seed, ticket, {**about, **more}, moment)

    def _ticket(
        self,
        weights: Tensor,
        buffers: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor] | None = None,
    ) -> Ticket:
        """The stack as a ticket: `optimizer`'s flat moments under `<moment>/<parameter>`."""
        moments: dict[str, Tensor] = {}
        for name, tensor in (optimizer or {}).items():
            flat = tensor.shape == weights.shape
            views = self.stack.views(tensor) if flat else {}
            moments |= {f"{name}/{each}": view for each, view in views.items()}
            moments |= {} if flat else {name: tensor}
        masks = self.stack.views(self.mask)
        # Where a replicate has diverged, NaN times the mask is NaN in the pruned weights too.
        exact = torch.where(self.mask != 0, weights, self.pinned)
        return Ticket(
            {**self.stack.views(exact), **buffers},
            {layer.name: masks[layer.name] != 0 for layer in self.layers},
            self.step,
            moments,
        )

    def _flat(self, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of what `_ticket` does to the optimizer's tensors."""
        state = {}
        for name, tensor in self.optimizer.tensors.items():
            if tensor.shape == self.stack.weights.shape:
                named = {n: moments[f"{name}/{n}"].to(self.device) for n in self.stack.layout.slots}
                state[name] = self.stack.flat(named)
            else:
                state[name] = moments[name].to(tensor)
        return state

    def _check_pinned(self) -> None:
        """A pruned weight never moves: checked in every run, at every evaluation."""
        moved = (self.stack.weights * (1 - self.mask) != self.pinned).any(1)
        diverged = ~self.stack.weights.isfinite().all(1)
        assert not (moved & ~diverged).any(), f"pruned weights moved by step {self.step}"


def _optimizer(stack: Stack, recipe: Recipe) -> Optimizer:
    decay, name = recipe.weight_decay, recipe.optimizer
    if name == "sgd":
        return Optimizer(
            stack.weights,
            stack.grads,
            optimizer=name,
            weight_decay=decay,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
        )
    return Optimizer(
        stack.weights,
        stack.grads,
        optimizer=name,
        weight_decay=decay,
        betas=recipe.betas,
        eps=recipe.eps,
    )
