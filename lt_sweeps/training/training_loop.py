"""Training: a stack of tickets through one recipe, from their step to its end.

The loop knows neither methods nor levels. It evaluates on the validation set, remembers each
replicate's best weights, saves the snapshots that somebody needs and a checkpoint now and then; at
the end it tests. A training resumed from a checkpoint ends with the bytes of one left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import draw
from lt_sweeps.data.batches import Batches
from lt_sweeps.plan.stages import Evaluate, Moment, Search
from lt_sweeps.plan.unit import Machine, Unit
from lt_sweeps.sparsity.sparsifiers import Amc
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.evaluation import Score, mean, measure
from lt_sweeps.training.history import TrainingHistory
from lt_sweeps.training.mask_action import FixedMask, masking
from lt_sweeps.training.stack import Stack, graphed

_TELL = 0.2  # seconds between reports of progress


class Interrupted(Exception):
    """The training was asked to stop; its checkpoint is saved."""


class TrainingLoop:
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
            first.network.module(),
            len(units),
            device=self.device,
            backend=machine.backend,
            smoothing=self.recipe.label_smoothing,
        )
        seeds, self.levels = [u.seed for u in units], [u.stage.level for u in units]
        dataset = first.training.task.dataset
        self.batches = Batches(dataset, self.recipe, seeds, self.levels, self.device)
        self.masking = masking(first.sparsifier, self.stack, self.recipe, self.layers, seeds)
        self.step, self.end, self.seconds = first.start.step, first.step, 0.0
        self.course = TrainingHistory(self.masking.trained, self.step)

    def start(self, ticket: Ticket) -> None:
        """Begin from a ticket of R replicates."""
        self.stack.load({name: t.to(self.device) for name, t in ticket.state.items()})
        self.masking.begin(ticket)
        if ticket.optimizer:
            self._continue(ticket.optimizer)
        if self.masking.sparsifier.searches:
            self._search()
        self._estimate()
        self.course = TrainingHistory(self.masking.trained, self.step)
        self._snapshot("start")

    def run(self, until: int | None = None) -> None:
        """Train to the end of the recipe, or to `until` where only snapshots are missing.

        Raises:
            Interrupted: `stopped()` turned true; the checkpoint holds everything.
        """
        # Moments of weights that get no gradient decay through the denormal numbers, on which a
        # CPU is slow: the step of an FC net took 2.2 times as long (measured on MNIST).
        torch.set_flush_denormal(True)
        end = self.end if until is None else until
        update = self.update() if self.step < end else None
        clock = saved = told = time.monotonic()
        while True:
            self._snapshot(self.step)
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.end:
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
            assert update is not None
            update(self.step)
            self.step += 1
        if until is None:
            results = self.test()
            self.seconds += time.monotonic() - clock
            self._finish(results)
        for unit in self.units:
            self.store.drop_checkpoints(unit.stage.key, unit.seed)

    def update(self) -> Callable[[int], None]:
        """The update of one step; on a GPU a replayed graph, fed through static tensors."""
        self.masking.ready()
        stack, masks, losses = self.stack, self.masking, self.course.train_loss

        def gradients(index: Tensor, seeds: list[int] | None = None) -> None:
            masks.compute()
            losses.add_(stack.loss(*self.batches.take(index), seeds))

        def body(index: Tensor, lr: float | Tensor) -> None:
            gradients(index)
            masks.step(lr)

        def eager(step: int) -> None:
            gradients(self.batches.index(step), self._noise(step))
            masks.step(self.recipe.lr_at(step))

        graph = self.device.type == "cuda" and not (stack.stochastic or self.batches.sent)
        update = self._replayed(body) if graph else eager

        def whole(step: int) -> None:
            masks.at(step, self.levels)
            if masks.sparsifier.acts(step, self.recipe):
                self.course.forget(step)
                if masks.sparsifier.replaces_step:
                    gradients(self.batches.index(step), self._noise(step))
                    return masks.rewire(step)
                masks.rewire(step)
            return update(step)

        plain = not (masks.sparsifier.moves or masks.sparsifier.learns)
        return update if plain else whole

    def _replayed(self, body: Callable[[Tensor, Tensor], None]) -> Callable[[int], None]:
        index = self.batches.index(0).clone()  # a full batch, which the step may not have
        rate = torch.zeros((), device=self.device)
        changed = [*self.masking.trained.values(), *self.masking.tensors.values()]
        changed += [self.course.train_loss, self.stack.weights]
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
            self.masking.check(self.step)
            self.masking.deploy([self.step] * len(self.units), self._keys("validate", self.step))
            self.course.add(self.step, measure(self.stack, self.batches, "val"))

    def test(self) -> list[dict[str, Any]]:
        """Each replicate's results at its best evaluation and at the end."""
        best = end = self._tested([self.step] * len(self.units))
        hard = self._hardened()
        if any(step != self.step for step in self.course.best_step):
            with self.course.at_best():
                best = self._tested(self.course.best_step)
        return [
            {**self.course.results(r, best[r], end[r]), **hard[r]} for r in range(len(self.units))
        ]

    def _tested(self, steps: Sequence[int]) -> list[Score]:
        """On the test set: the mean over as many networks as the masking draws for it."""
        scores = []
        for sample in range(self.masking.samples):
            self.masking.deploy(steps, self._keys("test", self.step, sample))
            scores.append(measure(self.stack, self.batches, "test"))
        return mean(scores)

    def _hardened(self) -> list[dict[str, float]]:
        """Accuracies under the hard mask, where the mask is learned and may be soft."""
        if not self.masking.sparsifier.learns:
            return [{} for _ in self.units]
        steps = [self.step] * len(self.units)
        self.masking.deploy(steps, self._keys("test", self.step), hard=True)
        splits = {s: measure(self.stack, self.batches, s) for s in ("val", "test")}
        return [
            {f"hard_{split}_accuracy": scores[r].accuracy for split, scores in splits.items()}
            for r in range(len(self.units))
        ]

    def _keys(self, purpose: str, *index: int) -> list[int]:
        """What a learned mask is drawn by in an evaluation."""
        return [draw(unit.seed.role("noise"), purpose, *index) for unit in self.units]

    def _search(self) -> None:
        """Find a mask by trying masks out on the validation set."""
        assert isinstance(self.masking, FixedMask) and isinstance(self.masking.sparsifier, Amc)
        batches = self.masking.sparsifier.recalibrate

        def score() -> list[float]:
            if self.stopped():
                raise Interrupted("stopped in a search, which starts anew")
            self.progress(self.step)
            self._normalise(batches)
            return [each.accuracy for each in measure(self.stack, self.batches, "val")]

        self.masking.search(score)

    def _estimate(self) -> None:
        """Batch-norm statistics of a network that is scored as it is, from training batches."""
        stage = self.units[0].stage
        if isinstance(stage, Evaluate) and stage.network.normalised:
            self._normalise(stage.statistics)

    def _normalise(self, batches: int) -> None:
        for step in range(batches):
            self.masking.at(step, self.levels)
            self.masking.compute()
            self.stack.loss(*self.batches.take(self.batches.index(step)), self._noise(step))

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
        return {**self.masking.trained, **self.masking.tensors, **self.course.tensors()}

    def _finish(self, results: Sequence[dict[str, Any]]) -> None:
        """Write every ticket; the checkpoint before it makes a torn end repeat with equal bytes."""
        self.save_checkpoint()
        name = torch.cuda.get_device_name if self.device.type == "cuda" else str
        cost = {
            "seconds": round(self.seconds / len(self.units), 3),
            "device": name(self.device),
            "stack_size": len(self.units),
            "backend": self.stack.backend,
            "code_version": self.machine.code_version,
        }
        first = self.units[0].stage
        scored = isinstance(first, Evaluate) and not isinstance(first, Search)
        best, last = (self.masking.ticket(t, self.step) for t in (self.course.best, self._now))
        for r, unit in enumerate(self.units):
            if "best" in self.moments[r]:
                self._save(r, "best", best)
            self.store.write_cost(unit.stage.key, unit.seed, cost)
            about = {"metrics": results[r], "history": self.course.history[r]}
            self._save(r, "end", last, empty=scored, **about)

    @property
    def _now(self) -> dict[str, Tensor]:
        return self.masking.trained

    def _snapshot(self, moment: Moment) -> None:
        """Save the units as they are, where somebody needs this moment."""
        wanted = [r for r, moments in enumerate(self.moments) if moment in moments]
        if wanted:
            ticket = self.masking.ticket(self._now, self.step)
            if moment != "start":
                ticket = replace(ticket, optimizer=self._moments())
            for r in wanted:
                self._save(r, moment, ticket)

    def _save(
        self, r: int, moment: Moment, stacked: Ticket, *, empty: bool = False, **more: Any
    ) -> None:
        """Store one unit's ticket; an `empty` one tells of a network that can be made again."""
        unit, left = self.units[r], self.masking.remaining()
        total = {layer.name: layer.size for layer in self.layers}
        about = {
            "level": unit.stage.level,
            "sparsity": 1 - sum(int(n[r]) for n in left.values()) / sum(total.values()),
            "layers_remaining": {name: int(n[r]) for name, n in left.items()},
            "layers_total": total,
        }
        ticket = Ticket({}, {}, stacked.step) if empty else stacked[r]
        self.store.write(unit.stage.key, unit.seed, ticket, {**about, **more}, moment)

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's flat moments, `[R, P]`, under `<moment>/<parameter>`."""
        moments: dict[str, Tensor] = {}
        for name, tensor in self.masking.optimizer.tensors.items():
            flat = tensor.shape == self.stack.weights.shape
            views = self.stack.views(tensor) if flat else {}
            moments |= {f"{name}/{each}": view for each, view in views.items()}
            moments |= {} if flat else {name: tensor}
        return moments

    def _continue(self, moments: Mapping[str, Tensor]) -> None:
        """Go on with a snapshot's moments: a pruned weight has none."""
        state, optimizer = {}, self.masking.optimizer
        for name, tensor in optimizer.tensors.items():
            if tensor.shape == self.stack.weights.shape:
                named = {n: moments[f"{name}/{n}"].to(self.device) for n in self.stack.layout.slots}
                state[name] = self.stack.flat(named)
            else:
                state[name] = moments[name].to(tensor)
        optimizer.load_state(state)
        if isinstance(self.masking, FixedMask):
            optimizer.mask_(self.masking.mask)
