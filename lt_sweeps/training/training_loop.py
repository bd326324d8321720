"""`TrainingLoop`: train a stack of tickets with one recipe, from their step to the recipe's end.

The loop is the schedule of one training; methods and levels are outside of it. Between steps it
evaluates (`Scorer`) and saves snapshots and checkpoints (`UnitFiles`); at the end it tests. A
training that was resumed from a checkpoint ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lt_sweeps.config.seeds import draw
from lt_sweeps.data.batches import EVALUATE_BATCH, Batches
from lt_sweeps.plan.stages import Moment
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.evaluation import Evaluation
from lt_sweeps.training.fixed_mask import FixedMask
from lt_sweeps.training.history import TrainingHistory
from lt_sweeps.training.learned_mask import LearnedMask
from lt_sweeps.training.norm_statistics import measured_anew
from lt_sweeps.training.scoring import Scorer
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss
from lt_sweeps.training.unit_files import UnitFiles

_TELL = 0.2  # seconds between reports of progress
_FEW_IMAGES = 100  # images that go through a convolutional network at once on a CPU


class Interrupted(Exception):
    """The training was asked to stop and did so.

    The steps so far are in a checkpoint; a search for a mask has none and starts again.
    """


class TrainingLoop:
    """One stacked training. All units share the recipe, the task and the step they start from.

    Args:
        moments: the snapshots to save, for each unit.
        progress: called with the current step, at most every 0.2 seconds.
        stopped: called before every step; if True, a checkpoint is saved and `Interrupted` raised.
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
        first = self.stage = units[0].stage
        self.units, self.machine, self.progress, self.stopped = units, machine, progress, stopped
        self.recipe, self.device = first.training.recipe, torch.device(machine.device)
        self.stack = Stack(
            first.network.module(),
            len(units),
            device=self.device,
            backend=machine.backend,
            task_loss=TaskLoss(first.training.task.kind, self.recipe.label_smoothing),
            arithmetic=Arithmetic(first.training.precision, machine.deterministic),
        )
        seeds = [unit.seed for unit in units]
        indices = [unit.stage.batch_index for unit in units]
        dataset = first.training.task.dataset
        self.batches = Batches(dataset, self.recipe, seeds, indices, self.device)
        task = first.training.task
        for targets in self.batches.targets:
            task.kind.check_targets(targets, str(task.call), dataset.classes)
        self.masking = (LearnedMask if first.sparsifier.learns else FixedMask)(self.stack, units)
        self.step, self.end, self.seconds = first.start.step, first.step, 0.0
        self.history = TrainingHistory(self.masking.trained, self.step)
        # On a CPU, convolutions of more images do not fit into the cache: 500 images at once take
        # 1.6 to 1.9 times as long as 100 at a time, with equal bytes (Conv-4, ResNet-20).
        convolves = any(layer.kind == "conv" for layer in first.network.layers)
        few = convolves and self.device.type == "cpu"
        evaluation = Evaluation(
            self.stack,
            self.batches,
            captures=self.captures,
            at_once=_FEW_IMAGES if few else EVALUATE_BATCH,
        )
        self.scorer = Scorer(self.masking, evaluation, self.history)
        self.files = UnitFiles(store, machine, moments, self.masking, self.history)

    def start(self, ticket: Ticket) -> None:
        """Start the training from a ticket of R replicates."""
        self.stack.load({name: t.to(self.device) for name, t in ticket.state.items()})
        self.masking.begin(ticket)
        if ticket.optimizer:
            self.masking.load_moments(ticket.optimizer)
        self.masking.search(self._rewards)
        self._estimate_statistics(self.stage.statistics_batches)
        self.files.snapshot("start", self.step)

    def restore(self, step: int) -> None:
        """Restore the training from the checkpoints of all units at `step`."""
        self.step, self.seconds = step, self.files.read_checkpoint(step)

    def run(self, until: int | None = None) -> None:
        """Train to the end of the recipe, or only to `until` if nothing but snapshots is missing.

        Raises:
            Interrupted: `stopped()` returned True; a checkpoint with the whole state is saved.
        """
        with self.files.written(), _denormals_flushed():
            try:
                self._train(self.end if until is None else until)
            finally:
                self.batches.close()
            if until is None:
                results = self.scorer.results(self.step)
                self._count_seconds()
                self.files.finish(self.step, self.seconds, results)
            self.files.drop_checkpoints()

    def _train(self, end: int) -> None:
        update = self.update() if self.step < end else None
        self._clock = self._saved = self._told = time.monotonic()
        while True:
            self.files.snapshot(self.step, self.step)
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.end:
                self.scorer.validate(self.step)
            if self.step >= end:
                break
            self._pause()
            assert update is not None
            update(self.step)
            self.step += 1

    @property
    def captures(self) -> bool:
        """Whether `update` tries to capture a step as a CUDA graph.

        Not captured are steps that need Python every time: those of models that draw noise, of
        user-defined losses and augmentations, and of optimizers other than our fused ones. Even if
        this is True, `graphed` captures no step in which the host waits for the device.
        """
        fixed = self.masking.optimizer.fused and not isinstance(self.recipe.augment, tuple)
        known = self.stack.task_loss.kind.knows_loss and not self.stack.stochastic
        return self.device.type == "cuda" and known and fixed

    def update(self, *, eager: bool = False) -> Callable[[int], None]:
        """Return the function that takes one step; on a GPU it replays a graph with fixed tensors.

        With `eager`, no graph is captured, and each step runs its Python code.
        """
        # A step does the following. The order matters: the resulting bytes depend on it.
        #   1. `at` writes the values that the step needs from the host (temperature, keys of the
        #      noise) into tensors at fixed addresses, because a captured graph calls no Python.
        #   2. If the sparsifier acts at this step, it rewires the mask, outside of the graph. The
        #      evaluations so far were of another mask, so none of them can be the best any more.
        #      RigL compares the gradients of all weights: it uses the step's batch for them, and
        #      the step ends here (`instead`). GMP looks at weights only, and the update follows
        #      (`before`).
        #   3. In `_optimise`, the mask action computes the stack's weights, the backend computes
        #      their loss and gradients, and the mask action passes the gradients on to the trained
        #      tensors and updates them. This is the part that is captured. All its tensors keep
        #      their addresses, from the batch's index to the sum of losses; images that are not on
        #      the device are copied into such a tensor. A model that draws noise needs new seeds
        #      from the host in every step, so its steps are eager.
        # `ready` is called first, because its decisions are captured with the graph.
        self.masking.ready()
        sparsifier, recipe = self.stage.sparsifier, self.recipe
        optimise = self._replayed() if self.captures and not eager else self._eager

        def update(step: int) -> None:
            self.masking.at(step)
            if when := sparsifier.acts(step, recipe):
                self.history.mask_changed(step)
                if when == "instead":
                    self._gradients(self.batches.batch(step), self._seeds(step))
                self.masking.rewire(step)
                if when == "instead":
                    return
            optimise(step)

        return update

    def _gradients(self, batch: Sequence[Tensor], seeds: list[int] | None = None) -> None:
        self.masking.compute()
        self.history.train_loss.add_(self.stack.loss(*self.batches.take(*batch), seeds))

    def _optimise(
        self, batch: Sequence[Tensor], lr: float | Tensor, seeds: list[int] | None = None
    ) -> None:
        self._gradients(batch, seeds)
        self.masking.step(lr)
        self.masking.put_back()

    def _eager(self, step: int) -> None:
        self._optimise(self.batches.batch(step), self.recipe.lr_at(step), self._seeds(step))

    def _replayed(self) -> Callable[[int], None]:
        # The first batch of an epoch is always full; this step may have the smaller last batch.
        first = self.batches.batch(self.step - self.step % self.recipe.steps_per_epoch)
        batch = [tensor.to(self.device, copy=True) for tensor in first]
        rate = torch.zeros((), device=self.device)
        changed = [*self.masking.trained.values(), *self.masking.tensors.values()]
        changed += [self.history.train_loss, self.stack.weights]
        replay = graphed(
            lambda: self._optimise(batch, rate),
            self.device,
            restore=changed,
            renew=self.stack.renew,
        )

        def replayed(step: int) -> None:
            rate.fill_(self.recipe.lr_at(step))
            chosen = self.batches.batch(step)
            if chosen[0].shape != batch[0].shape:  # an incomplete last batch, if the recipe uses it
                self._optimise(chosen, rate)
            else:
                for tensor, now in zip(batch, chosen, strict=True):
                    tensor.copy_(now, non_blocking=True)
                replay()

        return replayed

    def _seeds(self, step: int) -> list[int] | None:
        """The seeds of the forward pass, for models that draw noise in it (dropout)."""
        if not self.stack.stochastic:
            return None
        return [
            draw(unit.seed.role("noise"), "forward", *unit.stage.noise_index, step)
            for unit in self.units
        ]

    def _pause(self) -> None:
        """Report progress, save a checkpoint if one is due, and stop if asked to."""
        self.files.check()
        now = time.monotonic()
        if now - self._told >= _TELL:
            self.progress(self.step)
            self._told = now
        if (stop := self.stopped()) or now - self._saved >= self.machine.checkpoint_every:
            self._count_seconds()
            self.files.write_checkpoint(self.step, self.seconds)
            self._saved = time.monotonic()
            if stop:
                self.files.wait()
                raise Interrupted(f"stopped at step {self.step}")

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def _rewards(self, batches: int) -> list[float]:
        """The number that a search for a mask maximises, for each replicate.

        It is the main metric on the validation set, negated if lower is better. Batch-norm
        statistics are first estimated from `batches` training batches.
        """
        if self.stopped():
            raise Interrupted("stopped in a search, which restarts from its beginning")
        self.progress(self.step)
        self._estimate_statistics(batches)
        main = self.stage.training.task.kind.main_metric
        sign = -1 if main.lower_is_better else 1
        return [
            score.accuracy or 0.0 if main.is_accuracy else sign * score.metrics[main.name]
            for score in self.scorer.measure("val")
        ]

    def _estimate_statistics(self, batches: int) -> None:
        """Estimate batch-norm statistics from the first training batches only, without training."""
        if not batches:
            return
        lingering = self.stage.network.lingering(batches)
        with measured_anew(self.stack.buffers, lingering, batches):
            for step in range(batches):
                self.masking.at(step)
                self.masking.compute()
                with torch.no_grad():  # a backward pass takes longer than the forward pass
                    inputs, targets = self.batches.take(*self.batches.batch(step))
                    self.stack.loss(inputs, targets, self._seeds(step))


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Round denormal numbers to 0 during a training, and restore the default afterwards.

    The moments of weights without a gradient decay through the denormal numbers, on which a CPU is
    slow: the step of an FC net took 2.2 times as long (measured on MNIST). The default is restored
    because the scores of the next pruning must not depend on whether this process has trained.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
