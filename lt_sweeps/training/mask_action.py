"""`MaskAction`: a sparsifier at work on a stack, between the forward pass and the optimizer.

What `FixedMask` and `LearnedMask` share. A training loop calls the methods below and does not know
which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.ticket import State, Ticket
from lt_sweeps.training.optimizers import Optimizer, optimizer_of
from lt_sweeps.training.own_optimizer import OwnOptimizer
from lt_sweeps.training.stack import BufferLayout, Stack

_BUFFERS, _REST = "buffers/", "rest/"


class MaskAction:
    """The mask of a stack in training, and the optimizer of `weights` `[R, P]` under it."""

    def __init__(
        self, stack: Stack, units: Sequence[Unit], *, weights: Tensor, grads: Tensor
    ) -> None:
        stage = units[0].stage
        self.stack, self.units, self.recipe = stack, units, stage.training.recipe
        self.layers, self.samples = stage.network.layers, stage.sparsifier.samples
        self.optimizer = optimizer_of(self.recipe, weights, grads, stack.layout)
        # Every tensor that a step changes, `[R, ...]` by the name that a checkpoint calls it.
        buffers = {f"{_BUFFERS}{name}": buffer for name, buffer in stack.buffers.items()}
        self.trained: dict[str, Tensor] = {"weights": weights, **buffers}
        self._untrained = stage.network.untrained
        self._still: tuple[Tensor, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What else a checkpoint holds; a mask of floats, all 0 or 1, is under `mask/`."""
        raise NotImplementedError

    @property
    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Those of `tensors` that only a further step reads."""
        return {f"optimizer/{name}": t for name, t in self.optimizer.tensors.items()}

    @property
    def runs_triton(self) -> bool:
        """Whether a step runs kernels of ours, which round otherwise than torch's."""
        return self.stack.runs_triton

    def begin(self, ticket: Ticket) -> None:
        """Take a ticket's mask; its weights are in the stack."""
        raise NotImplementedError

    def search(self, score: Callable[[int], Sequence[float]]) -> None:
        """Let the sparsifier find a mask, where it searches for one: see `Sparsifier.search`."""

    def ready(self) -> None:
        """Settle what a step must do, before the first one: a captured graph repeats it."""
        self.optimizer.ready()
        if self._untrained:
            weights = self.trained["weights"]
            still = torch.zeros_like(weights, dtype=torch.bool)
            for name in self._untrained:
                self.stack.views(still)[name].fill_(True)
            self._still = still, weights.clone()

    def at(self, step: int) -> None:
        """Set the tensors that a step reads and that a captured graph cannot compute."""

    def rewire(self, step: int) -> None:
        """Let the sparsifier change the mask, where it `acts` at this step."""
        raise AssertionError(f"{type(self).__name__} is not rewired")

    def compute(self) -> None:
        """Compute the stack's weights for the forward pass of a training step."""

    def step(self, lr: float | Tensor) -> None:
        """Update what is trained from the gradients of the stack's weights."""
        raise NotImplementedError

    def put_back(self) -> None:
        """Undo what weight decay, or another optimizer, did to parameters that a module freezes."""
        if self._still is not None:
            still, values = self._still
            weights = self.trained["weights"]
            torch.where(still, values, weights, out=weights)

    def moved(self) -> Tensor:
        """How many weights of each replicate are other than its mask allows, NaN included: `[R]`.

        Computed without waiting for the device; where it is not 0, `check` looks closer.
        """
        return torch.zeros(self.stack.replicates, device=self.stack.device)

    def check(self, step: int) -> None:
        """Assert what must hold of the weights before they are evaluated or stored."""

    def deploy(self, steps: Sequence[int], keys: Sequence[int], *, hard: bool = False) -> None:
        """Compute the stack's weights for an evaluation, each replicate at a step of its own.

        A mask that is drawn is drawn by the `keys`; `hard` asks for the hard mask instead.
        """

    def remaining(self) -> dict[str, Tensor]:
        """How many weights each layer keeps: `[R]`."""
        raise NotImplementedError

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        """The stack as a ticket, with `trained` as it is now, or as it was at another step."""
        raise NotImplementedError

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's moments under `<moment>/<parameter>`, its steps, and all else.

        They are the tensors that it works with, `[R, ...]`.
        """
        return moments_of(self.optimizer, self.stack.layout, rest=_REST)

    def load_moments(self, moments: State) -> None:
        """Go on with the moments of a snapshot within a training.

        Raises: ValueError: they are another optimizer's.
        """
        own = self.moments()
        if own.keys() - moments.keys():
            raise ValueError(
                f"recipe.optimizer: {self.recipe.optimizer} cannot go on with the momentum of "
                "another optimizer, which this method keeps; give both trainings the same"
            )
        for name, tensor in own.items():
            tensor.copy_(moments[name])

    def _clip(self, *named: Mapping[str, Tensor]) -> None:
        """Clip each replicate's gradients, given as `[R, *shape]` by name, as the recipe says."""
        if (clip := self.recipe.clip) is not None:
            for row in range(self.stack.replicates):
                clip(grads={name: grad[row] for grads in named for name, grad in grads.items()})

    def _state(self, weights: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` `[R, P]` and the buffers among `trained`, by their `state_dict` names."""
        buffers = {
            n.removeprefix(_BUFFERS): t for n, t in trained.items() if n.startswith(_BUFFERS)
        }
        return {**self.stack.views(weights), **buffers}

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        views = self.stack.views(flat)
        return {layer.name: views[layer.name] for layer in self.layers}


def moments_of(
    optimizer: Optimizer | OwnOptimizer, layout: BufferLayout, *, of: str = "", rest: str
) -> dict[str, Tensor]:
    """All that an optimizer keeps, by the names that a ticket has for it, which begin with `of`."""
    views = {moment: layout.views(flat) for moment, flat in optimizer.moments.items()}
    named = {f"{of}{m}/{name}": v for m, by_name in views.items() for name, v in by_name.items()}
    others = {f"{rest}{name}": value for name, value in optimizer.rest.items()}
    return {**named, **others, f"{of}step": optimizer.steps}
