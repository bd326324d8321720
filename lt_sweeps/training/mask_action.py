"""Masking: a sparsifier at work on a stack, between the optimizer and the forward pass.

`FixedMask` keeps pruned weights where they are pinned; the stack trains in place. `LearnedMask`
computes the stack's weights from raw ones and logits in every step, and leads the gradients back
to both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed, draw
from lt_sweeps.models.network import Layer
from lt_sweeps.sparsity.sparsifiers import LearnedSparsifier, Sparsifier, TrainingState
from lt_sweeps.sparsity.sparsifiers.sparsifier import per_replicate
from lt_sweeps.storage.ticket import Ticket, remaining
from lt_sweeps.training.counter_noise import Noise
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import BufferLayout, Stack


class FixedMask:
    """Weights trained in place; what the mask leaves out is put back after every step."""

    samples = 1

    def __init__(
        self,
        stack: Stack,
        sparsifier: Sparsifier,
        recipe: Recipe,
        layers: Sequence[Layer],
        seeds: Sequence[Seed],
    ) -> None:
        self.stack, self.sparsifier, self.recipe = stack, sparsifier, recipe
        self.layers, self.seeds = tuple(layers), tuple(seeds)
        self.optimizer = optimizer(stack.weights, stack.grads, recipe)
        self.mask = torch.ones_like(stack.weights)
        self.kept = torch.ones_like(stack.weights)  # the ticket's mask, held or not
        self.pinned = torch.zeros_like(stack.weights)
        self.left = torch.zeros_like(stack.weights) if sparsifier.remembers else None
        self._masks = self._pins = False
        self._views = stack.views(stack.weights), stack.views(stack.grads)

    @property
    def trained(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, `[R, ...]` by the name a checkpoint calls it."""
        return {"weights": self.stack.weights, **_buffers(self.stack)}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What else a checkpoint holds."""
        held = {"mask": self.mask, "kept": self.kept, "pinned": self.pinned}
        held |= {} if self.left is None else {"left": self.left}
        return {**held, **{f"optimizer/{n}": t for n, t in self.optimizer.tensors.items()}}

    def begin(self, ticket: Ticket) -> None:
        """Take a ticket's mask; its weights are in the stack."""
        floats = {name: kept.float() for name, kept in ticket.mask.items()}
        self.kept.copy_(self.stack.flat(floats, fill=1.0))
        if self.sparsifier.holds:
            self.mask.copy_(self.kept)
            torch.mul(self.stack.weights, 1 - self.mask, out=self.pinned)

    def ready(self) -> None:
        """Say what a step must do; before the first one, for a captured graph repeats it."""
        self._masks = bool((self.mask == 0).any()) or self.sparsifier.moves
        self._pins = bool((self.pinned != 0).any())

    def at(self, step: int, levels: Sequence[int]) -> None:
        """What a step reads and a captured graph cannot compute: nothing here."""

    def compute(self) -> None:
        """The stack's weights for a forward pass: they are there."""

    def step(self, lr: float | Tensor) -> None:
        """The update of the stack's weights from its gradients."""
        if self.sparsifier.regularises:
            self.sparsifier.regularise(*self._views)
        if self._masks:
            self.stack.grads.mul_(self.mask)
        self.optimizer.step(lr)
        if self._pins:
            torch.addcmul(self.pinned, self.stack.weights, self.mask, out=self.stack.weights)
            if self.recipe.weight_decay:  # it turns a pinned value into momentum
                self.optimizer.mask_(self.mask)

    def rewire(self, step: int) -> None:
        """Let the sparsifier move the mask."""
        if self.left is not None:
            self.stack.weights.add_(self.left)
        self.sparsifier.rewire(self._live(), step, self.recipe)
        self.kept.copy_(self.mask)
        if self.left is not None:
            torch.mul(self.stack.weights, 1 - self.mask, out=self.left)
        self.stack.weights.mul_(self.mask)
        self.optimizer.mask_(self.mask)

    def search(self, score: Callable[[], Sequence[float]]) -> None:
        """Let the sparsifier find the mask, of the weights as they are."""
        dense = self.stack.weights.clone()

        def masked() -> Sequence[float]:
            torch.mul(dense, self.mask, out=self.stack.weights)
            return score()

        self.sparsifier.search(self._live(), masked)
        self.kept.copy_(self.mask)
        torch.mul(dense, self.mask, out=self.stack.weights)

    def _live(self) -> TrainingState:
        flats = [f for f in self.optimizer.tensors.values() if f.shape == self.mask.shape]
        return TrainingState(
            layers=self.layers,
            weights=self._by_layer(self.stack.weights),
            grads=self._by_layer(self.stack.grads),
            mask=self._by_layer(self.mask),
            moments=tuple(self._by_layer(flat) for flat in flats),
            seeds=self.seeds,
        )

    def deploy(self, steps: Sequence[int], keys: Sequence[int], *, hard: bool = False) -> None:
        """The stack's weights for an evaluation: they are there."""

    def remaining(self) -> dict[str, Tensor]:
        """Weights kept in each layer: `[R]`."""
        return remaining(self._bools())

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        """The stack as a ticket: `trained` as it is, or as it was."""
        # Where a replicate has diverged, NaN times the mask is NaN in the pruned weights too.
        exact = torch.where(self.mask != 0, trained["weights"], self.pinned)
        state = {**self.stack.views(exact), **_named_buffers(trained)}
        return Ticket(state, self._bools(), step)

    def check(self, step: int) -> None:
        """A pruned weight never moves: checked in every run, at every evaluation."""
        moved = (self.stack.weights * (1 - self.mask) != self.pinned).any(1)
        diverged = ~self.stack.weights.isfinite().all(1)
        assert not (moved & ~diverged).any(), f"pruned weights moved by step {step}"

    def _bools(self) -> dict[str, Tensor]:
        return {name: view != 0 for name, view in self._by_layer(self.kept).items()}

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        views = self.stack.views(flat)
        return {layer.name: views[layer.name] for layer in self.layers}


