"""Training: a stack of tickets through one recipe, from their step to its end.

The loop knows neither methods nor levels. It evaluates on the validation set, remembers each
replicate's best weights, saves the snapshots that somebody needs and a checkpoint now and then; at
the end it tests. A training resumed from a checkpoint ends with the bytes of one left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lt_sweeps.batches import Batches
from lt_sweeps.optimizers import Optimizer
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
    """One stacked training. All units share the recipe, the task and the step they start from."""

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
        self.recipe = first.training.recipe
        self.device = torch.device(machine.device)
        self.stack = Stack(
            first.network.module(), len(units), device=self.device, lowering=machine.lowering
        )
        self.batches = Batches(
            first.training.task.dataset,
            self.recipe,
            [unit.seed for unit in units],
            [unit.stage.level for unit in units],
            self.device,
        )
        recipe, weights = self.recipe, self.stack.weights
        chosen = dict(weight_decay=recipe.weight_decay, optimizer=recipe.optimizer)
        chosen |= (
            dict(momentum=recipe.momentum, nesterov=recipe.nesterov)
            if recipe.optimizer == "sgd"
            else dict(betas=recipe.betas, eps=recipe.eps)
        )
        self.optimizer = Optimizer(weights, self.stack.grads, **chosen)
        self.layers = first.network.layers
        self.mask = torch.ones_like(weights)
        self.pinned = torch.zeros_like(weights)
        self.best = torch.zeros_like(weights)
        self.best_buffers = {name: b.clone() for name, b in self.stack.buffers.items()}
        self.train_loss = torch.zeros(len(units), dtype=weights.dtype, device=self.device)
        self.best_loss = [float("inf")] * len(units)
        self.best_step = [first.start.step] * len(units)
        self.history: list[list[dict[str, float]]] = [[] for _ in units]
        self.seconds = 0.0
        self.step = first.start.step

    def start(self, ticket: Ticket) -> None:
        """Begin from a ticket of R replicates."""
        self.stack.load({n: t.to(self.device) for n, t in ticket.state.items()})
        self.mask = self.stack.flat({n: m.float() for n, m in ticket.mask.items()}, fill=1.0)
        torch.mul(self.stack.weights, 1 - self.mask, out=self.pinned)
        if ticket.optimizer:
            self._load_optimizer(ticket.optimizer)
            self.optimizer.mask_(self.mask)
        self.best.copy_(self.stack.weights)
        for r, wanted in enumerate(self.moments):
            if "start" in wanted:
                self._save(r, "start", self._ticket(self.stack.weights, self.stack.buffers))

    def run(self, until: int | None = None) -> None:
        """Train to the end of the recipe, or to `until` where only snapshots are missing.

        Raises:
            Interrupted: `stopped()` turned true; the checkpoint holds everything.
        """
        # Moments of weights that get no gradient decay through the denormal numbers, on which a
        # CPU is slow: the step of an FC net took 2.2 times as long (measured on MNIST).
        torch.set_flush_denormal(True)
        end = self.recipe.length if until is None else until
        update = self._compiled()
        clock = saved = told = time.monotonic()
        while True:
            self._snapshot()
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.length:
                self._evaluate()
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
            results = self._test()
            self.seconds += time.monotonic() - clock
            self._finish(results)

    def _compiled(self) -> Callable[[int], None]:
        """The update of one step; on a GPU a replayed graph, fed through two static tensors."""
        index = torch.empty_like(self.batches.index(self.step))
        rate = torch.zeros((), device=self.device)
        masked, held = bool((self.mask == 0).any()), bool((self.pinned != 0).any())
        clean = held and self.recipe.weight_decay > 0
        stack, optimizer = self.stack, self.optimizer

        def body(chosen: Tensor, lr: float | Tensor, seeds: list[int] | None = None) -> None:
            losses = stack.loss(*self.batches.take(chosen), seeds)
            self.train_loss.add_(losses)
            if masked:
                stack.grads.mul_(self.mask)
            optimizer.step(lr)
            if held:
                torch.addcmul(self.pinned, stack.weights, self.mask, out=stack.weights)
            if clean:  # decay of a pinned non-zero value would build up momentum
                optimizer.mask_(self.mask)

        def eager(step: int) -> None:
            body(self.batches.index(step), self.recipe.lr_at(step), self._noise(step))

        if self.device.type != "cuda" or stack.stochastic:
            return eager
        changed = [stack.weights, self.train_loss, *stack.buffers.values(), *optimizer.tensors.values()]
        index.copy_(self.batches.index(self.step))
        replay = graphed(lambda: body(index, rate), self.device, restore=changed)

        def replayed(step: int) -> None:
            chosen = self.batches.index(step)
            if chosen.shape != index.shape:
                return body(chosen, rate.fill_(self.recipe.lr_at(step)))
            index.copy_(chosen)
            rate.fill_(self.recipe.lr_at(step))
            replay()

        return replayed

    def _noise(self, step: int) -> list[int] | None:
        """Seeds of the forward pass, for models that draw in it (dropout)."""
        if not self.stack.stochastic:
            return None
        return [
            draw(unit.seed.role("noise"), "forward", unit.stage.level, step) for unit in self.units
        ]

    def _snapshot(self) -> None:
        if any(self.step in wanted for wanted in self.moments):
            ticket = self._ticket(
                self.stack.weights, self.stack.buffers, optimizer=self.optimizer.state()
            )
            for r, wanted in enumerate(self.moments):
                if self.step in wanted:
                    self._save(r, self.step, ticket)

    def _evaluate(self) -> None:
        if self.history[0] and self.history[0][-1]["step"] >= self.step:
            return  # a checkpoint taken at this very step has it already
        self._check_pinned()
        found = self._measure("val", self.stack.weights, self.stack.buffers)
        past = self.history[0][-1]["step"] if self.history[0] else self.step
        train = (self.train_loss / max(1, self.step - past)).tolist()
        better = []
        for r, (loss, accuracy, _) in enumerate(found):
            row = {"step": self.step, "val_loss": loss, "val_accuracy": accuracy}
            self.history[r].append(row | {"train_loss": train[r]})
            if loss < self.best_loss[r]:
                self.best_loss[r], self.best_step[r] = loss, self.step
                better.append(r)
        for r in better:
            self.best[r] = self.stack.weights[r]
            for name, buffer in self.best_buffers.items():
                buffer[r] = self.stack.buffers[name][r]
        self.train_loss.zero_()

    def _measure(
        self, split: str, weights: Tensor, buffers: dict[str, Tensor]
    ) -> list[tuple[float, float, bool]]:
        """Loss, accuracy and whether one class is always predicted, per replicate."""
        swap = weights is not self.stack.weights
        if swap:
            kept = (self.stack.weights.clone(), {n: b.clone() for n, b in buffers.items()})
            self._put(weights, buffers)
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        loss = torch.zeros(len(self.units), dtype=torch.float64, device=self.device)
        right, counts = loss.clone(), None
        for x, y in self.batches.evaluation(split):
            logits = self.stack.logits(x)
            each = y.expand(len(logits), -1)
            loss += cross_entropy(logits.mT, each, reduction="none").double().sum(1)
            predicted = logits.argmax(2)
            right += (predicted == each).double().sum(1)
            seen = torch.nn.functional.one_hot(predicted, logits.shape[2]).sum(1)
            counts = seen if counts is None else counts + seen
            count += len(y)
        if swap:
            self._put(*kept)
        assert counts is not None
        one_class = (counts > 0).sum(1) == 1
        return list(
            zip((loss / count).tolist(), (right / count).tolist(), one_class.tolist(), strict=True)
        )

    def _put(self, weights: Tensor, buffers: dict[str, Tensor]) -> None:
        self.stack.weights.copy_(weights)
        for name, buffer in buffers.items():
            self.stack.buffers[name].copy_(buffer)

    def _test(self) -> list[dict[str, Any]]:
        """Each replicate's results at its best evaluation and at the end."""
        end = self._measure("test", self.stack.weights, self.stack.buffers)
        best = self._measure("test", self.best, self.best_buffers)
        finite = self.stack.weights.isfinite().all(1).tolist()
        results = []
        for r in range(len(self.units)):
            last = self.history[r][-1]
            at_best = next(h for h in self.history[r] if h["step"] == self.best_step[r])
            results.append(
                {
                    "finite": finite[r] and last["val_loss"] == last["val_loss"],
                    "best_step": self.best_step[r],
                    **_named("best", at_best, best[r]),
                    **_named("end", last, end[r]),
                }
            )
        return results

    def _finish(self, results: list[dict[str, Any]]) -> None:
        """Write every ticket; the checkpoint before it makes a torn end repeat with equal bytes."""
        self.save_checkpoint()
        best = self._ticket(self.best, self.best_buffers)
        last = self._ticket(self.stack.weights, self.stack.buffers)
        cost = {
            "seconds": round(self.seconds / len(self.units), 3),
            "device": _name(self.device),
            "stack_size": len(self.units),
            "lowering": self.stack.lowering,
            "code_version": self.machine.code_version,
        }
        for r, unit in enumerate(self.units):
            if "best" in self.moments[r]:
                self._save(r, "best", best)
            self.store.write_cost(unit.stage.key, unit.seed, cost)
            self._save(r, "end", last, metrics=results[r], history=self.history[r])
        for unit in self.units:
            self.store.drop_checkpoints(unit.stage.key, unit.seed)

    def save_checkpoint(self) -> None:
        """Everything that the rest of the training depends on, a file per unit."""
        rows = self._rows()
        for r, unit in enumerate(self.units):
            self.store.write_checkpoint(
                unit.stage.key,
                unit.seed,
                self.step,
                {name: tensor[r] for name, tensor in rows.items()},
                {
                    "history": self.history[r],
                    "best_loss": self.best_loss[r] if self.best_loss[r] < float("inf") else None,
                    "best_step": self.best_step[r],
                    "seconds": self.seconds,
                    "layout": list(self.stack.layout.slots),
                },
            )
        for unit in self.units:
            self.store.drop_checkpoints(unit.stage.key, unit.seed, before=self.step)

    def restore(self, step: int) -> None:
        """Continue from the checkpoints of all units at `step`."""
        rows = self._rows()
        for r, unit in enumerate(self.units):
            about, tensors = self.store.read_checkpoint(unit.stage.key, unit.seed, step)
            for name, tensor in rows.items():
                tensor[r] = tensors[name].to(tensor)
            self.history[r] = json.loads(about["history"])
            loss = json.loads(about["best_loss"])
            self.best_loss[r] = float("inf") if loss is None else loss
            self.best_step[r] = int(about["best_step"])
            self.seconds = max(self.seconds, float(about["seconds"]))
        self.step = step

    def _rows(self) -> dict[str, Tensor]:
        """Every tensor of the loop's state, `[R, ...]`, by the name a checkpoint calls it."""
        return {
            "weights": self.stack.weights,
            "mask": self.mask,
            "pinned": self.pinned,
            "best": self.best,
            "train_loss": self.train_loss,
            **{f"buffers/{name}": tensor for name, tensor in self.stack.buffers.items()},
            **{f"best_buffers/{name}": tensor for name, tensor in self.best_buffers.items()},
            **{f"optimizer/{name}": tensor for name, tensor in self.optimizer.tensors.items()},
        }

    def _ticket(
        self,
        weights: Tensor,
        buffers: dict[str, Tensor],
        optimizer: dict[str, Tensor] | None = None,
    ) -> Ticket:
        masks = self.stack.views(self.mask)
        moments: dict[str, Tensor] = {}
        for name, flat in (optimizer or {}).items():
            if flat.shape == weights.shape:
                moments |= {f"{name}/{n}": view for n, view in self.stack.views(flat).items()}
            else:
                moments[name] = flat
        return Ticket(
            {**self.stack.views(weights), **buffers},
            {layer.name: masks[layer.name] != 0 for layer in self.layers},
            self.step,
            moments,
        )

    def _load_optimizer(self, moments: Any) -> None:
        state = {}
        for name, tensor in self.optimizer.tensors.items():
            if tensor.shape == self.stack.weights.shape:
                named = {n: moments[f"{name}/{n}"].to(self.device) for n in self.stack.layout.slots}
                state[name] = self.stack.flat(named)
            else:
                state[name] = moments[name].to(tensor)
        self.optimizer.load_state(state)

    def _save(self, r: int, moment: Moment, stacked: Ticket, **more: Any) -> None:
        ticket, unit = stacked[r], self.units[r]
        left = {name: int(kept) for name, kept in remaining(ticket.mask).items()}
        about = {
            "level": unit.stage.level,
            "sparsity": float(sparsity(ticket.mask)),
            "layers_remaining": left,
            "layers_total": {layer.name: layer.size for layer in self.layers},
        }
        self.store.write(unit.stage.key, unit.seed, ticket, {**about, **more}, moment)

    def _check_pinned(self) -> None:
        """A pruned weight never moves: checked in every run, at every evaluation."""
        moved = (self.stack.weights * (1 - self.mask) != self.pinned).any(1)
        diverged = ~self.stack.weights.isfinite().all(1)
        assert not (moved & ~diverged).any(), f"pruned weights moved by step {self.step}"


def _named(when: str, at: dict[str, float], test: tuple[float, float, bool]) -> dict[str, Any]:
    return {
        f"{when}_val_loss": at["val_loss"],
        f"{when}_val_accuracy": at["val_accuracy"],
        f"{when}_test_loss": test[0],
        f"{when}_test_accuracy": test[1],
        f"{when}_one_class": test[2],
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
