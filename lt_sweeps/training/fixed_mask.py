"""`FixedMask`: weights trained in place, under a mask that only a sparsifier changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.sparsifiers import Sparsifier, TrainingState, overrides
from lt_sweeps.storage.ticket import State, Ticket, remaining
from lt_sweeps.storage.ticket_file import MASK
from lt_sweeps.training import own_kernels
from lt_sweeps.training.mask_action import MaskAction
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import Stack

_FEW = 0.1  # density below which it is faster to read only kept weights (`kept_update`)


class FixedMask(MaskAction):
    """Trains the stack's own weights; pruned weights have their pinned values after every step.

    All buffers are `[R, P]`. `mask` is the mask that the training enforces, and `kept` the one in
    its tickets; they are the same tensor unless the sparsifier enforces no mask (`Free`). `pinned`
    holds the values of pruned weights. `left` holds what a sparsifier remembers of pruned weights;
    it is added to the weights before the mask is rewired.
    """

    def __init__(self, stack: Stack, units: Sequence[Unit]) -> None:
        weights, grads = stack.weights, stack.grads
        super().__init__(stack, units, weights=weights, grads=grads)
        self.sparsifier = sparsifier = units[0].stage.sparsifier
        self.mask = self.kept = torch.ones_like(weights)
        if not sparsifier.holds:
            self.kept = torch.ones_like(weights)
        self._mask_bytes: Tensor | None = None  # the mask as bytes, for `update_kept`
        self.pinned = torch.zeros_like(weights)
        remembers = overrides(sparsifier, Sparsifier.remembered)
        self.left = torch.zeros_like(weights) if remembers else None
        self._rewired = overrides(sparsifier, Sparsifier.rewire)
        self._masks = self._pins = self._skips = False
        self._views = stack.views(weights), stack.views(grads)

    @property
    def tensors(self) -> dict[str, Tensor]:
        buffers = {f"{MASK}held": self.mask, "pinned": self.pinned}
        buffers |= {} if self.kept is self.mask else {f"{MASK}kept": self.kept}
        buffers |= {} if self.left is None else {"left": self.left}
        return {**buffers, **self.optimizer_tensors}

    def begin(self, ticket: Ticket) -> None:
        floats = {name: kept.float() for name, kept in ticket.mask.items()}
        self.kept.copy_(self.stack.flat(floats, fill=1.0))
        if self.sparsifier.holds:
            self.pinned.copy_(torch.where(self.mask != 0, 0.0, self.stack.weights))

    def search(self, score: Callable[[int], Sequence[float]]) -> None:
        if not overrides(self.sparsifier, Sparsifier.search):
            return
        dense = self.stack.weights.clone()

        def masked(batches: int) -> Sequence[float]:
            torch.mul(dense, self.mask, out=self.stack.weights)
            return score(batches)

        self.sparsifier.search(self._training_state(), masked)
        self.kept.copy_(self.mask)
        torch.mul(dense, self.mask, out=self.stack.weights)

    def ready(self) -> None:
        super().ready()
        self._masks = self._rewired or bool((self.mask == 0).any())
        self._pins = bool((self.pinned != 0).any())
        self._mask_bytes = self.mask.to(torch.uint8) if self._one_kernel else None
        self._skips = float(self.mask.mean()) < _FEW

    @property
    def runs_triton(self) -> bool:
        return super().runs_triton or self._one_kernel

    @property
    def _one_kernel(self) -> bool:
        """Whether masking, optimizer and pinning run as one Triton kernel (`update_kept`)."""
        ours = isinstance(self.optimizer, Optimizer) and not self.recipe.clip
        masks = self._rewired or bool((self.mask == 0).any())
        return ours and masks and own_kernels.run_on(self.stack.weights)

    def rewire(self, step: int) -> None:
        if self.left is not None:
            self.stack.weights.add_(self.left)
        state = self._training_state()
        self.sparsifier.rewire(state, step, self.recipe)
        self.kept.copy_(self.mask)
        if self._mask_bytes is not None:
            self._mask_bytes.copy_(self.mask)  # in place, because a graph reads it
        if self.left is not None:
            for name, left in self._by_layer(self.left).items():
                left.copy_(self.sparsifier.remembered(state.weights[name], state.mask[name]))
        self.stack.weights.mul_(self.mask)
        self.optimizer.mask_(self.mask)

    def step(self, lr: float | Tensor) -> None:
        self.sparsifier.regularise(*self._views)
        if self._mask_bytes is not None and isinstance(self.optimizer, Optimizer):
            # Imported here, because only torch for Linux comes with triton.
            from lt_sweeps.training.kept_update import update_kept

            flats = self.stack.weights, self.stack.grads, self._mask_bytes
            update_kept(self.optimizer, *flats, lr, skips=self._skips)
            return
        # Our optimizers do not move a pruned weight that is 0: its gradient and its momentum are 0,
        # and weight decay subtracts 0. A weight that is pinned to another value decays, so it is
        # set back to its pinned value.
        if self._masks:
            self.stack.grads.mul_(self.mask)
        self._clip(self._views[1])
        self.optimizer.step(lr)
        if self._masks and not self.optimizer.fused:
            # Other optimizers may change a weight whose gradient is 0: Muon moves it, and dividing
            # by the optimizer's state of such a weight may give NaN.
            torch.where(self.mask != 0, self.stack.weights, self.pinned, out=self.stack.weights)
            self.optimizer.mask_(self.mask)
        elif self._pins:
            torch.addcmul(self.pinned, self.stack.weights, self.mask, out=self.stack.weights)
            if self.recipe.weight_decay:  # weight decay of a pinned value adds to the momentum
                self.optimizer.mask_(self.mask)

    def moved(self) -> Tensor:
        # Three passes of float arithmetic, which on a CPU are nine times as fast as with bools. A
        # kept weight is compared with itself, so it counts only if it is NaN.
        allowed = torch.addcmul(self.pinned, self.stack.weights, self.mask)
        return allowed.ne_(self.stack.weights).sum(1)

    def check(self, step: int) -> None:
        """Assert that no pruned weight has moved; called at every evaluation of every run."""
        if any(self.moved().tolist()):
            moved = (self.stack.weights * (1 - self.mask) != self.pinned).any(1)
            diverged = ~self.stack.weights.isfinite().all(1)
            assert not (moved & ~diverged).any(), f"pruned weights moved by step {step}"

    def remaining(self) -> dict[str, Tensor]:
        return remaining(self._bools())

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        # Not `weights * mask`: if a replicate has diverged, NaN times 0 is NaN in pruned weights.
        exact = torch.where(self.mask != 0, trained["weights"], self.pinned)
        return Ticket(self._state(exact, trained), self._bools(), step)

    def load_moments(self, moments: State) -> None:
        super().load_moments(moments)
        self.optimizer.mask_(self.mask)  # a pruned weight has no momentum

    def _training_state(self) -> TrainingState:
        return TrainingState(
            layers=self.layers,
            weights=self._by_layer(self.stack.weights),
            grads=self._by_layer(self.stack.grads),
            mask=self._by_layer(self.mask),
            moments=tuple(self._by_layer(flat) for flat in self.optimizer.moments.values()),
            seeds=tuple(unit.seed for unit in self.units),
        )

    def _bools(self) -> dict[str, Tensor]:
        return {name: view != 0 for name, view in self._by_layer(self.kept).items()}