class LearnedMask:
    """Raw weights and logits, from which a step's weights are computed; all of the mask is kept."""

    def __init__(
        self,
        stack: Stack,
        sparsifier: LearnedSparsifier,
        recipe: Recipe,
        layers: Sequence[Layer],
        seeds: Sequence[Seed],
    ) -> None:
        self.stack, self.sparsifier, self.recipe = stack, sparsifier, recipe
        self.layers, self.seeds, self.samples = tuple(layers), tuple(seeds), sparsifier.samples
        self.raw, self.grads = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        self.layout = BufferLayout.of_shapes({each.name: sparsifier.shape(each) for each in layers})
        size = (stack.replicates, self.layout.size)
        self.logits = torch.zeros(size, dtype=stack.weights.dtype, device=stack.device)
        self.logit_grads = torch.zeros_like(self.logits)
        self.optimizer = optimizer(self.raw, self.grads, recipe)
        self.logit_optimizer = optimizer(
            self.logits, self.logit_grads, recipe, decay=sparsifier.decay
        )
        self.temperature = torch.ones(stack.replicates, device=stack.device)
        self.noise = Noise(stack.replicates, stack.layout.size, stack.device)
        self._computed: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        # A CPU rounds the ends of a vector otherwise than its middle, and where an end is depends
        # on the replicates beside it: there each is computed by itself.
        rows = range(stack.replicates)
        cpu = stack.device.type == "cpu"
        self._parts = [slice(r, r + 1) for r in rows] if cpu else [slice(None)]
        self._raw, self._out = self._of(self.raw), self._of(stack.weights)
        self._logits, logit_grads = self._of_logits(self.logits), self._of_logits(self.logit_grads)
        self._ways_back = list(
            zip(self._of(stack.grads), self._of(self.grads), logit_grads, strict=True)
        )

    @property
    def trained(self) -> dict[str, Tensor]:
        return {"weights": self.raw, "logits": self.logits, **_buffers(self.stack)}

    @property
    def tensors(self) -> dict[str, Tensor]:
        both = {"optimizer": self.optimizer, "logit_optimizer": self.logit_optimizer}
        return {f"{n}/{name}": t for n, each in both.items() for name, t in each.tensors.items()}

    def begin(self, ticket: Ticket) -> None:
        assert all(bool(kept.all()) for kept in ticket.mask.values()), "a learned mask starts whole"
        self.raw.copy_(self.stack.weights)
        for name, view in self.layout.views(self.logits).items():
            view.copy_(ticket.learned[name])

    def ready(self) -> None:
        """Nothing to prepare: every step does the same."""

    def at(self, step: int, levels: Sequence[int]) -> None:
        """Set the temperature and the noise of a training step."""
        self.temperature.fill_(self.sparsifier.temperature(step, self.recipe))
        if self.sparsifier.draws:
            pairs = zip(self.seeds, levels, strict=True)
            self.noise.seed([draw(s.role("noise"), "sample", level, step) for s, level in pairs])

    def compute(self) -> None:
        """The stack's weights for a training step, remembered for the way back."""
        self.stack.weights.copy_(self.raw)
        with torch.enable_grad():
            self._computed = [
                self._forward(w, logits, out, temperature, noise)
                for w, logits, out, temperature, noise in self._by_layer()
            ]

    def step(self, lr: float | Tensor) -> None:
        """Gradients of the stack's weights, led back to raw weights and logits, and the update."""
        self.grads.copy_(self.stack.grads)
        for (w, logits, out, penalty), (upstream, raw, logit) in zip(
            self._computed, self._ways_back, strict=True
        ):
            outputs = [out] if penalty is None else [out, penalty]
            ahead = [upstream] if penalty is None else [upstream, torch.ones_like(penalty)]
            grads = torch.autograd.grad(outputs, [w, logits], ahead, materialize_grads=True)
            raw.copy_(grads[0])
            logit.copy_(grads[1])
        self._computed = []
        if self.sparsifier.trains_weights:
            self.optimizer.step(lr)
        self.logit_optimizer.step(lr * self.sparsifier.lr_scale)
        for logits in self._logits:
            self.sparsifier.after_step(logits)

    def rewire(self, step: int) -> None:
        raise AssertionError("a learned mask is not rewired")

    @torch.no_grad()
    def deploy(self, steps: Sequence[int], keys: Sequence[int], *, hard: bool = False) -> None:
        """The stack's weights for an evaluation, each replicate at its own step of the recipe."""
        # An evaluation sees the network as the update before it computed it.
        at = [self.sparsifier.temperature(max(step - 1, 0), self.recipe) for step in steps]
        self.temperature.copy_(torch.tensor(at))
        self.noise.seed(keys)
        self.stack.weights.copy_(self.raw)
        for w, logits, out, temperature, noise in self._by_layer():
            out.copy_(
                self.sparsifier.hardened(w, logits)
                if hard
                else self.sparsifier.deployed(w, logits, temperature, noise)
            )

    def remaining(self) -> dict[str, Tensor]:
        """Weights that each layer keeps, or can be expected to: `[R]`, rounded."""
        kept = [
            self.sparsifier.density(w, logits).double().flatten(1).sum(1).round()
            for w, logits in zip(self._raw, self._logits, strict=True)
        ]
        count = len(self._parts)
        return {la.name: torch.cat(kept[i * count :][:count]) for i, la in enumerate(self.layers)}

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        state = {**self.stack.views(trained["weights"]), **_named_buffers(trained)}
        whole = {
            layer.name: torch.ones_like(state[layer.name], dtype=torch.bool)
            for layer in self.layers
        }
        return Ticket(state, whole, step, learned=self.layout.views(trained["logits"]))

    def check(self, step: int) -> None:
        """Nothing is pinned."""

    def _forward(
        self, w: Tensor, logits: Tensor, out: Tensor, temperature: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        w, logits = w.detach().requires_grad_(), logits.detach().requires_grad_()
        computed = self.sparsifier.weights(w, logits, temperature, noise)
        out.copy_(computed.detach())
        return w, logits, computed, self.sparsifier.penalty(w, logits, temperature)

    def _by_layer(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        noise = self.noise.draw() if self.sparsifier.draws else self.raw
        views = zip(self._raw, self._logits, self._out, self._of(noise), strict=True)
        warmth = [self.temperature[part] for part in self._parts] * len(self.layers)
        return [
            (w, logits, out, per_replicate(each, w), drawn)
            for (w, logits, out, drawn), each in zip(views, warmth, strict=True)
        ]

    def _of(self, flat: Tensor) -> list[Tensor]:
        """A `[R, P]` buffer by layer, and within it by what is computed together."""
        views = self.stack.views(flat)
        return [views[layer.name][part] for layer in self.layers for part in self._parts]

    def _of_logits(self, flat: Tensor) -> list[Tensor]:
        views = self.layout.views(flat)
        return [views[layer.name][part] for layer in self.layers for part in self._parts]


Masking = FixedMask | LearnedMask


def masking(
    sparsifier: Sparsifier,
    stack: Stack,
    recipe: Recipe,
    layers: Sequence[Layer],
    seeds: Sequence[Seed],
) -> Masking:
    """What a sparsifier needs to act on a stack."""
    if isinstance(sparsifier, LearnedSparsifier):
        return LearnedMask(stack, sparsifier, recipe, layers, seeds)
    return FixedMask(stack, sparsifier, recipe, layers, seeds)


def optimizer(
    weights: Tensor, grads: Tensor, recipe: Recipe, decay: float | None = None
) -> Optimizer:
    """The recipe's optimizer on any `[R, P]`."""
    options = (
        {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
        if recipe.optimizer == "sgd"
        else {"betas": recipe.betas, "eps": recipe.eps}
    )
    decay = recipe.weight_decay if decay is None else decay
    return Optimizer(weights, grads, optimizer=recipe.optimizer, weight_decay=decay, **options)


def _buffers(stack: Stack) -> dict[str, Tensor]:
    return {f"buffers/{name}": buffer for name, buffer in stack.buffers.items()}


def _named_buffers(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "buffers/"
    return {n.removeprefix(prefix): t for n, t in trained.items() if n.startswith(prefix)}
